"""The tensors of safetensors and GGUF files, known by name and shape before they are read.

A tensor is read when a library asks for it, or taken from what was read ahead, copied to the device
at once, and counted: progress is reported of what has happened.
"""

import errno
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol, Self

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.weight_headers import StoredTensor, is_gguf, read_weight_header
from flux_mcp.pipelines.loading.progress import ReadProgress


@dataclass(frozen=True)
class FileIdentity:
    """Tells a file from another one that replaces it."""

    path: Path
    """With links resolved."""
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileIdentity":
        """Return a file's identity as it is now.

        Raises:
            OSError: it is not there.
        """
        blob = path.resolve()
        status = blob.stat()
        return cls(blob, status.st_size, status.st_mtime_ns)


class FetchedTensors:
    """Tensors that were read ahead, by file and name; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[FileIdentity, dict[str, Any]] = {}
        self._taken_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of tensors that were not taken yet."""
        with self._lock:
            return sum(t.nbytes for tensors in self._files.values() for t in tensors.values())

    @property
    def taken_bytes(self) -> int:
        """Bytes of all tensors that were taken."""
        with self._lock:
            return self._taken_bytes

    def put(self, file: FileIdentity, tensors: Mapping[str, Any]) -> None:
        """Keep the tensors of a file; the caller must not use them any more."""
        with self._lock:
            self._files[file] = dict(tensors)

    def take(self, file: FileIdentity, name: str) -> Any | None:
        """Return a tensor and forget it; `None` if it is not here."""
        with self._lock:
            tensor = self._files.get(file, {}).pop(name, None)
            if tensor is not None:
                self._taken_bytes += tensor.nbytes
            return tensor

    def has(self, file: FileIdentity) -> bool:
        """Whether any tensor of a file is here."""
        with self._lock:
            return bool(self._files.get(file))

    def clear(self) -> None:
        """Forget all tensors."""
        with self._lock:
            self._files.clear()


@dataclass(frozen=True)
class TensorEntry:
    """One tensor, not read yet."""

    name: str
    shape: tuple[int, ...]
    """As in a model, also where a file packs several values into a byte."""
    stored_bytes: int
    block_type: str | None
    """GGUF's name for how it is packed, such as `Q4_K`; `None` in safetensors files."""
    read: Callable[[], Any]
    """Returns a new tensor on the CPU, never a view of a mapped file: that would be read later and
    uncounted, and would end this process if the file were cut short by then."""
    path: Path
    """The file it is in."""
    offset: int
    """Of its first byte in that file."""
    shaped: Callable[[Any], Any]
    """Makes the tensor out of its bytes, in one dimension, without a copy."""
    dtype: Any = None
    """Torch's, of the stored numbers; `None` in GGUF files."""
    finish: Callable[[Any], Any] = lambda tensor: tensor
    """Makes what a model gets of what was read, on the device."""

    @property
    def values(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    def stand_in(self) -> Any:
        """Return a tensor without content, which a loader can rename, split and inspect."""
        import torch

        if self.block_type in _UNPACKED:
            return torch.empty(self.shape, device="meta")
        import gguf
        from diffusers.quantizers.gguf.utils import GGUFParameter

        kind = gguf.GGMLQuantizationType[str(self.block_type)]
        block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
        in_bytes = (*self.shape[:-1], self.shape[-1] // block_size * type_size)
        blocks = torch.empty(in_bytes, dtype=torch.uint8, device="meta")
        return GGUFParameter(blocks, quant_type=kind)


_NUMBERS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""GGUF's block types that are plain numbers -> torch's. diffusers 0.42.1 takes BF16 for packed, and
then fails on every tensor that is no linear layer's weight."""
_UNPACKED = frozenset({None, *_NUMBERS})


class Handle:
    """Stands for a tensor until it is indexed; transformers 5 reads its own slices like that."""

    def __init__(
        self,
        entry: TensorEntry,
        device: str,
        progress: ReadProgress,
        take: Callable[[], Any | None],
    ) -> None:
        self._entry = entry
        self._device = device
        self._progress = progress
        self._take = take

    def __getitem__(self, _everything: object) -> Any:
        """Take the tensor or read it, and copy it to the device."""
        taken = self._take()
        if taken is None:
            # Its own already: another copy would take its place twice, and leave holes in memory.
            tensor = self._entry.read().to(self._device)
        else:
            # Not shared with anything; but pinned memory is for copying from, not for keeping.
            tensor = taken.to(self._device, copy=taken.is_pinned())
        self._progress.add(self._entry.stored_bytes, from_memory=taken is not None)
        return self._entry.finish(tensor)


class PendingTensors(dict[str, Any]):
    """A state dict whose tensors are read when they are taken out, for diffusers' loaders."""

    def __getitem__(self, name: str) -> Any:
        """Return a tensor; it is not kept."""
        return _read(super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a tensor, or `default`."""
        return _read(super().get(name, default))

    def pop(self, name: str, *default: Any) -> Any:
        """Take a tensor out."""
        return _read(super().pop(name, *default))

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]  # one at a time
        """Return names and tensors; each is read when its turn comes."""
        return ((name, self[name]) for name in list(self))

    def values(self) -> Iterator[Any]:  # type: ignore[override]  # one at a time
        """Return the tensors; each is read when its turn comes."""
        return (self[name] for name in list(self))


def _read(value: Any) -> Any:
    return value[...] if isinstance(value, Handle) else value


class Checkpoint(Protocol):
    """An open file, or several that belong together."""

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """Its tensors by name."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class SafetensorsCheckpoint:
    """One or several safetensors files.

    Each tensor is read by itself, never mapped: torch's mapping of a file wants host memory for the
    whole of it, so that one larger than that could not be loaded in fewer bits.

    Args:
        paths: Shards of one model, or one file.

    Raises:
        WeightsInvalidError: a file is damaged, or cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.entries: dict[str, TensorEntry] = {}
        for path in paths:
            header, file = read_weight_header(path), FileIdentity.of(path)
            for name, stored in header.tensors.items():
                self.entries[name] = _safetensors_entry(path, file, name, stored)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def _safetensors_entry(
    path: Path, file: FileIdentity, name: str, stored: StoredTensor
) -> TensorEntry:
    import torch

    if stored.number_type not in _TORCH_NAMES:
        raise WeightsInvalidError(
            f"{path.name} holds {stored.number_type}, which is not supported.",
            "Get it in 16 bit, or in fp8.",
        )
    shape = stored.shape
    dtype = getattr(torch, _TORCH_NAMES[stored.number_type])

    def shaped(content: Any) -> Any:
        return content.view(dtype).reshape(shape)

    return TensorEntry(
        name=name,
        shape=shape,
        stored_bytes=stored.values * dtype.itemsize,
        block_type=None,
        read=lambda: shaped(_read_bytes(file, stored)),
        path=path,
        offset=stored.offset,
        shaped=shaped,
        dtype=dtype,
    )


def _read_bytes(file: FileIdentity, stored: StoredTensor) -> Any:
    """Read one tensor's bytes, from the file that was checked.

    Raises:
        OSError: it is gone, was replaced, or is cut short.
    """
    import torch

    content = torch.empty(stored.size_bytes, dtype=torch.uint8, device="cpu")
    if not stored.size_bytes:
        return content
    array: Any = content.numpy()
    target, filled = memoryview(array), 0
    with file.path.open("rb", buffering=0) as stream:
        if FileIdentity.of(file.path) != file:
            raise OSError(errno.ESTALE, "it was replaced while it was loaded", str(file.path))
        stream.seek(stored.offset)
        while filled < stored.size_bytes:
            got = stream.readinto(target[filled:])
            if not got:
                raise OSError(errno.EIO, "it was cut short while it was loaded", str(file.path))
            filled += got
    return content


_TORCH_NAMES = {
    "BOOL": "bool",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
"""The format's name of a number type -> torch's (safetensors 0.8, torch.py)."""


class GgufCheckpoint:
    """One GGUF file.

    Raises:
        ValueError: it is none.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self._reader = gguf.GGUFReader(path)
        self.entries = {item.name: _gguf_entry(path, item) for item in self._reader.tensors}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Unmap the file, once no tensor is a view of it."""
        del self._reader


def _gguf_entry(path: Path, item: Any) -> TensorEntry:
    return TensorEntry(
        name=item.name,
        # ggml names the innermost dimension first.
        shape=tuple(int(side) for side in reversed(item.shape)),
        stored_bytes=int(item.n_bytes),
        block_type=item.tensor_type.name,
        read=lambda: _packed_tensor(item),
        path=path,
        offset=int(item.data_offset),
        shaped=_packer(item),
    )


def _packed_tensor(item: Any) -> Any:
    import torch

    # A copy: torch warns of arrays that cannot be written to, which a mapped file's cannot.
    return _for_diffusers(torch.from_numpy(item.data.copy()), item.tensor_type)


def _packer(item: Any) -> Callable[[Any], Any]:
    """Return what makes a tensor of its bytes; it keeps no view of the file."""
    import torch

    dtype = torch.from_numpy(item.data[:0].copy()).dtype
    shape, kind = item.data.shape, item.tensor_type
    return lambda stored: _for_diffusers(stored.view(dtype).reshape(shape), kind)


def _for_diffusers(data: Any, kind: Any) -> Any:
    """Return a tensor as diffusers 0.42.1 has it: plain numbers, or packed blocks with their type.

    The gguf package has BF16 as bytes.
    """
    import torch
    from diffusers.quantizers.gguf.utils import GGUFParameter

    if kind.name in _NUMBERS:
        return data.view(getattr(torch, _NUMBERS[kind.name]))
    return GGUFParameter(data, quant_type=kind)


@dataclass(frozen=True)
class TensorReading:
    """One part that is being read."""

    part: str
    """`transformer`, `text_encoder_2`, ...: for messages."""
    config: Path
    """Folder with the part's config.json."""
    checkpoint: Checkpoint
    device: str
    """Where tensors are put, and quantised if they are."""
    progress: ReadProgress
    fetched: FetchedTensors = field(default_factory=FetchedTensors)
    """Tensors that were read ahead, which are not read again."""
    prefixes: tuple[str, ...] = ()
    """Before the part's names, in files that hold several parts."""

    @property
    def entries(self) -> dict[str, TensorEntry]:
        """The part's own tensors, by their names without a prefix."""
        entries = self.checkpoint.entries
        for prefix in self.prefixes:
            own = {n.removeprefix(prefix): e for n, e in entries.items() if n.startswith(prefix)}
            if own:
                return own
        return dict(entries)

    def handles(self, entries: Mapping[str, TensorEntry]) -> dict[str, Handle]:
        """Return a handle for each tensor, and expect to read all of them."""
        self.progress.expect(sum(entry.stored_bytes for entry in entries.values()))
        # Of the files that are open now: tensors fetched from older ones are not used.
        files = {path: FileIdentity.of(path) for path in {e.path for e in entries.values()}}
        take = self.fetched.take
        return {
            name: Handle(
                entry, self.device, self.progress, partial(take, files[entry.path], entry.name)
            )
            for name, entry in entries.items()
        }


def open_checkpoint(files: Sequence[Path]) -> Checkpoint:
    """Return the tensors of a part's files.

    Raises:
        ValueError: (or an error of the library) a file is damaged.
        OSError: a file cannot be read.
    """
    if len(files) == 1 and is_gguf(files[0]):
        return GgufCheckpoint(files[0])
    return SafetensorsCheckpoint(files)
