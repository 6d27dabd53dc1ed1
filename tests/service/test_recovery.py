"""Images without a row: taken back into the gallery or moved aside, and never removed."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flux_mcp.gallery.provenance import from_png
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.requests.lookups import SearchRequest
from flux_mcp.service.recovery import Recovered, Recovery
from flux_mcp.service.service import Service
from flux_mcp.settings.paths import Paths
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import open_database
from tests.models.lora_files import put_striped

pytestmark = pytest.mark.anyio

OLD_DATA = Path(__file__).parents[1] / "data" / "old_data"
IMAGES = 5
DAY_S = 86_400.0


@pytest.fixture
def paths(settings: Settings) -> Paths:
    """A data folder with five images, all of them a day old."""
    shutil.copytree(OLD_DATA, settings.data_dir)
    put_striped(settings.paths.loras)
    age(settings.data_dir)
    return settings.paths


def age(folder: Path) -> None:
    then = time.time() - DAY_S
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def pngs(paths: Paths) -> list[Path]:
    return sorted(paths.images.rglob("*.png"))


async def rows(service: Service) -> dict[str, ImageRecord]:
    found = (await service.gallery.search(SearchRequest(limit=20))).images
    return {image.id: await service.gallery.find_image(image.id) for image in found}


async def opened(settings: Settings, *, recovers: bool = True) -> tuple[Service, Recovered]:
    """A service that only looks, and what a recovery did."""
    service = Service(settings, executes=False)
    await service.open()
    done = Recovered()
    if recovers:
        rooms = service.runtime.rooms
        done = await Recovery(
            service.runtime.files, rooms.gallery, rooms.queue, service.runtime.database
        ).run()
    return service, done


def delete(paths: Paths) -> None:
    for path in paths.root.glob("gallery.sqlite*"):
        path.unlink()


def empty(paths: Paths) -> None:
    delete(paths)
    paths.database.touch()


def fill_with_text(paths: Paths) -> None:
    delete(paths)
    paths.database.write_bytes(b"this is no database, but a note somebody saved here\n" * 100)


def cut_short(paths: Paths) -> None:
    content = paths.database.read_bytes()
    delete(paths)
    paths.database.write_bytes(content[:5000])


@pytest.mark.parametrize("lose", [delete, empty, fill_with_text, cut_short])
async def test_a_lost_database_costs_no_image(
    settings: Settings,
    paths: Paths,
    lose: Callable[[Paths], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, _ = await opened(settings, recovers=False)
    before, files = await rows(service), pngs(paths)
    assert len(before) == len(files) == IMAGES
    await service.close()
    lose(paths)
    lost = paths.database.read_bytes() if paths.database.exists() else b""

    service, done = await opened(settings)
    assert (done.taken_back, done.set_aside) == (IMAGES, [])
    after = await rows(service)
    assert after == before
    assert pngs(paths) == files
    assert "images are taken back from their files" in caplog.text
    aside = [path for path in paths.root.glob("gallery.sqlite.damaged-*") if path.suffix != ".lock"]
    assert [path.read_bytes() for path in aside if not path.name.endswith(("-wal", "-shm"))] == (
        [lost] if lost else []
    )
    # The next start finds nothing to do.
    await service.close()
    service, done = await opened(settings)
    assert (done.taken_back, done.removed) == (0, 0)
    await service.close()


async def test_an_older_copy_of_the_database_gets_the_newer_images_back(
    settings: Settings, paths: Paths
) -> None:
    service, _ = await opened(settings, recovers=False)
    before = await rows(service)
    await service.close()
    missing = sorted(before)[:2]
    database = open_database(paths.database)
    for image_id in missing:
        database.execute("DELETE FROM images WHERE id = ?", [image_id])
    database.execute("UPDATE jobs SET principal = 'ada'")
    database.close()
    (paths.root / before[missing[0]].thumbnail).unlink()

    service, done = await opened(settings)
    assert done.taken_back == 2
    after = await rows(service)
    # Whose an image is, its job tells.
    assert {after[one].principal for one in missing} == {"ada"}
    for one in missing:
        assert after[one].model_copy(update={"principal": "local"}) == before[one]
    with Image.open(paths.root / before[missing[0]].thumbnail) as thumbnail:
        assert thumbnail.format == "WEBP"
    await service.close()


async def test_what_cannot_have_a_row_is_moved_aside_whole(
    settings: Settings, paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    twin, damaged, foreign, renamed = (
        paths.images / "2026/11" / f"img_{name}.png" for name in ("twin", "cut", "alien", "other")
    )
    first = pngs(paths)[0]
    provenance = from_png(first)
    chunks = first.read_bytes().replace(provenance.id.encode(), b"img_twin".ljust(20, b"x"))
    renamed.write_bytes(first.read_bytes())
    damaged.write_bytes(first.read_bytes()[:-2000])
    Image.new("RGB", (8, 8)).save(foreign)
    twin.write_bytes(chunks)  # its checksum is wrong now: damaged in another way
    contents = {path.name: path.read_bytes() for path in (twin, damaged, foreign, renamed)}
    age(paths.images)

    service, done = await opened(settings)
    assert done.taken_back == 0
    assert {path.name: path.read_bytes() for path in done.set_aside} == contents
    assert {path.parent for path in done.set_aside} == {paths.set_aside}
    assert len(pngs(paths)) == IMAGES
    assert caplog.text.count("an image without a row was moved aside") == len(contents)
    await service.close()


async def test_an_image_that_was_drawn_twice_is_kept_beside_the_gallery(
    settings: Settings, paths: Paths
) -> None:
    """A crash between file and row, after which the job was drawn again."""
    service, _ = await opened(settings, recovers=False)
    first = min(await rows(service))
    await service.close()
    database = open_database(paths.database)
    database.execute(
        "UPDATE images SET id = 'img_again', file = 'images/2026/11/img_again.png' WHERE id = ?",
        [first],
    )
    database.close()
    service, done = await opened(settings)
    assert done.taken_back == 0
    assert [path.stem for path in done.set_aside] == [first]
    await service.close()


async def test_only_files_that_nobody_can_miss_are_removed(
    settings: Settings, paths: Paths
) -> None:
    rest = [
        paths.images / "2026/11/.img_half.0a1b2c3d.part",
        paths.images / "2026/11/img_gone.webp",
        paths.uploads / f".{'a' * 64}.0a1b2c3d.part",
        paths.previews / ".job_a.0a1b2c3d.part",
        paths.previews / "job_of-long-ago.webp",
    ]
    paths.uploads.mkdir(exist_ok=True)
    upload = paths.uploads / f"{'a' * 64}.png"
    own = paths.images / "2026/11/holiday.png"
    for path in (*rest, upload, own):
        path.write_bytes(b"x")
    age(paths.root)
    service, done = await opened(settings)
    (waiting,) = [job for job in await service.recent_jobs(9) if job.status == "queued"]
    assert done.removed == len(rest)
    assert [path for path in rest if path.exists()] == []
    assert upload.exists()
    assert own.exists()
    # The preview of a job that has not ended stays, however old it is.
    service.runtime.files.save_preview(waiting.id, b"x")
    age(paths.previews)
    await service.close()
    service, _ = await opened(settings)
    assert service.preview_path(waiting.id).exists()
    await service.close()
