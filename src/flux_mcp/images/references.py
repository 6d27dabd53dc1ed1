"""References to images: parsed, and files read where that is allowed.

One grammar for every argument that names an image: the table `FORMS`. Which image an id or
`latest` stands for is looked up in service/resolving.py, the clipboard is read in clipboard.py,
URLs are refused, and what the bytes hold is checked in decoding.py.
"""

import base64
import binascii
import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import IO, Literal
from urllib.parse import unquote, urlsplit

from flux_mcp.errors import (
    ClipboardError,
    InvalidImageError,
    InvalidRequestError,
    PathNotAllowedError,
)
from flux_mcp.images.decoding import check_bytes
from flux_mcp.images.formats import MEDIA_TYPES, SUPPORTED, suffixes

IMAGE_URI_PREFIX = "flux://images/"

IMAGE_ID = re.compile(r"(?:img_[A-Za-z0-9_-]{1,64}|upl_[0-9a-f]{1,32})")
"""Of the gallery or of an upload, or the beginning of one."""


# --- what a reference can be --------------------------------------------------------------------


@dataclass(frozen=True)
class GalleryReference:
    """An image of the gallery or an upload, by its id or the first characters of it."""

    image_id: str


@dataclass(frozen=True)
class LatestReference:
    """The newest image of the caller."""

    session: str | None = None
    """Only of this session."""


@dataclass(frozen=True)
class NewestReference:
    """The newest image file in a folder of this machine."""

    folder: str
    """Its path, or the name of an allowed folder; not yet checked in any way."""


@dataclass(frozen=True)
class ClipboardReference:
    """What was copied last on this machine."""


@dataclass(frozen=True)
class PathReference:
    """A file of this machine; not yet checked in any way."""

    path: Path


@dataclass(frozen=True)
class DataReference:
    """An image that came with the request."""

    media_type: str
    data: bytes = field(repr=False)


StoredReference = GalleryReference | LatestReference
"""What the database knows."""
Reference = StoredReference | NewestReference | ClipboardReference | PathReference | DataReference


# --- who may use what ---------------------------------------------------------------------------

UPLOAD_HINT = "A file gets an id by POST /uploads to this server."
"""For callers over HTTP: no command of this machine is for them."""


@dataclass(frozen=True)
class Access:
    """Which forms of references a caller may use, besides ids and data.

    Attributes:
        readable_dirs: Where files may lie; none for callers on other machines.
        named_dirs: Those of them that were allowed by name: "newest in" finds these.
        clipboard: Whether it is read; `elsewhere` if this machine is not the caller's.
        ask: Whether the user can be asked for an image, in the same way.
        bring_in: How a file that has no reference gets one, as a sentence.
    """

    readable_dirs: tuple[Path, ...] = ()
    named_dirs: tuple[Path, ...] = ()
    clipboard: Literal["on", "off", "elsewhere"] = "elsewhere"
    ask: Literal["on", "off", "elsewhere"] = "elsewhere"
    bring_in: str = UPLOAD_HINT

    @property
    def is_here(self) -> bool:
        """Whether the files of this machine are for the caller."""
        return bool(self.readable_dirs)

    def hint(self, hint: str) -> str:
        """Return a hint that names folders, or what to do instead where they are not for it."""
        return hint if self.is_here else how_to_refer(self)


NO_ACCESS = Access()


def how_to_refer(access: Access) -> str:
    """Return a hint with every form that a caller may use."""
    ways = [way for form in FORMS if (way := form.proposed(access)) is not None]
    return f"Give {', '.join(ways[:-1])} or {ways[-1]}. {access.bring_in}"


def other_ways(access: Access) -> str:
    """Return a hint with the forms that need neither an id nor a path."""
    ways = [form.proposed(access) for form in FORMS if form.is_word]
    given = [way for way in ways if way is not None]
    words = f"Also possible: {', '.join(given)}. " if given else ""
    return f"{words}{access.bring_in}"


# --- parsing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One way to name an image.

    Attributes:
        pattern: How a text of this form begins.
        parse: Returns what it refers to, or refuses it.
        proposed: How an error proposes it to a caller; `None` where it is not for it, and for
            what is refused.
        is_word: Whether it names neither an id nor a file, so that anybody can say it.
        names_file: Whether it is the path of a file, as the command line takes them.
    """

    pattern: re.Pattern[str]
    parse: Callable[[re.Match[str], Access], Reference]
    proposed: Callable[[Access], str | None] = lambda _: None
    is_word: bool = False
    names_file: bool = False


def parse_reference(text: str, access: Access = NO_ACCESS) -> Reference:
    """Return what `text` refers to: the first form of the table that it has. Touches no file.

    Args:
        text: As the caller wrote it.
        access: What the caller may use: what it may not is refused, or not proposed.

    Raises:
        InvalidRequestError: it has none of the forms, or is a relative path or a URL.
        InvalidImageError: a data: URI of a type that is not read, or broken base64.
        PathNotAllowedError: it names a folder, and those are not for the caller.
        ClipboardError: it is the clipboard, and that is not read.
    """
    if "\0" in text:
        raise InvalidRequestError(
            "A reference cannot hold a NUL character.", access.hint(how_to_refer(access))
        )
    form, found = _form_of(text)
    if form is None or found is None:
        raise InvalidRequestError(
            f"{_shown(text)} is neither an image id nor an absolute path.", how_to_refer(access)
        )
    return form.parse(found, access)


def is_file_name(text: str) -> bool:
    """Whether a text has none of the forms, or that of a path: it may name a file."""
    form, _ = _form_of(text)
    return form is None or form.names_file


def _form_of(text: str) -> tuple[Form | None, re.Match[str] | None]:
    for form in FORMS:
        found = form.pattern.match(text)
        if found is not None:
            return form, found
    return None, None


def _parse_id(found: re.Match[str], _: Access) -> GalleryReference:
    return GalleryReference(found[0])


def _parse_latest(found: re.Match[str], _: Access) -> LatestReference:
    session = found["session"]
    if session is not None and not session.strip():
        raise InvalidRequestError("latest: names no session.", "Give latest, or latest:NAME.")
    return LatestReference(None if session is None else session.strip())


def _parse_newest(found: re.Match[str], access: Access) -> NewestReference:
    folder = (found["folder"] or "").strip()
    if len(folder) > 1 and folder[0] == folder[-1] and folder[0] in "\"'`":
        folder = folder[1:-1]
    if not access.is_here:
        raise PathNotAllowedError(
            "This server looks into no folders for you.", how_to_refer(access)
        )
    if not folder:
        raise InvalidRequestError("newest in names no folder.", how_to_refer(access))
    return NewestReference(folder)


def _propose_newest(access: Access) -> str | None:
    names = [one.name for one in access.named_dirs if one.name]
    if not access.is_here or not names:
        return None
    others = ", ".join(map(repr, names[1:4]))
    return f"'newest in {names[0]}'" + (f" (or {others})" if others else "")


def _parse_clipboard(_: re.Match[str], access: Access) -> ClipboardReference:
    if access.clipboard == "elsewhere":
        raise ClipboardError(
            "The clipboard is read on the user's own machine only: over stdio, and by commands.",
            how_to_refer(access),
        )
    if access.clipboard == "off":
        raise ClipboardError(
            "The clipboard is not read, as the setting 'clipboard' is off.",
            "Whoever runs this server turns it on with FLUX_MCP_CLIPBOARD=true. "
            f"{how_to_refer(access)}",
        )
    return ClipboardReference()


def _refuse_ask(_: re.Match[str], access: Access) -> Reference:
    """Refuse `ask` where nothing has put an image in its place (server/asking.py)."""
    if access.ask == "off":
        raise InvalidRequestError(
            "The user is not asked for images, as the setting 'ask_page' is off.",
            "Whoever runs this server turns it on with FLUX_MCP_ASK_PAGE=link, or open. "
            f"{how_to_refer(access)}",
        )
    raise InvalidRequestError(
        "The user is asked for an image on their own machine only, by clients over stdio.",
        how_to_refer(access),
    )


def _refuse_network_path(found: re.Match[str], access: Access) -> Reference:
    raise InvalidRequestError(
        f"{_shown(found.string)} is a network path.",
        access.hint(f"Copy the file into an allowed folder first. {access.bring_in}"),
    )


def _parse_path(found: re.Match[str], _: Access) -> PathReference:
    return PathReference(Path(found.string))


def _refuse_url(found: re.Match[str], access: Access) -> Reference:
    raise InvalidRequestError(
        f"{_shown(found.string)} is a URL, and URLs are not fetched.",
        access.hint(f"Download it into an allowed folder and give the path. {access.bring_in}"),
    )


def _parse_image_uri(found: re.Match[str], _: Access) -> GalleryReference:
    text = found.string
    image_id = text.removeprefix(IMAGE_URI_PREFIX)
    if image_id == text or not IMAGE_ID.fullmatch(image_id):
        raise InvalidRequestError(
            f"{_shown(text)} is not the URI of an image.", "It looks like flux://images/img_..."
        )
    return GalleryReference(image_id)


def _parse_file_uri(found: re.Match[str], access: Access) -> PathReference:
    text = found.string
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
    reference = parse_reference(path, access)
    if not isinstance(reference, PathReference):
        raise InvalidRequestError(f"{_shown(text)} is not the URI of a file.", hint)
    return reference


def _parse_data_uri(found: re.Match[str], _: Access) -> DataReference:
    head, comma, payload = found.string[len("data:") :].partition(",")
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


_ANY_CASE = re.ASCII | re.IGNORECASE  # without ASCII, letters of other scripts would match too
ASK = re.compile(r"ask(?::(?P<token>.*))?\Z", _ANY_CASE | re.DOTALL)
"""The image that the user gives on a page: on a new one, or on that of a token."""

FORMS: tuple[Form, ...] = (
    Form(re.compile(rf"{IMAGE_ID.pattern}\Z"), _parse_id, lambda _: "a gallery image id"),
    Form(
        re.compile(r"latest(?::(?P<session>.*))?\Z", _ANY_CASE | re.DOTALL),
        _parse_latest,
        lambda _: "'latest' (your newest image)",
        is_word=True,
    ),
    Form(
        re.compile(r"newest\s+in(?:\s(?P<folder>.*))?\Z", _ANY_CASE | re.DOTALL),
        _parse_newest,
        _propose_newest,
        is_word=True,
    ),
    Form(
        re.compile(r"clipboard\Z", _ANY_CASE),
        _parse_clipboard,
        lambda access: "'clipboard'" if access.clipboard == "on" else None,
        is_word=True,
    ),
    Form(
        ASK,
        _refuse_ask,
        lambda access: "'ask' (the user gives it)" if access.ask == "on" else None,
        is_word=True,
    ),
    # A Windows drive, `\\server\share` and `//server/share` mean the same on every platform here.
    Form(re.compile(r"[/\\]{2}"), _refuse_network_path),
    Form(
        re.compile(r"/|[A-Za-z]:[/\\]"),
        _parse_path,
        lambda access: "an absolute path inside an allowed folder" if access.is_here else None,
        names_file=True,
    ),
    Form(re.compile(r"flux:", _ANY_CASE), _parse_image_uri),
    Form(re.compile(r"file:", _ANY_CASE), _parse_file_uri, names_file=True),
    Form(
        re.compile(r"data:", _ANY_CASE),
        _parse_data_uri,
        lambda _: "a data: URI with base64",
    ),
    # Two letters or more: `C:` is a drive.
    Form(re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:"), _refuse_url),
)
"""Every form, in the order in which they are tried."""


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
            else f"This server reads no files for you. {how_to_refer(NO_ACCESS)}",
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
_NO_LINK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


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
    with _folder_beneath(folder, between) as at:
        return _open_in(at, name)


@contextmanager
def _folder_beneath(folder: Path, parts: Sequence[str]) -> Iterator[int]:
    """Give the descriptor of a folder below another one, opened without following a link.

    Raises:
        OSError: it cannot be opened, is no folder, or one of the parts is a link.
    """
    at = os.open(folder, _NO_LINK | os.O_DIRECTORY)
    try:
        for part in parts:
            outer = at
            at = os.open(part, _NO_LINK | os.O_DIRECTORY, dir_fd=outer)
            os.close(outer)
        yield at
    finally:
        os.close(at)


def _open_in(at: int, name: str) -> IO[bytes]:
    """Open a regular file of an open folder; raises as `_open_beneath`."""
    # Looked at before it is opened: opening a device may do something, and a pipe would wait.
    _require_file(os.stat(name, dir_fd=at, follow_symlinks=False))
    opened = os.open(name, _NO_LINK | os.O_NONBLOCK, dir_fd=at)
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


# --- the newest file of a folder ----------------------------------------------------------------


@dataclass(frozen=True)
class NewestFile:
    """The newest image file of a folder."""

    data: bytes = field(repr=False)
    name: str
    age_s: float
    """Since it was changed last; below 0 where it is dated in the future."""

    def told(self, folder: str) -> str:
        """Return what is said of it."""
        return f"newest in {folder} is {_shown(self.name)}, changed {_told_age(self.age_s)}."


def read_newest(folder: str, access: Access, max_bytes: int) -> NewestFile:
    """Return the newest regular file with the suffix of an image in an allowed folder.

    Folders in it are not looked into, and links and hidden files are passed over.

    Args:
        folder: Absolute, or the last name of an allowed folder, in any case.
        access: Which folders are allowed.
        max_bytes: How large a file may be.

    Raises:
        PathNotAllowedError: it lies outside of them, or there is none of that name.
        InvalidRequestError: several allowed folders have that name.
        InvalidImageError: it is no folder, cannot be read, has no image file, or one that is larger
            than `max_bytes`.
    """
    allowed, resolved = _allowed_folder(folder, access)
    hint = "Put the image there, or name another folder."
    try:
        found = _open_newest(allowed, resolved)
        if found is None:
            raise InvalidImageError(
                f"There is no image file in {_shown(folder)} (not in folders inside it).", hint
            )
        name, changed_at_s, file = found
        with file:
            data = file.read(max_bytes + 1)
    except (OSError, _NotAFileError) as error:
        is_changed = not isinstance(error, OSError) or error.errno in _MET_A_LINK
        if os.path.isfile(resolved):  # noqa: PTH113 - Path's raises for a name that is too long
            problem, hint = "it is a file", "Give it without 'newest in'."
        elif is_changed:
            problem, hint = "something was changed meanwhile", "Try again."
        else:
            problem = (error.strerror if isinstance(error, OSError) else None) or "no reason given"
        raise InvalidImageError(
            f"The folder {_shown(folder)} cannot be read: {problem}.", hint
        ) from error
    check_bytes(len(data), max_bytes)
    return NewestFile(data, name, time.time() - changed_at_s)


def _allowed_folder(name: str, access: Access) -> tuple[Path, Path]:
    """Return the allowed folder that a folder lies in, and its own path; both without links."""
    path = _expanded(name)
    if path is None or not path.is_absolute():
        named = [one for one in access.named_dirs if one.name.casefold() == name.casefold()]
        if len(named) > 1:
            raise InvalidRequestError(
                f"Several allowed folders are called {_shown(name)}.",
                f"Give the path of one: {', '.join(map(str, named))}.",
            )
        path = named[0] if named else None
    resolved = None if path is None else _resolve(path)
    folders = [folder.resolve() for folder in access.named_dirs]
    if resolved is not None:
        inside = next((one for one in folders if resolved.is_relative_to(one)), None)
        if inside is not None:
            return inside, resolved
    allowed = ", ".join(str(one) for one in access.named_dirs)
    raise PathNotAllowedError(
        f"{_shown(name)} is no folder that images may be read from.",
        f"Name one of: {allowed}. The setting 'allowed_dirs' has them."
        if allowed
        else "The setting 'allowed_dirs' names none.",
    )


def _expanded(name: str) -> Path | None:
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):  # a user that there is not
        return None


def _open_newest(allowed: Path, folder: Path) -> tuple[str, float, IO[bytes]] | None:
    """Return the newest image file's name, when it was changed, and the file, open."""
    if not _WALKS:
        newest = _newest_of(folder)
        if newest is None:
            return None
        return *newest, _open_and_compare(allowed, folder / newest[0])
    with _folder_beneath(allowed, folder.relative_to(allowed).parts) as at:
        newest = _newest_of(at)
        return None if newest is None else (*newest, _open_in(at, newest[0]))


def _newest_of(folder: Path | int) -> tuple[str, float] | None:
    """Return the name of the newest image file, and when it was changed; not of a hidden one."""
    read, files = suffixes(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in read:
                continue
            with suppress(OSError):  # gone meanwhile
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    files.append((found.st_mtime_ns, entry.name))
    if not files:
        return None
    changed_at_ns, name = max(files)
    return name, changed_at_ns / 1e9


def _told_age(age_s: float) -> str:
    if age_s < 0:
        return "in the future, as its date says"
    for unit_s, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        count = int(age_s // unit_s)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{int(age_s)} s ago"
