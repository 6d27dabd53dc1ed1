"""A data folder that was written before the first release opens with everything that is in it."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from flux_mcp.gallery.provenance import from_png
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.requests.lookups import SearchRequest
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.e2e.clients.transports import until
from tests.jobs.factories import LIGHT_WORKER
from tests.models.lora_files import put_striped

pytestmark = pytest.mark.anyio

OLD_DATA = Path(__file__).parents[1] / "data" / "old_data"
DEADLINE_S = 300
"""A guard against a test that hangs; a loaded machine takes a minute to start a worker."""
PROMPTS = [
    "a blue square on a white background",
    "a large cyan star on a white background in the center",
    "a large green star on a white background in the center",
    "a red circle on a white background",
    "a red circle on a white background",
]


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    """The real service on a copy of the folder; what it draws is not looked at."""
    shutil.copytree(OLD_DATA, settings.data_dir)
    put_striped(settings.paths.loras)
    service = Service(settings, make_fleet=lambda settings: ProcessFleet(settings, LIGHT_WORKER))
    await service.open()
    yield service
    await service.close()


async def ended(service: Service, job: Job) -> Job:
    async for seen in service.watch(job.id, DEADLINE_S):
        if seen.is_final:
            return seen
    raise AssertionError(f"{job.id} did not end in time")


async def test_an_old_data_folder_opens_with_all_that_is_in_it(service: Service) -> None:
    # Jobs. The last two were running and waiting when their processes were killed.
    jobs = (await service.recent_jobs(9))[::-1]
    assert [job.request.get("prompt", "pack") for job in jobs] == [
        PROMPTS[3],
        "pack",
        PROMPTS[0],
        "a green star on a white background",
        "a yellow ring on a black background",
    ]
    assert [job.status for job in jobs[:3]] == ["completed"] * 3
    assert [job.overtakes for job in jobs] == [0] * 5
    (report, _) = jobs[1].composed
    assert (report["pack"], jobs[1].session) == ("micro-shapes", "old")

    # Images: rows, files and what the files say agree.
    found = (await service.gallery.search(SearchRequest(limit=9))).images
    known = {image.id for job in jobs[:3] for image in (await service.describe_job(job)).images}
    assert sorted(image.prompt for image in found if image.id in known) == PROMPTS
    stars = await service.gallery.search(SearchRequest(query="stars", session="old"))
    assert sorted(image.prompt for image in stars.images) == PROMPTS[1:3]
    for image in found:
        row = await service.gallery.find_image(image.id)
        provenance = from_png(Path(image.path))
        facts = provenance.model_dump(exclude={"version", "software"})
        assert row.model_dump(include=set(facts)) == facts
        assert row.render_plan() == provenance.render_plan()
        with Image.open(Path(image.path)) as png:
            assert png.size == (row.width, row.height)
        assert (await service.gallery.read_image(image.id)).startswith(b"\x89PNG")
        assert await service.gallery.read_thumbnail(image.id)

    # What the jobs took, and a download that failed.
    runtime = service.runtime
    costs = await runtime.database.call(runtime.rooms.measurements.costs, "cpu")
    assert costs.draw_s.keys() == {"text2img/micro"}
    (download_id,) = await runtime.database.call(
        lambda: [row["id"] for row in runtime.database._database.query("SELECT id FROM downloads")]
    )
    download = await service.downloads.find(download_id)
    assert (download.status, download.models) == ("failed", ("flux1-schnell",))

    # The interrupted job runs again, then the one that waited behind it.
    interrupted, waiting = [await ended(service, job) for job in jobs[3:]]
    assert (interrupted.status, interrupted.attempt) == ("completed", 2)
    assert (waiting.status, waiting.attempt) == ("completed", 1)
    assert len((await service.describe_job(interrupted)).images) == 8
    await until(lambda: not list(service.settings.paths.previews.iterdir()))

    # And the same request is the same plan as before.
    again = await service.submit(GenerateRequest(**jobs[2].request))
    plans = [job.plan for job in (jobs[2], again)]
    assert plans[0] is not None
    assert plans[0] == plans[1]
