"""Units: weights that move together, as one copy of one block of bytes.

A unit's copy in host memory is made once and never written again: weights do not change while
images are drawn. Going to the GPU is therefore one copy, and leaving it none: the model's slots get
the tensors in host memory back. On CUDA the host memory is page-locked, so that the GPU copies from
it by itself.
"""

import logging
import weakref
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from flux_mcp.pipelines.loading.slots import Slot, leaves_of, rebuilt

logger = logging.getLogger(__name__)

_READ_BY_EVERY_CONTEXT = 1
"""cudaHostRegisterPortable (CUDA runtime API, memory management)."""


_PAGE_BYTES = 4096
"""Memory is locked in whole pages, and a page only once: no two blocks may share one."""


class HostBlock:
    """Some bytes of host memory.

    Args:
        nbytes: How many.
        locked: Whether to page-lock them, for a CUDA GPU to copy from.
    """

    def __init__(self, nbytes: int, *, locked: bool) -> None:
        import torch

        whole = -(-nbytes // _PAGE_BYTES) * _PAGE_BYTES
        memory = torch.empty(whole + _PAGE_BYTES, dtype=torch.uint8)
        start = -memory.data_ptr() % _PAGE_BYTES
        pages = memory[start : start + whole]
        self.bytes: Any = pages[:nbytes]
        self.is_locked = locked and nbytes > 0 and _lock(pages)
        if self.is_locked:
            # Together with the memory, which must not be freed while it is locked.
            weakref.finalize(self, _unlock, pages).atexit = False


def _lock(pages: Any) -> bool:
    runtime = _runtime()
    pointer, nbytes = pages.data_ptr(), pages.numel()
    code = int(runtime.cudaHostRegister(pointer, nbytes, _READ_BY_EVERY_CONTEXT))
    if code != 0:
        logger.warning(
            "host memory cannot be page-locked (CUDA error %d): copies to the GPU are slower", code
        )
        _forget_error()
    return code == 0


def _unlock(pages: Any) -> None:
    import torch

    # A copy from it may not have ended.
    torch.cuda.synchronize()
    _runtime().cudaHostUnregister(pages.data_ptr())


def _forget_error() -> None:
    """Clear the error that CUDA remembers: else the next kernel would report it."""
    import torch

    with suppress(torch.AcceleratorError):
        torch.zeros(1, device="cuda").add_(1)


def _runtime() -> Any:
    import torch

    return torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch 2.13 has no types for it


ALIGNMENT_BYTES = 512
"""Of each tensor in its block: that of torch's CUDA allocator, with which results round alike."""


@dataclass
class CopiedBytes:
    """Counts the bytes of weights that are copied between host memory and the GPU."""

    to_gpu_bytes: int = 0
    to_host_bytes: int = 0


class _TensorLayout(NamedTuple):
    """Where a plain tensor is in a block of bytes."""

    offset: int
    nbytes: int
    dtype: Any
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, block: Any) -> Any:
        flat = block[self.offset : self.offset + self.nbytes].view(self.dtype)
        return flat.as_strided(self.shape, self.stride)


class Unit:
    """Some of a model's weights.

    Args:
        slots: Where they are; slots that share a tensor go on sharing it.
        device: The GPU.
        copied: Counts what is copied.
    """

    def __init__(self, slots: Iterable[Slot], device: str, copied: CopiedBytes) -> None:
        tied: dict[int, list[Slot]] = {}
        for slot in slots:
            tied.setdefault(id(slot.tensor), []).append(slot)
        self._entries = tuple(tied.values())
        self._device = device
        self._copied = copied
        self._layout: list[tuple[_TensorLayout, ...]] = []
        self._host: HostBlock | None = None
        self._host_tensors: list[Any] = []
        offset = 0
        for entry in self._entries:
            places = []
            for leaf in leaves_of(entry[0].tensor):
                places.append(_place(leaf, offset))
                offset += -(-leaf.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            self._layout.append(tuple(places))
        self.nbytes = offset
        """Size of a block that holds it."""

    @property
    def in_host(self) -> bool:
        """Whether there is a copy in host memory."""
        return self._host is not None

    def make_host_copy(self, *, from_gpu: bool) -> None:
        """Copy the weights to host memory, where they stay; the model keeps those it has.

        Args:
            from_gpu: Whether they are on the GPU; only then the bytes are counted.
        """
        if self._host is not None:
            return
        host = HostBlock(self.nbytes, locked=self._device.startswith("cuda"))
        for entry, places in zip(self._entries, self._layout, strict=True):
            tensor = entry[0].tensor
            mine = [place.of(host.bytes) for place in places]
            for leaf, ours in zip(leaves_of(tensor), mine, strict=True):
                ours.copy_(leaf)
            self._host_tensors.append(rebuilt(tensor, mine))
        self._host = host
        if from_gpu:
            self._copied.to_host_bytes += self.nbytes

    def to_gpu(self) -> None:
        """Copy the weights to the GPU and let the model work with those."""
        block = self.new_block(self.nbytes)
        self.copy_to(block)
        self.work_from(block)

    def new_block(self, nbytes: int) -> Any:
        """Return so many bytes of the GPU's memory, not initialised."""
        import torch

        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def copy_to(self, block: Any) -> None:
        """Copy the weights into a block of the GPU, which is at least as large."""
        host = self._require_host()
        block[: self.nbytes].copy_(host.bytes, non_blocking=True)
        self._copied.to_gpu_bytes += self.nbytes

    def work_from(self, block: Any) -> None:
        """Let the model work with the weights in a block of the GPU."""
        self._require_host()
        for entry, places, tensor in zip(
            self._entries, self._layout, self._host_tensors, strict=True
        ):
            on_gpu = rebuilt(tensor, [place.of(block) for place in places])
            _fill(entry, on_gpu)

    def tie(self, slots: Iterable[Slot]) -> list[Slot]:
        """Add the slots that have a tensor of this unit; return them."""
        here = {id(entry[0].tensor): entry for entry in self._entries}
        shared = [slot for slot in slots if id(slot.tensor) in here]
        for slot in shared:
            here[id(slot.tensor)].append(slot)
        return shared

    def untie(self, slots: Collection[Slot]) -> None:
        """Forget slots that were added."""
        for entry in self._entries:
            entry[1:] = [slot for slot in entry[1:] if slot not in slots]

    def to_host(self) -> None:
        """Let the model have the weights in host memory; nothing is copied."""
        self._require_host()
        for entry, tensor in zip(self._entries, self._host_tensors, strict=True):
            _fill(entry, tensor)

    def drop_host_copy(self) -> None:
        """Free the host memory; for weights that are on the GPU."""
        self._host = None
        self._host_tensors = []

    def _require_host(self) -> HostBlock:
        if self._host is None:
            raise RuntimeError("weights without a copy in host memory cannot be moved")
        return self._host


def _fill(entry: Sequence[Slot], tensor: Any) -> None:
    for slot in entry:
        slot.put(tensor)


def _place(leaf: Any, offset: int) -> _TensorLayout:
    """Return a tensor's layout: its own, or contiguous where its numbers have gaps between them."""
    stride = leaf.stride() if _is_dense(leaf) else _close_together(leaf.shape)
    return _TensorLayout(offset, leaf.nbytes, leaf.dtype, tuple(leaf.shape), tuple(stride))


def _is_dense(leaf: Any) -> bool:
    import torch

    return bool(torch.ops.aten.is_non_overlapping_and_dense(leaf))


def _close_together(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for side in reversed(shape):
        strides.append(step)
        step *= max(1, side)
    return tuple(reversed(strides))
