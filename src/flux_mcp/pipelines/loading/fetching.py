"""Reads the tensors of weight files into host memory, a chunk at a time, so that it can be stopped.

Only files are read: no model is built, so that another thread can draw or load meanwhile
(`from_pretrained` of diffusers 0.42.1 and transformers 5 changes torch's defaults while it runs).
By plain reads, not by a mapping: a mapped file that is cut short ends the process.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from flux_mcp.pipelines.loading.checkpoints import FetchedTensors, FileIdentity, TensorEntry

CHUNK_BYTES = 8 * 2**20
"""Read between two checks whether to stop: milliseconds from an SSD, 0.1 s from a hard disk."""
RESERVE_BYTES = 2 * 2**30
"""Of host memory, left to the job that draws and to other programs; chosen, not measured."""
ARENA_BYTES = 2**28
"""A power of two, to which torch 2.13 rounds what it pins (ATen, CachingHostAllocator.h). Locking
more at once would hold up the other calls to the driver for longer."""

Check = Callable[[int], None]
"""Called with the bytes read since the last call; raises to stop."""


def has_room(needed_bytes: int, available_bytes: int) -> bool:
    """Whether so many bytes may be taken of the free host memory."""
    return needed_bytes + RESERVE_BYTES <= available_bytes


def available_bytes() -> int:
    """Return how much of host memory can be taken without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


class Buffers:
    """Host memory to read into.

    Args:
        available: Returns the bytes of host memory that are free.
        pin: Whether a GPU will copy from it: pages that cannot be moved are copied several times
            as fast (docs.nvidia.com/cuda/cuda-c-best-practices-guide, "Pinned Memory").
        arena_bytes: How much is taken at a time, to be shared out; `None`: each as it comes.
    """

    def __init__(
        self,
        available: Callable[[], int] = available_bytes,
        *,
        pin: bool = False,
        arena_bytes: int | None = None,
    ) -> None:
        self._available = available
        self._pin = pin
        self._arena_bytes = arena_bytes
        self._arenas: list[tuple[Any, int]] = []

    def take(self, size_bytes: int) -> Any | None:
        """Return a tensor of so many bytes, or `None` where memory is short."""
        if self._arena_bytes is None:
            return self._empty(size_bytes)
        # Each begins where every number type may begin.
        padded = -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
        for at, (arena, used) in enumerate(self._arenas):
            if used + padded <= arena.numel():
                self._arenas[at] = (arena, used + padded)
                return arena[used : used + size_bytes]
        arena = self._empty(max(padded, self._arena_bytes))
        if arena is None:
            return None
        self._arenas.append((arena, padded))
        return arena[:size_bytes]

    def _empty(self, size_bytes: int) -> Any | None:
        import torch

        if not has_room(size_bytes, self._available()):
            return None
        # Every argument named: a model that is loaded meanwhile changes the defaults.
        return torch.empty(size_bytes, dtype=torch.uint8, device="cpu", pin_memory=self._pin)


_ALIGNMENT = 256
"""What torch aligns memory of a GPU to; a multiple of every number's size."""


def release_pinned() -> None:
    """Free the pinned memory that torch keeps for later; for CUDA only."""
    import torch

    # New in torch 2.13; an older one keeps its pinned memory.
    release = getattr(torch.accelerator, "empty_host_cache", None)
    if release is not None:
        release()


def make_room(
    fetched: FetchedTensors, files: Sequence[Path], available: Callable[[], int] = available_bytes
) -> None:
    """Drop what was read of other files, where these do not fit into memory beside it.

    Raises:
        OSError: a file is not there.
    """
    wanted = [FileIdentity.of(path) for path in files]
    if not fetched.held_bytes or any(fetched.has(file) for file in wanted):
        return
    if not has_room(sum(file.size_bytes for file in wanted), available()):
        fetched.clear()


@dataclass(frozen=True)
class FetchedFile:
    """What was read of one file."""

    tensors: Mapping[str, Any]
    """By name; fewer than the file has, where memory was short."""
    sha256: str | None
    """Of the whole file, where that was asked for."""


def fetch_file(
    file: FileIdentity,
    entries: Iterable[TensorEntry],
    buffers: Buffers,
    check: Check,
    *,
    with_sha256: bool,
) -> FetchedFile | None:
    """Read a file's tensors, from its beginning to its end.

    Args:
        file: As it was before `entries` were read from it.
        entries: Its tensors.
        buffers: Where to read to; what it has no room for is left out.
        check: Told what is read; raises to stop.
        with_sha256: Whether to hash the file on the way, whatever memory there is.

    Returns:
        What was read, or `None` if the file changed meanwhile.

    Raises:
        OSError: it cannot be read, or ends too early.
        Exception: whatever `check` raised.
    """
    digest = hashlib.sha256() if with_sha256 else None
    tensors = {}
    # Unbuffered: what is read goes where it stays.
    with file.path.open("rb", buffering=0) as stream:
        for start, end, entry in _pieces(entries, file.size_bytes):
            buffer = None if entry is None else buffers.take(end - start)
            if buffer is None and digest is None:
                check(0)
                continue
            for chunk in _chunks(stream, start, end, buffer):
                if digest is not None:
                    digest.update(chunk)
                check(len(chunk))
            if entry is not None and buffer is not None:
                tensors[entry.name] = entry.shaped(buffer)
    if FileIdentity.of(file.path) != file:
        return None
    return FetchedFile(tensors, None if digest is None else digest.hexdigest())


def _pieces(
    entries: Iterable[TensorEntry], size_bytes: int
) -> Iterator[tuple[int, int, TensorEntry | None]]:
    """Cut a file into its tensors and what is between them, in order."""
    in_order = sorted(entries, key=lambda entry: entry.offset)
    ends = [0, *(entry.offset + entry.stored_bytes for entry in in_order)]
    for begin, entry in zip(ends, in_order, strict=False):
        if begin < entry.offset:
            yield begin, entry.offset, None
        yield entry.offset, entry.offset + entry.stored_bytes, entry
    if ends[-1] < size_bytes:
        yield ends[-1], size_bytes, None


def _chunks(stream: FileIO, start: int, end: int, buffer: Any | None) -> Iterator[memoryview]:
    """Read a piece into its buffer, or only to hash it; yield it chunk by chunk."""
    stream.seek(start)
    if buffer is None:
        target = memoryview(bytearray(min(CHUNK_BYTES, end - start)))
    else:
        target = memoryview(buffer.numpy())
    for at, upto in pairwise([*range(start, end, CHUNK_BYTES), end]):
        chunk = target[: upto - at] if buffer is None else target[at - start : upto - start]
        filled = 0
        while filled < len(chunk):
            got = stream.readinto(chunk[filled:])
            if not got:
                raise OSError(f"{stream.name} ends after {at + filled} bytes")
            filled += got
        yield chunk
