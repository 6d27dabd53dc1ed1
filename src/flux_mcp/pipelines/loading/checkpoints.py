"""The tensors of safetensors and GGUF files, known by name and shape before they are read.

A tensor is read when a library asks for it, or taken from what was read ahead, copied to the device
at once, and counted: progress is reported of what has happened. Below: which files and folders can
be loaded in which precision, by their headers.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Protocol, Self

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import format_of, load_formats
from flux_mcp.models.parts import Precision
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
    """Returns a copy on the CPU or a view of the file."""
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
            # Always a copy: a view of a mapped file would be read later and uncounted, and would
            # end this process if the file were cut short by then.
            tensor = self._entry.read().to(self._device, copy=True)
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

    Args:
        paths: Shards of one model, or one file.

    Raises:
        safetensors.SafetensorError: a file is damaged.
        OSError: a file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        from safetensors import safe_open

        self.entries: dict[str, TensorEntry] = {}
        with ExitStack() as files:
            for path in paths:
                file = files.enter_context(safe_open(path, framework="pt", device="cpu"))
                self.entries |= _safetensors_entries(path, file)
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def _safetensors_entries(path: Path, file: Any) -> dict[str, TensorEntry]:
    """Return a file's tensors; they follow the header one after another, in this order.

    Source: github.com/huggingface/safetensors, README, "Format"; the library refuses holes.
    """
    with path.open("rb") as stream:
        offset = 8 + int.from_bytes(stream.read(8), "little")
    entries = {}
    for name in file.offset_keys():
        entries[name] = _safetensors_entry(path, offset, file, name)
        offset += entries[name].stored_bytes
    return entries


def _safetensors_entry(path: Path, offset: int, file: Any, name: str) -> TensorEntry:
    import torch

    view = file.get_slice(name)
    shape = tuple(view.get_shape())
    dtype = getattr(torch, _TORCH_NAMES[view.get_dtype()])
    return TensorEntry(
        name=name,
        shape=shape,
        stored_bytes=prod(shape) * dtype.itemsize,
        block_type=None,
        read=lambda: file.get_tensor(name),
        path=path,
        offset=offset,
        shaped=lambda stored: stored.view(dtype).reshape(shape),
        dtype=dtype,
    )


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


# --- what can be loaded --------------------------------------------------------------------------

GGUF_SUFFIX = ".gguf"
FILE_SUFFIXES = frozenset({".safetensors", GGUF_SUFFIX})
"""Neither can run code."""


def open_checkpoint(files: Sequence[Path]) -> Checkpoint:
    """Return the tensors of a part's files.

    Raises:
        ValueError: (or an error of the library) a file is damaged.
        OSError: a file cannot be read.
    """
    if len(files) == 1 and files[0].suffix == GGUF_SUFFIX:
        return GgufCheckpoint(files[0])
    return SafetensorsCheckpoint(files)


def stored_method(config: Mapping[str, Any]) -> str:
    """Return what quantised weights before they were stored, by a config.json; empty for none."""
    stored = config.get("quantization_config")
    return str(stored.get("quant_method", "unknown")) if isinstance(stored, dict) else ""


def check_folder(part: str, method: str, precision: Precision) -> None:
    """Check a folder's weights.

    Args:
        part: For messages.
        method: What quantised them before they were stored; empty for none.
        precision: What they are to be loaded as.

    Raises:
        WeightsInvalidError: they cannot be.
    """
    row = format_of(precision)
    if row.from_file_only and method != row.method:
        raise WeightsInvalidError(
            f"{part} cannot be made into {precision} while loading.",
            "Name a file that is stored in it, or another precision.",
        )
    if method and method != row.method:
        raise WeightsInvalidError(
            f"{part} is stored quantised by {method}, so it cannot be loaded in {precision}.",
            "Give the row the precision it is stored in, or get the 16 bit weights.",
        )


def check_file(part: str, file: Path, precision: Precision) -> None:
    """Check a file of weights, by its header.

    Raises:
        WeightsInvalidError: it cannot be loaded in `precision`, or it is damaged.
    """
    if file.suffix != GGUF_SUFFIX:
        check_folder(part, "", precision)
        return
    row, found = format_of(precision), _block_type(part, file)
    if found in _UNPACKED:
        if row.method == "gguf":
            raise WeightsInvalidError(
                f"{part} is to be loaded in {precision}, but {file.name} holds {found}: it is not "
                "packed.",
                "Give the row the precision 'bf16', or one that is made while loading.",
            )
        return
    known = {
        one.recipe: name for name, one in load_formats().format.items() if one.method == "gguf"
    }
    if found not in known:
        raise WeightsInvalidError(
            f"{file.name} holds {found}, a packing of GGUF that is not supported.",
            f"Get the file in one of: {', '.join(sorted(known))}.",
        )
    if found != row.recipe or row.method != "gguf":
        raise WeightsInvalidError(
            f"{part} is to be loaded in {precision}, but {file.name} is a GGUF file that holds "
            f"{found}.",
            f"Give the row the precision '{known[found]}'.",
        )


def _block_type(part: str, file: Path) -> str:
    try:
        with open_checkpoint([file]) as checkpoint:
            return main_block_type(checkpoint.entries)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise WeightsInvalidError(
            f"{part} cannot be loaded: {file} is no GGUF file, or damaged: {error}",
            "Get the file again.",
        ) from error


def main_block_type(entries: Mapping[str, TensorEntry]) -> str:
    """Return the block type that most numbers of a GGUF file are packed in.

    Files are mixtures: norms stay in 32 bit, and K-quants give some layers more bits than others.
    """
    values: dict[str, int] = {}
    for entry in entries.values():
        kind = entry.block_type or ""
        values[kind] = values.get(kind, 0) + entry.values
    return max(values, key=lambda kind: values[kind])
