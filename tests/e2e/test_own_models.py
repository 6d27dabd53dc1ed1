"""Models of the user's own draw through the real worker, and what that took is kept.

A control LoRA is one of them: its base draws from words and along an image.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.types import TextContent

from flux_mcp.jobs.measurements import Measurements
from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import open_database
from tests.models.control_lora_files import bfl
from tests.models.lora_files import put_striped, write

from .calls import FAST, SLOW, call, cancel_call_while_drawing, job

pytestmark = pytest.mark.anyio

ROWS = """
[[model]]
id = "mine"
extends = "micro"
kind = "text2img"
folder = '{folder}'

[[model]]
id = "edges"
extends = "micro"
kind = "control"
lora = true
base = "micro"
file = "weights/edges.safetensors"

[[model]]
id = "narrow"
extends = "micro"
kind = "control"
lora = true
base = "micro"
file = "weights/narrow.safetensors"

[[model]]
id = "gone"
extends = "micro"
kind = "control"
lora = true
base = "micro"
file = "weights/gone.safetensors"
"""


@pytest.fixture(scope="module")
async def service(
    tmp_path_factory: pytest.TempPathFactory, weights_dir: Path
) -> AsyncIterator[Service]:
    data = tmp_path_factory.mktemp("own") / "data"
    folder = weights_dir / "micro" / "text2img"
    described = folder / "transformer" / "config.json"
    config = json.loads(described.read_text(encoding="utf-8"))
    write(data / "weights" / "edges.safetensors", bfl(config, 64))
    write(data / "weights" / "narrow.safetensors", bfl(config, 32))
    put_striped(data / "loras")
    settings = Settings(data_dir=data, weights_dir=weights_dir, allowed_dirs=())
    settings.paths.models.write_text(ROWS.format(folder=folder), encoding="utf-8")
    service = Service(settings)
    await service.open()
    yield service
    await service.close()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(service)) as client:
        yield client


async def test_a_model_of_the_users_draws_and_is_learned_from(
    client: Client, service: Service
) -> None:
    asked = {"prompt": "a red circle", "model": "mine", "steps": 4, "seed": 7}
    drawn = await job(client, "flux_generate", **asked)
    assert (drawn.status, drawn.model) == ("completed", "mine")
    stored = await service.find_job(drawn.job_id)
    assert (stored.plan.model, stored.error) == ("mine", None)
    database = open_database(service.settings.paths.database)
    device = database.execute("SELECT device FROM measurements").fetchone()[0]
    (figure,) = [one for one in Measurements(database).of_device(device) if one.model == "mine"]
    database.close()
    assert (figure.kind, figure.precision) == ("text2img", "fp32")
    assert figure.megapixels == pytest.approx(128 * 128 / 1e6)
    assert figure.seconds_per_step == pytest.approx(stored.draw_s / 4)
    assert figure.peak_gib is None


# --- control LoRAs -----------------------------------------------------------------------------


async def test_it_draws_beside_its_base_and_with_loras_of_its_own(client: Client) -> None:
    drawn = (await job(client, "flux_generate", **FAST)).images[0]
    along = {**FAST, "image": drawn.id, "model": "edges"}
    first = (await job(client, "flux_structural", **along)).images[0]
    assert first.model == "edges"
    full = (await job(client, "flux_structural", **{**along, "model": "micro"})).images[0]
    striped = (await job(client, "flux_structural", **along, loras=["striped"])).images[0]
    hashes = {one.pixels_sha256 for one in (drawn, first, full, striped)}
    assert len(hashes) == 4

    again = (await job(client, "flux_generate", **FAST)).images[0]
    assert again.pixels_sha256 == drawn.pixels_sha256
    again = (await job(client, "flux_structural", **along)).images[0]
    assert again.pixels_sha256 == first.pixels_sha256


async def test_a_cancel_leaves_both_as_they_were(client: Client) -> None:
    drawn = (await job(client, "flux_generate", **FAST)).images[0]
    along = {**FAST, "image": drawn.id, "model": "edges"}
    first = (await job(client, "flux_structural", **along)).images[0]
    slow = {key: value for key, value in SLOW.items() if key != "negative_prompt"}
    await cancel_call_while_drawing(
        client, "flux_structural", **{**slow, "image": drawn.id, "model": "edges"}
    )
    again = (await job(client, "flux_structural", **along)).images[0]
    assert again.pixels_sha256 == first.pixels_sha256
    again = (await job(client, "flux_generate", **FAST)).images[0]
    assert again.pixels_sha256 == drawn.pixels_sha256


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("narrow", "[weights_invalid] narrow.safetensors cannot be merged onto micro to draw"),
        ("gone", "[weights_missing] The weights of gone (structure) are not on this machine."),
    ],
)
async def test_what_cannot_be_laid_over_is_refused_before_a_job_is_queued(
    client: Client, model: str, says: str
) -> None:
    drawn = (await job(client, "flux_generate", **FAST)).images[0]
    result = await call(client, "flux_structural", **{**FAST, "image": drawn.id, "model": model})
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.startswith(says)
