"""Who is shown no image is told what it shows, where a model that can say it is on this disk."""

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.types import TextContent
from PIL import Image

from flux_mcp.jobs.analysis import AnalysisProcess
from flux_mcp.jobs.job import Job
from flux_mcp.models.registry import load_registry
from flux_mcp.server.app import build_server
from flux_mcp.server.results import MAX_PREVIEWS
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Licence, Settings
from flux_mcp.worker_protocol.analysis import AnalysisRequest
from tests.e2e.calls import SOMEBODY
from tests.jobs.factories import make_plan_row
from tests.models.hub import put_in_hub_cache
from tests.pipelines.captioner import CAPTIONS, write_captioner
from tests.server.images import complete_job

pytestmark = pytest.mark.anyio

SIZE = (64, 48)
REPOSITORY = load_registry().helpers["florence-2-base"].repository or ""


async def completed(service: Service, *colours: str) -> Job:
    """Return a finished job with images of one colour each."""
    images = [(Image.new("RGB", SIZE, colour).tobytes(), *SIZE) for colour in colours]
    plan = make_plan_row(seeds=tuple(range(len(colours))))
    return await complete_job(service, images, plan=plan)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner")
    write_captioner(folder)
    return folder


@pytest.fixture
def captioner(settings: Settings, written: Path) -> None:
    """A captioner as `models pull` leaves it."""
    snapshot = put_in_hub_cache(settings, REPOSITORY, files=())
    for file in written.iterdir():
        (snapshot / file.name).symlink_to(file)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    service = Service(settings, executes=False)
    await service.open()
    yield service
    await service.close()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(service), client_info=SOMEBODY) as client:
        yield client


async def told(client: Client, job_id: str, preview: str = "none", wait_s: float = 10) -> str:
    """Return the text about a job, which says the colours to whom no image is shown."""
    asked = {"job_id": job_id, "preview": preview, "wait_s": wait_s}
    result = await client.call_tool("flux_get_job", asked)
    assert not result.is_error
    assert result.structured_content is not None
    assert not any("caption" in image for image in result.structured_content["images"])
    assert isinstance(result.content[0], TextContent)
    text = result.content[0].text
    assert ("\nColours: " in text) == (preview == "none")
    return text


def shown(text: str) -> list[str]:
    """Return what is said of the contents of images."""
    lines = re.findall(r"^(?:Shows|What it shows).*", text, re.MULTILINE)
    return [line.removeprefix("Shows (by Florence-2): ") for line in lines]


@pytest.mark.usefixtures("captioner")
async def test_what_images_show_is_told_and_made_once(client: Client, service: Service) -> None:
    job = await completed(service, "red", "blue")
    late = "What it shows is not known yet (Florence-2 looks at it): ask flux_get_job."
    text = await told(client, job.id, wait_s=0)
    assert shown(text) == [late, late]
    with anyio.fail_after(300):  # against waiting for ever
        while late in text:
            text = await told(client, job.id)
    assert shown(text) == [CAPTIONS["red"], CAPTIONS["blue"]]
    assert shown(await told(client, job.id, "small")) == []
    service._image_models.close()
    assert await told(client, job.id, wait_s=0) == text, "nobody is asked again"


@pytest.mark.usefixtures("captioner")
async def test_a_captioner_that_fails_fails_no_answer(
    client: Client, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service._image_models.close()  # it refuses whoever asks
    job = await completed(service, "red")
    with caplog.at_level(logging.WARNING):
        assert shown(await told(client, job.id)) == []
    assert "no caption of an image" in caplog.text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[AnalysisRequest]:
    """What the process that looks at images is asked; it answers nothing."""
    asked: list[AnalysisRequest] = []
    monkeypatch.setattr(AnalysisProcess, "ask", lambda _, request, __: asked.append(request))
    return asked


@pytest.mark.usefixtures("captioner")
@pytest.mark.parametrize(("count", "preview"), [(MAX_PREVIEWS + 1, "none"), (1, "small")])
async def test_nobody_looks_at_images_that_are_shown_or_are_many(
    client: Client, service: Service, asked: list[AnalysisRequest], count: int, preview: str
) -> None:
    job = await completed(service, *["red"] * count)
    assert shown(await told(client, job.id, preview)) == []
    assert asked == []


@pytest.mark.parametrize("licences", [None, ["apache-2.0"]])
async def test_without_a_captioner_that_may_be_used_nobody_is_asked(
    settings: Settings,
    asked: list[AnalysisRequest],
    request: pytest.FixtureRequest,
    licences: list[Licence] | None,
) -> None:
    if licences is not None:  # one is here, and has another
        request.getfixturevalue("captioner")
    service = Service(settings.model_copy(update={"licences": licences}), executes=False)
    await service.open()
    job = await completed(service, "red")
    async with Client(build_server(service), client_info=SOMEBODY) as client:
        assert shown(await told(client, job.id)) == []
    await service.close()
    assert asked == []
