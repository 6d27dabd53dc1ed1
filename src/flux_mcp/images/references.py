"""References to images: parsed, and files read where that is allowed.

A reference is a gallery id, a path or a data: URI. Gallery ids are looked up elsewhere, URLs are
refused, and what the bytes hold is checked in decoding.py.
"""

import base64
import binascii
import errno
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import IO
from urllib.parse import unquote, urlsplit

from flux_mcp.errors import (
    InvalidImageError,
    InvalidRequestError,
    PathNotAllowedError,
)
from flux_mcp.images.decoding import MEDIA_TYPES, SUPPORTED, check_bytes
from flux_mcp.principals import only

IMAGE_URI_PREFIX = "flux://images/"

IMAGE_ID = re.compile(r"img_[A-Za-z0-9_-]{1,64}")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters or more: `C:` is a drive
_HOW_TO_REFER = (
    "Give a gallery image id, a flux://images/{id} URI, an absolute path inside an allowed folder, "
    "or a data: URI with base64."
)
_FROM_ELSEWHERE = "Give a gallery image id, or send the image as a data: URI with base64."
"""For callers on other machines: no folder of this one is for them."""


@dataclass(frozen=True)
class GalleryReference:
    """An image of the gallery."""

    image_id: str


@dataclass(frozen=True)
class PathReference:
    """A file of this machine; not yet checked in any way."""

    path: Path


@dataclass(frozen=True)
class DataReference:
    """An image that came with the request."""

    media_type: str
    data: bytes = field(repr=False)


Reference = GalleryReference | PathReference | DataReference


# --- parsing -----------------------------------------------------------------------------------


def parse_reference(text: str) -> Reference:
    """Return what `text` refers to: a gallery id, then a path, then a data: URI. Touches no file.

    Raises:
        InvalidRequestError: it is none of the three, a relative path, or a URL.
        InvalidImageError: a data: URI of another type than PNG, JPEG or WebP, or broken base64.
    """
    if IMAGE_ID.fullmatch(text):
        return GalleryReference(text)
    if "\0" in text:
        raise InvalidRequestError("A reference cannot hold a NUL character.", _hint(_HOW_TO_REFER))
    # A Windows drive, `\\server\share` and `//server/share` mean the same on every platform here.
    windows = PureWindowsPath(text)
    if text[:2] in ("\\\\", "//", "/\\", "\\/"):
        raise InvalidRequestError(
            f"{_shown(text)} is a network path.",
            _hint("Copy the file into an allowed folder first."),
        )
    if text.startswith("/") or (windows.drive and windows.root):
        return PathReference(Path(text))
    scheme = SCHEME.match(text)
    match scheme.group(1).lower() if scheme else None:
        case "flux":
            return _parse_image_uri(text)
        case "file":
            return _parse_file_uri(text)
        case "data":
            return _parse_data_uri(text)
        case None:
            raise InvalidRequestError(
                f"{_shown(text)} is neither an image id nor an absolute path.",
                _hint(_HOW_TO_REFER),
            )
        case _:
            raise InvalidRequestError(
                f"{_shown(text)} is a URL, and URLs are not fetched.",
                _hint("Download it into an allowed folder and give the path."),
            )


def _hint(hint: str) -> str:
    """Return a hint that names folders, or what to do instead where they are not for the caller."""
    return hint if only() is None else _FROM_ELSEWHERE


def _parse_image_uri(text: str) -> GalleryReference:
    image_id = text.removeprefix(IMAGE_URI_PREFIX)
    if image_id == text or not IMAGE_ID.fullmatch(image_id):
        raise InvalidRequestError(
            f"{_shown(text)} is not the URI of an image.", "It looks like flux://images/img_..."
        )
    return GalleryReference(image_id)


def _parse_file_uri(text: str) -> PathReference:
    hint = "It looks like file:///folder/image.png, with %20 for a space."
    try:
        parts = urlsplit(text)
        path = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise InvalidRequestError(f"{_shown(text)} is not a file URI.", hint) from error
    if parts.netloc.lower() not in ("", "localhost"):
        raise InvalidRequestError(f"{_shown(text)} names another machine.", hint)
    if parts.query or parts.fragment or "\0" in path or not path.startswith("/"):
        raise InvalidRequestError(f"{_shown(text)} is not the URI of a file.", hint)
    if PureWindowsPath(path[1:]).drive:
        path = path[1:]
    reference = parse_reference(path)
    if not isinstance(reference, PathReference):
        raise InvalidRequestError(f"{_shown(text)} is not the URI of a file.", hint)
    return reference


def _parse_data_uri(text: str) -> DataReference:
    head, comma, payload = text[len("data:") :].partition(",")
    media_type, *parameters = (part.strip().lower() for part in head.split(";"))
    if not comma or "base64" not in parameters:
        raise InvalidRequestError(
            "The data: URI is not base64.", "It looks like data:image/png;base64,iVBORw0..."
        )
    if media_type not in MEDIA_TYPES:
        raise InvalidImageError(
            f"The data: URI holds {_shown(media_type or 'no type')}.", SUPPORTED
        )
    try:
        text = unquote(payload) if "%" in payload else payload
        data = base64.b64decode("".join(text.split()), validate=True)  # its lines may be broken
    except (binascii.Error, ValueError) as error:
        raise InvalidImageError(
            "The base64 of the data: URI is broken.",
            "Use the standard alphabet with padding.",
        ) from error
    return DataReference(media_type, data)


def _shown(text: str) -> str:
    """Quote what the caller sent, short enough for an error."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")  # noqa: PLR2004 - one line


# --- files, inside the allowed folders only ----------------------------------------------------


def read_path(path: Path, readable_dirs: Sequence[Path], max_bytes: int) -> bytes:
    """Return the bytes of a regular file inside one of `readable_dirs`, links resolved first.

    Outside of them the answer is the same whether or not something is there. The file is opened
    beneath the folder, following no link: whoever may write there can put a link into its path at
    any moment, also after the path was resolved.

    Raises:
        PathNotAllowedError: the path, or what it links to, lies outside.
        InvalidImageError: inside, but no regular file, unreadable, larger than `max_bytes`, or its
            path was changed meanwhile.
    """
    resolved = _resolve(path)
    folders = [folder.resolve() for folder in readable_dirs]
    folder = None
    if resolved is not None:
        folder = next((one for one in folders if resolved.is_relative_to(one)), None)
    if resolved is None or folder is None:
        allowed = ", ".join(str(one) for one in readable_dirs)
        raise PathNotAllowedError(
            f"{_shown(str(path))} is outside the folders images may be read from.",
            f"Copy the file into one of: {allowed}."
            if allowed
            else f"{_FROM_ELSEWHERE} This server reads no files for you.",
        )
    try:
        with _open_beneath(folder, resolved.relative_to(folder).parts) as file:
            data = file.read(max_bytes + 1)
    except _NotAFileError as error:
        raise InvalidImageError(f"{_shown(str(path))} is not a regular file.", SUPPORTED) from error
    except OSError as error:
        # Resolving left no link, so one that is met was put there since.
        is_changed = error.errno in _MET_A_LINK
        problem = "its path was changed meanwhile" if is_changed else error.strerror
        raise InvalidImageError(
            f"{_shown(str(path))} cannot be read: {problem}.",
            "Try again." if is_changed else "Check the path.",
        ) from error
    check_bytes(len(data), max_bytes)
    return data


def _resolve(path: Path) -> Path | None:
    if not path.is_absolute():
        return None
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
        return None


class _NotAFileError(Exception):
    """A folder, a device, a pipe or a socket."""


_MET_A_LINK = (errno.ELOOP, errno.ENOTDIR, errno.ESTALE)
"""What an open that follows no links answers to one: ELOOP in the last place, else ENOTDIR."""
_WALKS = {os.open, os.stat} <= os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
"""Whether folders can be opened, and files in them by name: everywhere but on Windows."""


def _open_beneath(folder: Path, parts: Sequence[str]) -> IO[bytes]:
    """Open a regular file by its path below a folder.

    Args:
        folder: Absolute, without links.
        parts: The path of the file below it, without links and `..`.

    Raises:
        _NotAFileError: it is none.
        OSError: it cannot be opened, or one of the parts is a link.
    """
    if not parts:
        raise _NotAFileError
    if not _WALKS:
        return _open_and_compare(folder, folder.joinpath(*parts))
    *between, name = parts
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(folder, flags | os.O_DIRECTORY)
    try:
        for part in between:
            outer = at
            at = os.open(part, flags | os.O_DIRECTORY, dir_fd=outer)
            os.close(outer)
        # Looked at before it is opened: opening a device may do something, and a pipe would wait.
        _require_file(os.stat(name, dir_fd=at, follow_symlinks=False))
        opened = os.open(name, flags | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)
    with _closed_on_error(opened) as file:
        _require_file(os.fstat(opened))
    return file


def _open_and_compare(folder: Path, resolved: Path) -> IO[bytes]:
    """Open a file by its whole path, and refuse it unless what was opened lies in the folder.

    Raises:
        _NotAFileError: it is no regular file.
        OSError: it cannot be opened, or a link led out of the folder.
    """
    _require_file(resolved.lstat())
    opened = os.open(resolved, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    with _closed_on_error(opened) as file:
        _require_file(os.fstat(opened))
        if not _path_of_opened(opened).is_relative_to(folder):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return file


def _path_of_opened(descriptor: int) -> Path:
    """Return where an open file lies, on Windows: that of the file itself, whatever led to it.

    Source: learn.microsoft.com, GetFinalPathNameByHandleW; flags 0 give a DOS path, normalized.
    """
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - Windows only
        import msvcrt  # noqa: PLC0415 - Windows only

        ask = ctypes.WinDLL("kernel32", use_last_error=True).GetFinalPathNameByHandleW
        ask.argtypes = (ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_uint32, ctypes.c_uint32)
        room = 32_768  # the longest path of Windows
        buffer = ctypes.create_unicode_buffer(room)
        if not 0 < ask(msvcrt.get_osfhandle(descriptor), buffer, room, 0) < room:
            raise ctypes.WinError(ctypes.get_last_error())
        text = buffer.value.removeprefix("\\\\?\\")
        is_share = text.startswith("UNC\\")
        return Path("\\\\" + text.removeprefix("UNC\\") if is_share else text)
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


@contextmanager
def _closed_on_error(descriptor: int) -> Iterator[IO[bytes]]:
    file = os.fdopen(descriptor, "rb")
    try:
        yield file
    except BaseException:
        file.close()
        raise


def _require_file(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(found.st_mode):
        raise _NotAFileError
