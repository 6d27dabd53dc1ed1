"""What a real worker's model swaps take is stored, and outlives worker and server."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from flux_mcp.jobs.job import Job
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.scheduler import Costs
from flux_mcp.requests.schemas import GenerateRequest, VariationRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import open_database

pytestmark = pytest.mark.anyio

DEADLINE_S = 300
"""A guard against a test that hangs; a loaded machine takes a minute to start a worker."""
SMALL = {"width": 64, "height": 64, "steps": 1, "seed": 1, "model": "micro"}


def image() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


DRAW = GenerateRequest(prompt="a star", **SMALL)
VARY = VariationRequest(images=[image()], **SMALL)


async def drawn(service: Service, job: Job) -> Job:
    async for seen in service.watch(job.id, DEADLINE_S):
        if seen.status == "completed":
            return seen
        assert not seen.is_final, seen.error
    raise AssertionError("the job was not drawn in time")


def kept(path: Path) -> tuple[list[tuple[str, str | None, bool]], Costs]:
    database = open_database(path)
    rows = database.execute(
        "SELECT kind, load_level, load_s > 0 FROM measurements ORDER BY n"
    ).fetchall()
    costs = Measurements(database).costs(None)
    database.close()
    return rows, costs


async def test_a_loaded_pipeline_goes_on_and_what_loading_took_is_kept(settings: Settings) -> None:
    service = Service(settings)
    await service.open()
    # All three are there before the worker is: it takes seconds to start.
    jobs = [await service.submit(request) for request in (DRAW, VARY, DRAW)]
    ended = [await drawn(service, job) for job in jobs]
    worker = service.workers()[0]
    await service.close()

    # Nothing is known of loading redux, so the third job overtook the second.
    assert [job.overtakes for job in ended] == [0, 1, 0]
    assert worker.used == worker.loaded_by_use == ("text2img/micro", "redux/micro")
    rows, costs = kept(settings.paths.database)
    assert rows == [
        ("text2img", "first", True),
        ("text2img", None, None),
        ("redux", "first", True),
    ]
    assert costs.load_s.keys() == costs.draw_s.keys() == {"text2img/micro", "redux/micro"}
