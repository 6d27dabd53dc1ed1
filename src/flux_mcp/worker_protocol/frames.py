"""Frames between the executor and a worker: a JSON header, then the bytes it announces.

Layout: 4 bytes header length (big endian), the header as UTF-8 JSON, then the blobs in the order of
`header["blobs"]`, a list of `{"name", "size"}`. No pickle: what is read can only ever be data.
"""

import asyncio
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_BLOB_BYTES = 1024 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class BrokenFrameError(Exception):
    """The stream does not hold a frame: the process that writes it must be replaced."""


@dataclass(frozen=True)
class Frame:
    """One message: a JSON object and the named blobs that came with it."""

    header: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)


def encode(header: Mapping[str, Any], blobs: Mapping[str, bytes] | None = None) -> list[bytes]:
    """Return the pieces of one frame, to be written in order (blobs are not copied).

    Raises:
        ValueError: `header` already has a `blobs` key.
    """
    blobs = blobs or {}
    if "blobs" in header:
        raise ValueError("'blobs' is the frame's own key")
    listing = [{"name": name, "size": len(blob)} for name, blob in blobs.items()]
    text = json.dumps({**header, "blobs": listing}, ensure_ascii=False).encode()
    return [_LENGTH.pack(len(text)), text, *blobs.values()]


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """Read one frame from an asyncio stream, or `None` at its end.

    Raises:
        BrokenFrameError: the stream ended inside a frame, or is not frames at all.
    """
    try:
        length = await reader.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BrokenFrameError("the stream ended inside a frame's length") from error
        return None
    try:
        header = _parse_header(await reader.readexactly(_header_size(length)))
        blobs = {name: await reader.readexactly(size) for name, size in _blob_sizes(header)}
    except asyncio.IncompleteReadError as error:
        raise BrokenFrameError("the stream ended inside a frame") from error
    return Frame(header, blobs)


def read_frame_blocking(stream: BinaryIO) -> Frame | None:
    """Read one frame from a blocking stream, or `None` at its end.

    Raises:
        BrokenFrameError: the stream ended inside a frame, or is not frames at all.
    """
    length = stream.read(_LENGTH.size)
    if not length:
        return None
    header = _parse_header(_read_exactly(stream, _header_size(length)))
    return Frame(header, {name: _read_exactly(stream, size) for name, size in _blob_sizes(header)})


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise BrokenFrameError("the stream ended inside a frame")
    return data


def _header_size(length: bytes) -> int:
    if len(length) != _LENGTH.size:
        raise BrokenFrameError("the stream ended inside a frame's length")
    size = int(_LENGTH.unpack(length)[0])
    if not 0 < size <= MAX_HEADER_BYTES:
        raise BrokenFrameError(f"a header of {size} bytes is not one of ours")
    return size


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenFrameError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise BrokenFrameError("the header is not a JSON object")
    return header


def _blob_sizes(header: dict[str, Any]) -> list[tuple[str, int]]:
    listing = header.pop("blobs", [])
    try:
        sizes = [(str(entry["name"]), int(entry["size"])) for entry in listing]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BrokenFrameError("the blob listing is not one of ours") from error
    if any(size < 0 for _, size in sizes) or sum(size for _, size in sizes) > MAX_BLOB_BYTES:
        raise BrokenFrameError("the blobs are larger than a frame may carry")
    return sizes
