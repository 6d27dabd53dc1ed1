"""The clipboard of this machine: read by Pillow, in a process of its own.

What Pillow calls (xclip, wl-paste, osascript) asks the program that copied, and waits for as long
as that does not answer. A process can be ended then, with all it has started; a thread cannot.

    python -P -m flux_mcp.images.clipboard MAX_PIXELS

writes a line of JSON, which says what there is, and then the image as a PNG, if there is one.
"""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from flux_mcp.errors import ClipboardError
from flux_mcp.settings.environment import desktop

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
_COPY_AGAIN = "Copy the image itself, not its file or its address, and call again."
_OR_A_FILE = "Save the image as a file and give its path."


@dataclass(frozen=True)
class Pasted:
    """What the clipboard holds: an image, or files that were copied in a file manager."""

    png: bytes | None = field(default=None, repr=False)
    width: int = 0
    height: int = 0
    files: tuple[Path, ...] = ()


def read_clipboard(max_pixels: int, timeout_s: float = TIMEOUT_S) -> Pasted:
    """Return what the clipboard holds. Blocks, for `timeout_s` at the most.

    Args:
        max_pixels: Of an image; one of more than twice as many is not decoded at all.
        timeout_s: How long whoever copied has to hand it over.

    Raises:
        ClipboardError: it holds no image, or cannot be read on this machine as it is.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - a fixed command
            [sys.executable, "-P", "-m", __name__, str(max_pixels)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a group of its own, which is ended as a whole
        )
    except OSError as error:
        raise ClipboardError(
            f"The clipboard cannot be read: {error.strerror}.", _OR_A_FILE
        ) from error
    try:
        answer, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ClipboardError(
            f"The clipboard did not answer within {timeout_s:g} s.",
            f"Copy the image again: the program it was copied from may hang. {_OR_A_FILE}",
        ) from error
    finally:
        _end(process)
    head, _, png = answer.partition(b"\n")
    try:
        found = json.loads(head)
    except ValueError:
        logger.warning("reading the clipboard failed: %s", errors.decode(errors="replace")[-2000:])
        found = {"problem": "its reader ended without an answer"}
    return _pasted(found, png)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that still runs, and what it has started."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _pasted(found: dict[str, Any], png: bytes) -> Pasted:
    match found:
        case {"width": int(width), "height": int(height)}:
            return Pasted(png, width, height)
        case {"files": [_, *_] as files}:
            return Pasted(files=tuple(map(Path, files)))
        case {"missing": _}:
            raise ClipboardError(
                "There is no program on this machine that reads the clipboard.", _to_install()
            )
        case {"problem": str(problem)}:
            raise ClipboardError(f"The clipboard cannot be read: {problem}.", _to_set())
    raise ClipboardError("The clipboard holds no image that can be read.", _COPY_AGAIN)


_PACKAGES = {"wayland": "wl-clipboard", "x11": "xclip"}


def _to_install() -> str:
    package = _PACKAGES.get(desktop() or "", "wl-clipboard (Wayland) or xclip (X11)")
    return f"Install the package {package} with the system's package manager. {_OR_A_FILE}"


def _to_set() -> str:
    if sys.platform in ("win32", "darwin") or desktop() is not None:
        return _OR_A_FILE
    return (
        "This server was started without DISPLAY and WAYLAND_DISPLAY: give it the one of the "
        f"desktop, in 'env' of its entry in the client's configuration. {_OR_A_FILE}"
    )


# --- in the process ----------------------------------------------------------------------------


def main(max_pixels: int, output: IO[bytes]) -> None:
    """Write what the clipboard holds."""
    found, png = _look(max_pixels)
    output.write(json.dumps(found).encode() + b"\n" + png)
    output.flush()


def _look(max_pixels: int) -> tuple[dict[str, Any], bytes]:
    from PIL import Image, ImageGrab, UnidentifiedImageError  # noqa: PLC0415 - here only

    Image.MAX_IMAGE_PIXELS = max_pixels
    # Up to twice as many are decoded, and refused in the same words as a file with so many.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        held = ImageGrab.grabclipboard()
        if held is None:
            return {}, b""
        if isinstance(held, list):
            return {"files": held}, b""
        png = io.BytesIO()
        # Beside its profile, which Pillow keeps: how it is turned.
        held.save(png, "PNG", exif=held.info.get("exif", b""))
    except UnidentifiedImageError:
        return {}, b""
    except NotImplementedError:
        return {"missing": True}, b""
    except Exception as error:  # noqa: BLE001 - whatever a program of the system does, it is told
        text = " ".join(str(error).split()) or type(error).__name__
        return {"problem": text[:200].rstrip(".")}, b""
    return {"width": held.width, "height": held.height}, png.getvalue()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.stdout.buffer)
