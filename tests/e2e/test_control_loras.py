"""A control LoRA of the user's own, over MCP: one base draws from words and along an image."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.types import TextContent

from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.models.control_lora_files import bfl
from tests.models.lora_files import put_striped, write

from .calls import FAST, SLOW, call, cancel_call_while_drawing, job

pytestmark = pytest.mark.anyio

ROWS = """
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
async def client(
    tmp_path_factory: pytest.TempPathFactory, weights_dir: Path
) -> AsyncIterator[Client]:
    data = tmp_path_factory.mktemp("control") / "data"
    described = weights_dir / "micro" / "text2img" / "transformer" / "config.json"
    config = json.loads(described.read_text(encoding="utf-8"))
    write(data / "weights" / "edges.safetensors", bfl(config, 64))
    write(data / "weights" / "narrow.safetensors", bfl(config, 32))
    put_striped(data / "loras")
    settings = Settings(data_dir=data, weights_dir=weights_dir, allowed_dirs=())
    settings.paths.models.write_text(ROWS, encoding="utf-8")
    service = Service(settings)
    await service.open()
    async with Client(build_server(service)) as client:
        yield client
    await service.close()


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
        ("gone", "[weights_missing] The weights of gone (control) are not on this machine."),
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
