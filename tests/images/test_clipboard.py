"""The clipboard, read through programs of a desktop that stand in for the real ones on PATH."""

import io
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from flux_mcp.errors import ClipboardError, InvalidImageError
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.images import clipboard
from flux_mcp.images.clipboard import Pasted, read_clipboard
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.schemas import EditRequest
from flux_mcp.service import inputs
from flux_mcp.service.image_models import ImageModels
from flux_mcp.service.inputs import Incoming, InputReader
from flux_mcp.settings.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="xclip and wl-paste are of Linux")

MAX_PIXELS = 10_000

Fake = Callable[[str, str], Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Return what puts a program on an otherwise empty PATH, on a desktop of X11."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def put(name: str, body: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return put


def holding(tmp_path: Path, image: Image.Image, form: str = "PNG", **options: object) -> str:
    """Return the body of a program that hands over an image."""
    path = tmp_path / f"copied.{form.lower()}"
    image.save(path, form, **options)
    return f'echo "$@" > "{tmp_path}/asked"\nexec /bin/cat "{path}"'


@pytest.fixture
def image() -> Image.Image:
    return Image.linear_gradient("L").resize((80, 64)).convert("RGB")


@pytest.mark.parametrize(
    ("program", "variable"), [("xclip", "DISPLAY"), ("wl-paste", "WAYLAND_DISPLAY")]
)
def test_the_image_in_the_clipboard_is_read(
    fake: Fake,
    tmp_path: Path,
    image: Image.Image,
    program: str,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "wayland-0" if program == "wl-paste" else ":0")
    fake(program, holding(tmp_path, image))
    pasted = read_clipboard(MAX_PIXELS)
    assert (pasted.width, pasted.height, pasted.files) == (80, 64, ())
    assert pasted.png is not None
    assert Image.open(io.BytesIO(pasted.png)).convert("RGB").tobytes() == image.tobytes()
    assert "image" in (tmp_path / "asked").read_text()


def test_a_photograph_keeps_how_it_is_turned(
    fake: Fake, tmp_path: Path, image: Image.Image
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    fake("xclip", holding(tmp_path, image, "JPEG", exif=turned))
    pasted = read_clipboard(MAX_PIXELS)
    assert pasted.png is not None
    assert Image.open(io.BytesIO(pasted.png)).getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("body", "says", "hint"),
    [
        ('echo "Error: target image/png not available" >&2; exit 1', "no image", "Copy the image"),
        ("echo hello", "no image", "Copy the image"),
        ('echo "Error: Can\'t open display: :0" >&2; exit 1', "open display", "give its path"),
        ("exit 3", "xclip error", "give its path"),
        ("kill -9 $$", "xclip error", "give its path"),
        ("exec /bin/head -c 300000 /dev/urandom", "no image", "Copy the image"),
    ],
)
def test_a_clipboard_without_an_image_says_what_it_has(
    fake: Fake, body: str, says: str, hint: str
) -> None:
    fake("xclip", body)
    with pytest.raises(ClipboardError, match=says) as refused:
        read_clipboard(MAX_PIXELS)
    assert hint in refused.value.hint
    assert "0x" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "package"), [("DISPLAY", "xclip"), ("WAYLAND_DISPLAY", "wl-clipboard")]
)
def test_a_missing_program_is_named_with_its_package(
    fake: Fake, variable: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fake
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(ClipboardError, match="no program") as neither:
        read_clipboard(MAX_PIXELS)
    assert "wl-clipboard (Wayland) or xclip (X11)" in neither.value.hint
    monkeypatch.setenv(variable, "there")
    with pytest.raises(ClipboardError, match="no program") as refused:
        read_clipboard(MAX_PIXELS)
    assert f"Install the package {package} " in refused.value.hint


def test_a_server_that_was_given_no_desktop_says_so(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("xclip", 'echo "Error: Can\'t open display: (null)" >&2; exit 1')
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(ClipboardError, match="open display") as refused:
        read_clipboard(MAX_PIXELS)
    assert "without DISPLAY and WAYLAND_DISPLAY" in refused.value.hint


def test_a_program_that_hangs_is_ended_with_all_it_has_started(fake: Fake, tmp_path: Path) -> None:
    # As long as its own start may take, and longer: the program never answers.
    fake("xclip", f'echo $$ > "{tmp_path}/pid"\nexec /bin/sleep 1000')
    with pytest.raises(ClipboardError, match="did not answer within 3 s") as refused:
        read_clipboard(MAX_PIXELS, timeout_s=3)
    assert "give its path" in refused.value.hint
    started = tmp_path / "pid"
    if started.exists():  # on a slow machine it is ended before it has begun
        number = int(started.read_text())
        psutil.wait_procs([psutil.Process(number)] if psutil.pid_exists(number) else [], 10)
        assert not psutil.pid_exists(number)


# --- in a request ------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[Incoming, ...]]:
    """Return what reads the images of an edit, where the clipboard may be read."""
    folder = tmp_path / "Pictures"
    folder.mkdir()
    settings = Settings(
        data_dir=tmp_path / "data", allowed_dirs=(folder,), clipboard=True, max_image_pixels=9000
    )
    reader = InputReader(
        settings, ImageFiles(settings.paths), ImageModels(settings, load_registry())
    )

    def reading(*images: str) -> tuple[Incoming, ...]:
        return reader.read(EditRequest(prompt="a", images=list(images)), {})

    return reading


def test_what_was_copied_is_drawn_from_and_said(
    fake: Fake, tmp_path: Path, image: Image.Image, read: Callable[..., tuple[Incoming, ...]]
) -> None:
    asked = tmp_path / "count"
    fake("xclip", f'echo . >> "{asked}"\n{holding(tmp_path, image)}')
    first, second = read("clipboard", "Clipboard")
    assert first.image.notices == ("clipboard is an image of 80x64.",)
    assert first.image.sha256 == second.image.sha256
    assert asked.read_text() == ".\n", "the same words mean the same image in a request"
    fake("xclip", holding(tmp_path, image.resize((100, 95))))
    with pytest.raises(InvalidImageError, match=r"clipboard is .* more than 9,000 pixels"):
        read("clipboard")
    fake("xclip", holding(tmp_path, image.resize((200, 200))))
    with pytest.raises(ClipboardError, match="exceeds limit"):
        read("clipboard")


def test_copied_files_count_as_paths(
    tmp_path: Path,
    image: Image.Image,
    read: Callable[..., tuple[Incoming, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Windows Pillow returns their names; what is said of them is the same everywhere."""
    inside, outside = tmp_path / "Pictures" / "a.png", tmp_path / "b.png"
    for path in (inside, outside):
        image.save(path)

    def copied(*paths: Path) -> None:
        assert clipboard._pasted({"files": list(map(str, paths))}, b"") == Pasted(files=paths)
        monkeypatch.setattr(inputs, "read_clipboard", lambda _: Pasted(files=paths))

    copied(inside)
    assert read("clipboard")[0].image.notices == ("clipboard is the file 'a.png'.",)
    copied(outside)
    with pytest.raises(Exception, match="outside the folders"):
        read("clipboard")
    copied(inside, outside)
    with pytest.raises(ClipboardError, match="holds 2 files"):
        read("clipboard")
