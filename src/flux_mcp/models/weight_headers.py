"""The header of a weight file: names, shapes and number types of its tensors, without torch.

Only the header is read, and the file's size compared with what it promises. What is no weight file
is named: a web page saved under the name, a pointer of Git LFS, a pickle, a folder, a file that is
cut short, or one that may not be read.

A safetensors file begins with the length of a JSON object (8 bytes, little endian) and the object
(github.com/huggingface/safetensors, README); a GGUF file with counted keys, values and tensors
(github.com/ggml-org/ggml, docs/gguf.md).
"""

import errno
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import BinaryIO

from flux_mcp.errors import WeightsInvalidError

SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})
GGUF_SUFFIXES = frozenset({".gguf"})
MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library accepts; that of FLUX.2 dev in fp8 has 0.2 MB."""
_GGUF_MAGIC = b"GGUF"
_ALIGNMENT_KEY = "general.alignment"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a header describes it."""

    shape: tuple[int, ...]
    """As torch has it."""
    number_type: str
    """The format's own name, such as `BF16`, `F8_E4M3` or `Q4_K`."""
    offset: int = 0
    """Of its first byte in the file."""
    size_bytes: int = 0

    @property
    def values(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class WeightHeader:
    """What a file says of itself."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    is_gguf: bool

    def main_number_type(self) -> str:
        """Return the number type of most of its numbers; files are mixtures."""
        values: dict[str, int] = {}
        for tensor in self.tensors.values():
            values[tensor.number_type] = values.get(tensor.number_type, 0) + tensor.values
        return max(values, key=lambda name: values[name], default="")


def is_weight_file(path: Path) -> bool:
    """Whether the name ends as that of a file which may be opened; neither kind can run code."""
    return path.suffix.lower() in SAFETENSORS_SUFFIXES | GGUF_SUFFIXES


def is_gguf(path: Path) -> bool:
    """Whether the name ends as that of a GGUF file."""
    return path.suffix.lower() in GGUF_SUFFIXES


def read_weight_header(path: Path) -> WeightHeader:
    """Read a file's header; it is read again only when its size or its time has changed.

    Raises:
        WeightsInvalidError: it is missing or cannot be read, no weight file, or cut short.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise refused_file(path, error) from error
    found = _read_cached(path, status.st_size, status.st_mtime_ns)
    if isinstance(found, WeightHeader):
        return found
    raise WeightsInvalidError(*found)


def problem_of(path: Path) -> WeightsInvalidError | None:
    """Return what is wrong with a file by its header, or `None`."""
    try:
        read_weight_header(path)
    except WeightsInvalidError as error:
        return error
    return None


def _called(path: Path) -> str:
    """Return what people call a file: many have the same name, in folders of parts."""
    return f"{path.parent.name}/{path.name}"


def refused_file(path: Path, error: OSError) -> WeightsInvalidError:
    """Return what the system's refusal to read a file means; such a file need not be damaged."""
    if isinstance(error, FileNotFoundError):
        return WeightsInvalidError(f"{_called(path)} is not there.", "Put it back, or fix its row.")
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return WeightsInvalidError(f"{_called(path)} is a folder.", "Name a file in it.")
    if isinstance(error, PermissionError):
        return WeightsInvalidError(
            f"{_called(path)} may not be read by the user of this process.",
            "Change its permissions, or those of its folder.",
        )
    if error.errno == errno.ENOMEM:
        return WeightsInvalidError(
            f"{_called(path)} cannot be mapped into memory: the machine has too little of it.",
            "Close other programs, raise the limit of this process (ulimit -v), or use a file with "
            "fewer bits.",
        )
    reason = error.strerror or str(error)
    return WeightsInvalidError(
        f"{_called(path)} cannot be read: {reason}.", "Check the disk it is on."
    )


@lru_cache(maxsize=512)
def _read_cached(path: Path, size_bytes: int, _mtime_ns: int) -> WeightHeader | tuple[str, str]:
    """Return the header, or the message and the hint that say what is wrong."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        with path.open("rb") as file:
            start = file.read(512)
            file.seek(0)
            if wrong := _something_else(path, start, size_bytes):
                return wrong
            read = _read_gguf if is_gguf(path) else _read_safetensors
            tensors, end = read(file)
    except OSError as error:
        refused = refused_file(path, error)
        return refused.message, refused.hint
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        kind = "GGUF" if is_gguf(path) else "safetensors"
        return (
            f"{_called(path)} has no {kind} header that can be read ({type(error).__name__}).",
            "Get the file again.",
        )
    if size_bytes < end:
        return (
            f"{_called(path)} is cut short: {size_bytes:,} of {end:,} bytes.",
            "Get the file again; a download may still be running.",
        )
    return WeightHeader(path, tensors, is_gguf(path))


def _something_else(path: Path, start: bytes, size_bytes: int) -> tuple[str, str] | None:
    """Return what a file is that has the name of a weight file, and what to do."""
    text = start.lstrip().lower()
    if not size_bytes:
        return f"{_called(path)} is empty.", "Get the file again."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            f"{_called(path)} is a web page, saved under the name of the file.",
            "Download the file itself: a gated one needs an account and a token.",
        )
    if text.startswith(b"version https://git-lfs"):
        return (
            f"{_called(path)} is a pointer of Git LFS, not the file itself.",
            "Run 'git lfs pull' in its folder.",
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return (
            f"{_called(path)} is a pickle or an archive, not what its name says.",
            "Pickled weights can run code and are never loaded; get the safetensors file.",
        )
    is_marked = start.startswith(_GGUF_MAGIC)
    if is_gguf(path) != is_marked:
        is_what = "is a GGUF file" if is_marked else "is no GGUF file"
        return (
            f"{_called(path)} {is_what}, against its name.",
            "Give it its right name, or get it again.",
        )
    return None


def _read_safetensors(file: BinaryIO) -> tuple[dict[str, StoredTensor], int]:
    (length,) = struct.unpack("<Q", file.read(8))
    if not 1 < length <= MAX_HEADER_BYTES:
        raise ValueError(length)
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, after = entry["data_offsets"]
        shape = tuple(entry["shape"])
        bits = _BITS.get(entry["dtype"])
        # One after another without holes, as the format demands: else names could share bytes.
        if begin != end or (bits is not None and 8 * (after - begin) != prod(shape) * bits):
            raise ValueError(name)
        tensors[name] = StoredTensor(shape, entry["dtype"], 8 + length + begin, after - begin)
        end = after
    return tensors, 8 + length + end


_BITS = {
    "BOOL": 8,
    **{f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": bits for bits in (16, 32, 64)},
    "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip
"""Bits of a number, by the format's name of its type (safetensors 0.8)."""


# --- GGUF ----------------------------------------------------------------------------------------

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
GGUF_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Number of a block type -> its name, values and bytes of a block (ggml.h; a test compares them
with the gguf package, which needs a second for a text encoder's vocabulary)."""


def _read_gguf(file: BinaryIO) -> tuple[dict[str, StoredTensor], int]:
    _, version, count, keys = struct.unpack("<4sIQQ", file.read(24))
    if version not in (2, 3) or max(count, keys) > MAX_HEADER_BYTES:
        raise ValueError(version)
    alignment = 32
    for _ in range(keys):
        key = _string(file)
        value = _value(file, *struct.unpack("<I", file.read(4)))
        if key == _ALIGNMENT_KEY and isinstance(value, int) and value > 0:
            alignment = value
    tensors = {}
    for _ in range(count):
        name = _string(file)
        (dimensions,) = struct.unpack("<I", file.read(4))
        if dimensions > 8:  # noqa: PLR2004 - ggml has four
            raise ValueError(dimensions)
        sides = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
        number, offset = struct.unpack("<IQ", file.read(12))
        # ggml names the innermost dimension first.
        kind, values, size_bytes = GGUF_TYPES.get(number, (f"type {number}", 1, 0))
        shape = tuple(reversed(sides))
        tensors[name] = StoredTensor(shape, kind, offset, prod(shape) // values * size_bytes)
    data = -(-file.tell() // alignment) * alignment
    placed = {name: replace(one, offset=data + one.offset) for name, one in tensors.items()}
    return placed, max((one.offset + one.size_bytes for one in placed.values()), default=data)


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER_BYTES:
        raise ValueError(length)
    return file.read(length).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> object:
    """Read a value; of arrays nothing is kept."""
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        form = f"<{_SCALARS[kind]}"
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]
    inner, count = struct.unpack("<IQ", file.read(12))
    if count > MAX_HEADER_BYTES:
        raise ValueError(count)
    if inner in _SCALARS:
        file.seek(count * struct.calcsize(f"<{_SCALARS[inner]}"), 1)
        return None
    for _ in range(count):
        if inner == _STRING:
            (length,) = struct.unpack("<Q", file.read(8))
            file.seek(length, 1)
        else:
            _value(file, inner)
    return None
