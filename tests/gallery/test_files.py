import hashlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from flux_mcp.errors import InternalError, StorageError
from flux_mcp.gallery import pngs as pngs_module
from flux_mcp.gallery.store import new_image_id

from .images import flat, noise

CREATED = "2026-03-05T10:00:00.000000+00:00"


def save(files, image: Image.Image, image_id: str = "img_a", metadata=None):
    return files.save(image_id, CREATED, image, metadata or {})


def everything_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("make", [noise, flat])
@pytest.mark.parametrize("size", [(640, 360), (32, 32), (1, 2)])
def test_a_saved_image_is_the_same_to_the_pixel(files, paths, make, size):
    image = make(*size)
    saved = save(files, image, metadata={"note": "grün\nzwei"})
    assert saved.file == "images/2026/03/img_a.png"
    assert saved.thumbnail == "images/2026/03/img_a.webp"
    data = files.read(saved.file)
    assert (saved.sha256, saved.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert saved.pixels_sha256 == hashlib.sha256(image.tobytes()).hexdigest()
    read = Image.open(io.BytesIO(data))
    assert read.tobytes() == image.tobytes()
    assert read.info["note"] == "grün\nzwei"
    assert everything_below(paths.images) == ["2026/03/img_a.png", "2026/03/img_a.webp"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 512), (512, 256)), ((300, 900), (171, 512)), ((64, 64), (64, 64))],
)
def test_the_thumbnail_is_at_most_512_px_and_never_enlarged(files, size, expected):
    saved = save(files, flat(*size))
    assert Image.open(io.BytesIO(files.read(saved.thumbnail))).size == expected


def test_flat_graphics_are_compressed_and_photographs_only_coded(files):
    drawn, photographed = (
        save(files, flat(512, 512), "img_a"),
        save(files, noise(512, 512), "img_b"),
    )
    assert drawn.size_bytes < 20_000
    assert photographed.size_bytes < 1.02 * 3 * 512 * 512


def test_the_strategy_is_chosen_by_the_image():
    chosen = {pngs_module._cheapest_strategy(make(256, 256)) for make in (noise, flat)}
    assert len(chosen) == 2
    assert new_image_id()


@pytest.mark.parametrize("image_id", ["../img_a", "img_a/b", "img_", "cat", "img_a.png", ""])
def test_only_our_ids_become_file_names(files, image_id):
    with pytest.raises(InternalError):
        save(files, flat(8, 8), image_id)


def test_an_image_of_another_mode_is_refused(files):
    with pytest.raises(InternalError):
        files.save("img_a", CREATED, Image.new("L", (8, 8)), {})


def test_a_refusing_disk_leaves_nothing_unfinished(files, paths):
    # A folder stands where the PNG should go: the rename fails after everything is written.
    (paths.images / "2026/03/img_a.png/x").mkdir(parents=True)
    with pytest.raises(StorageError):
        save(files, flat(64, 64))
    assert everything_below(paths.images) == ["2026/03/img_a.webp"]


@pytest.mark.parametrize(
    "relative", ["/etc/passwd", "../a.png", "images/../../a.png", "gallery.sqlite", "images2/a.png"]
)
def test_a_path_outside_the_images_folder_is_no_file_of_the_gallery(files, relative):
    with pytest.raises(InternalError):
        files.path_of(relative)


def test_a_missing_file_is_a_storage_error(files):
    with pytest.raises(StorageError, match="cannot be read"):
        files.read("images/2026/01/img_gone.png")


# --- files without a row -----------------------------------------------------------------------


def age(paths, seconds: float) -> None:
    then = time.time() - seconds
    for path in paths.root.rglob("*.*"):
        os.utime(path, (then, then), follow_symlinks=False)


def names(paths) -> list[str]:
    return sorted(path.name for path in paths)


def test_old_files_without_a_row_are_found_and_others_are_not(files, paths):
    kept, lost = save(files, flat(8, 8), "img_kept"), save(files, flat(8, 8), "img_lost")
    folder = paths.images / "2026/03"
    (folder / ".img_half.0a1b2c3d.part").write_bytes(b"half")
    (folder / "img_gone.webp").write_bytes(b"a thumbnail of nothing")
    (folder / "holiday.png").write_bytes(b"the user's own")
    known = {kept.file, kept.thumbnail}
    young = files.without_row("2026/03", known, 3600)
    assert (young.images, young.rest) == ((), ())
    age(paths, 7200)
    found = files.without_row("2026/03", known, 3600)
    assert names(found.images) == ["img_lost.png"]
    assert names(found.rest) == [".img_half.0a1b2c3d.part", "img_gone.webp"]
    assert lost.file == found.images[0].relative_to(paths.root).as_posix()


def test_half_written_uploads_and_previews_are_found(files, paths):
    for part in (
        paths.uploads / f".{'a' * 64}.0a1b2c3d.part",
        paths.previews / ".job_a.0a1b2c3d.part",
    ):
        part.write_bytes(b"half")
    (paths.uploads / f"{'a' * 64}.png").write_bytes(b"whole")
    files.save_preview("job_a", b"whole")
    assert files.unfinished(3600) == ()
    age(paths, 7200)
    assert names(files.unfinished(3600)) == sorted(
        [".job_a.0a1b2c3d.part", f".{'a' * 64}.0a1b2c3d.part"]
    )
    assert list(files.old_previews(3600)) == ["job_a"]


def test_an_image_moved_aside_overwrites_nothing(files, paths):
    for _ in range(2):
        saved = save(files, flat(8, 8), "img_a")
        aside = files.set_aside(paths.root / saved.file)
        assert aside.read_bytes().startswith(b"\x89PNG")
    assert len(everything_below(paths.set_aside)) == 2
    assert everything_below(paths.images) == []


WRITE = """
import sys, time
from pathlib import Path
from PIL import Image
from flux_mcp.settings.paths import Paths
from flux_mcp.gallery import files

paths, at = Paths(Path(sys.argv[1])), sys.argv[2]
def stop():
    print("here", flush=True)
    sys.stdin.read()

if at == "half":
    files.os.fsync = lambda descriptor: stop()
created = "2026-03-05T10:00:00.000000+00:00"
files.ImageFiles(paths).save("img_a", created, Image.new("RGB", (64, 64)), {})
stop()
"""


@pytest.mark.parametrize(("at", "left"), [("half", 1), ("before the row", 2)])
def test_a_killed_process_leaves_files_without_a_row(files, gallery, paths, at, left):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(paths.root), at],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    left_behind = everything_below(paths.images)
    assert len(left_behind) == left
    assert all(name.endswith(".part") for name in left_behind) == (at == "half")
    age(paths, 7200)
    assert files.months() == ("2026/03",)
    found = files.without_row("2026/03", gallery.known_files("2026/03"), 3600)
    assert (len(found.images), len(found.rest)) == ((0, 1) if at == "half" else (1, 0))


ADD_MANY = """
import sys
from pathlib import Path
from PIL import Image
from flux_mcp.settings.paths import Paths
from flux_mcp.storage.database import open_database
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.store import Gallery, ImageRecord, new_image_id

paths = Paths(Path(sys.argv[1]))
template = ImageRecord.model_validate_json(sys.stdin.readline())
gallery, files = Gallery(open_database(paths.database)), ImageFiles(paths)
print("go", flush=True)
for n in range(100_000):
    image_id = new_image_id()
    saved = files.save(image_id, template.created_at, Image.new("RGB", (16, 16)), {})
    facts = {"id": image_id, "job_id": f"job_{n}", **vars(saved)}
    gallery.add(template.model_copy(update=facts))
    print(image_id, flush=True)
"""


def test_whenever_a_process_is_killed_no_row_is_without_its_file(files, gallery, paths, record):
    process = subprocess.Popen(
        [sys.executable, "-c", ADD_MANY, str(paths.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdin.write(record().model_dump_json().encode() + b"\n")
    process.stdin.flush()
    told = [process.stdout.readline() for _ in range(20)][1:]
    process.kill()
    told += [
        line for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    process.communicate(timeout=30)
    (month,) = files.months()
    known = gallery.known_files(month)
    assert known <= {f"images/{name}" for name in everything_below(paths.images)}
    for line in told:
        assert gallery.find(line.decode().strip())
    age(paths, 7200)
    found = files.without_row(month, known, 3600)
    without = {path.relative_to(paths.root).as_posix() for path in (*found.images, *found.rest)}
    with_image = {f"{name[:-3]}webp" for name in without if name.endswith("png")}
    there = {f"images/{name}" for name in everything_below(paths.images)}
    assert there == known | without | with_image


# --- previews of running jobs ------------------------------------------------------------------

ESCAPES = [
    "../job_a",
    "job_a/../../b",
    "/etc/job_a",
    "job_a\0",
    "job_a\n",
    "job_a.b",
    "C:job_a",
    ".",
]


def test_a_preview_is_saved_replaced_and_dropped(files, paths):
    path = files.preview_path("job_a-B_1")
    assert path.parent == paths.previews
    assert not path.exists()
    for preview in (b"early", b"late"):
        files.save_preview("job_a-B_1", preview)
        assert path.read_bytes() == preview
        assert everything_below(paths.previews) == ["job_a-B_1.webp"]
    files.save_preview("job_b", b"another job's")
    for _ in range(2):
        files.drop_preview("job_a-B_1")
        assert everything_below(paths.previews) == ["job_b.webp"]


def test_a_preview_that_cannot_be_written_is_a_storage_error(files, paths):
    files.preview_path("job_a").mkdir()
    with pytest.raises(StorageError):
        files.save_preview("job_a", b"x")
    assert everything_below(paths.previews) == []


@pytest.mark.parametrize("job_id", ["", "job_", "cat", "job_" + "a" * 300, *ESCAPES])
def test_what_is_no_job_of_ours_has_no_preview_and_never_leaves_the_folder(files, paths, job_id):
    files.save_preview("job_a", b"x")
    before = everything_below(paths.root.parent)
    with pytest.raises(InternalError):
        files.save_preview(job_id, b"x")
    path = files.preview_path(job_id)
    assert path.resolve().parent == paths.previews.resolve()
    assert not path.exists()
    files.drop_preview(job_id)
    assert everything_below(paths.root.parent) == before
