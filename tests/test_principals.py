"""A named principal sees its own jobs and images and no others; whoever is local sees all."""

import asyncio
from pathlib import Path

import pytest

from flux_mcp.errors import (
    FluxMcpError,
    PathNotAllowedError,
    UnknownImageError,
    UnknownJobError,
)
from flux_mcp.principals import LOCAL, acting, acting_as, only
from flux_mcp.requests.lookups import SearchRequest
from flux_mcp.requests.schemas import EditRequest, GenerateRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

pytestmark = pytest.mark.anyio

ASKED = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2, "seed": 5}


async def drawn(service: Service, **changes: object) -> tuple[str, str]:
    """Draw an image; return the ids of its job and of itself."""
    job = await service.submit(GenerateRequest(**{**ASKED, **changes}))
    async for seen in service.watch(job.id, 60):
        job = seen
    assert job.status == "completed"
    return job.id, (await service.describe_job(job)).images[0].id


def test_nobody_named_is_local() -> None:
    assert (acting(), only()) == (LOCAL, None)
    with acting_as("ada"):
        assert (acting(), only()) == ("ada", "ada")
    assert only() is None


async def test_a_task_acts_for_whoever_started_it() -> None:
    async def ask() -> str | None:
        await asyncio.sleep(0)
        return only()

    with acting_as("ada"):
        ada = asyncio.create_task(ask())
    with acting_as("bob"):
        bob = asyncio.create_task(ask())
    assert [await ada, await bob, await ask()] == ["ada", "bob", None]


async def test_jobs_and_images_are_their_principals_alone(shared_service: Service) -> None:
    service = shared_service
    with acting_as("ada"):
        job_id, image_id = await drawn(service, session="both")
        found = await service.gallery.search(SearchRequest(session="both"))
        assert [image.id for image in found.images] == [image_id]
        assert await service.gallery.read_image(image_id)
    for name, sees in (("bob", False), ("ada", True), (LOCAL, True)):
        with acting_as(name):
            images = (await service.gallery.search(SearchRequest(session="both"))).images
            words = (
                await service.gallery.search(SearchRequest(session="both", query="circle"))
            ).images
            assert [len(images), len(words)] == [int(sees)] * 2, name
            for look, missing in (
                (service.find_job(job_id), UnknownJobError),
                (service.look(job_id), UnknownJobError),
                (anext(service.watch(job_id, 0)), UnknownJobError),
                (service.cancel(job_id), UnknownJobError),
                (service.gallery.find_image(image_id), UnknownImageError),
                (service.gallery.read_image(image_id), UnknownImageError),
                (service.gallery.read_thumbnail(image_id), UnknownImageError),
                (
                    service.dry_run(EditRequest(prompt="make it blue", images=(image_id,))),
                    UnknownImageError,
                ),
            ):
                if sees:
                    await look
                else:
                    with pytest.raises(missing):
                        await look


async def test_a_key_belongs_to_its_principal(shared_service: Service) -> None:
    service = shared_service
    asked = GenerateRequest(**ASKED, idempotency_key="the same for both")
    with acting_as("ada"):
        ada = await service.submit(asked)
        assert (await service.submit(asked)).id == ada.id
    with acting_as("bob"):
        bob = await service.submit(asked)
    assert bob.id != ada.id
    assert (ada.principal, bob.principal) == ("ada", "bob")
    async for _ in service.watch(bob.id, 60):
        pass


async def test_a_session_is_cancelled_for_its_principal_only(
    settings: Settings,
) -> None:
    service = Service(settings, executes=False)
    try:
        jobs = {}
        for name in ("ada", "bob"):
            with acting_as(name):
                jobs[name] = await service.submit(GenerateRequest(**ASKED, session="s"))
        with acting_as("ada"):
            assert [line.job_id for line in (await service.describe_queue()).jobs] == [
                jobs["ada"].id
            ]
            assert (await service.describe_queue()).depth == 2
            assert (await service.cancel_session("s")).cancelled == (jobs["ada"].id,)
        assert (await service.find_job(jobs["bob"].id)).status == "queued"
        assert (await service.cancel_session("s")).cancelled == (jobs["bob"].id,)
    finally:
        await service.close()


async def test_a_name_from_elsewhere_reads_no_files_here(tmp_path: Path) -> None:
    picture = tmp_path / "images" / "secret.png"
    picture.parent.mkdir()
    picture.write_bytes(b"not even an image")
    settings = Settings(data_dir=tmp_path / "data", allowed_dirs=(picture.parent,))
    service = Service(settings, executes=False)
    asked = EditRequest(prompt="make it blue", images=(str(picture),))
    try:
        with acting_as("ada"), pytest.raises(PathNotAllowedError, match="data: URI"):
            await service.dry_run(asked)
        with pytest.raises(FluxMcpError, match="invalid_image"):
            await service.dry_run(asked)
    finally:
        await service.close()
