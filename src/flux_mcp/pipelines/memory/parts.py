"""A part of a pipeline: a model whose weights are on the GPU, in host memory, or in both.

A part is cut into units (units.py): the blocks of a transformer, which may stream (ring.py), and
the rest in chunks. Tensors that others attach to the model later (a LoRA) are not the part's own:
they go to the GPU and back with the model, whole. So does what a variant of the model has of its
own; what it shares with the model moves for both at once.

"GPU" is the device that draws. In tests a CPU may play it: its weights are then other bytes of the
same memory.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from flux_mcp.pipelines.loading.slots import Slot, leaves_of, nbytes_of, rebuilt, slots_of
from flux_mcp.pipelines.memory.ring import IN_FLIGHT, Ring
from flux_mcp.pipelines.memory.units import CopiedBytes, Unit

CHUNK_BYTES = 256 * 2**20
"""Size of a unit that is no block of a transformer; it exists twice while its copy is made."""


class Part:
    """One model.

    Args:
        module: The model, with its weights loaded.
        device: The GPU.
        copied: Counts what is copied.
        on_gpu: Whether the weights are on the GPU now.
    """

    def __init__(self, module: Any, device: str, copied: CopiedBytes, *, on_gpu: bool) -> None:
        self.module = module
        self._share: float | None = 1.0 if on_gpu else None
        """Share of the weights that is on the GPU all the time; `None`: none are there."""
        self._device = device
        self._copied = copied
        self._ring: Ring | None = None
        self._attached: list[tuple[Slot, Any, Any]] = []
        """Of tensors that others attached: slot, tensor in host memory, tensor on the GPU."""
        self._streamed: list[tuple[list[Any], Unit]] = []
        self._variants: list[weakref.ref[Any]] = []
        blocks = _blocks_of(module)
        owner = {
            id(part): number for number, block in enumerate(blocks) for part in block.modules()
        }
        inside: list[list[Slot]] = [[] for _ in blocks]
        outside: list[Slot] = []
        for slot in slots_of(module):
            number = owner.get(id(slot.module))
            (outside if number is None else inside[number]).append(slot)
        self._blocks = [
            ([block], Unit(slots, device, copied))
            for block, slots in zip(blocks, inside, strict=True)
        ]
        self._rest = [Unit(slots, device, copied) for slots in _chunks(outside)]
        self._own = _names_of(slot for slots in (outside, *inside) for slot in slots)

    @property
    def nbytes(self) -> int:
        """What all its weights take."""
        return sum(unit.nbytes for unit in self._units)

    @property
    def can_stream(self) -> bool:
        """Whether it has blocks that can come to the GPU one after another."""
        return bool(self._blocks)

    @property
    def in_host(self) -> bool:
        """Whether all of it has a copy in host memory."""
        return all(unit.in_host for unit in self._units)

    @property
    def is_on_gpu(self) -> bool:
        """Whether it can work now."""
        return self._share is not None

    @property
    def gpu_bytes(self) -> int:
        """What it takes of the GPU now, without LoRAs."""
        if not self.is_on_gpu:
            return 0
        if self._ring is None:
            return self.nbytes
        away = sum(unit.nbytes for _, unit in self._streamed)
        return self.nbytes - away + self._ring.nbytes

    def gpu_bytes_at(self, share: float) -> int:
        """Return the bytes it would take of the GPU with this share of its weights kept there."""
        streamed = self._to_stream(share)
        if not streamed:
            return self.nbytes
        sizes = [unit.nbytes for _, unit in streamed]
        return self.nbytes - sum(sizes) + IN_FLIGHT * max(sizes)

    @property
    def is_streaming(self) -> bool:
        """Whether its blocks come onto the GPU one after another."""
        return self._ring is not None

    def join(self, variant: Any) -> None:
        """Move a model made of the same tensors along with this one, as long as it exists.

        Args:
            variant: The model, with as many blocks. Not while blocks stream.
        """
        slots = slots_of(variant)
        shared = [slot for unit in self._units for slot in unit.tie(slots)]
        self._own |= _names_of(shared)
        twins = _blocks_of(variant)
        for (modules, _), twin in zip(self._blocks, twins, strict=True):
            modules.append(twin)
        self._variants.append(weakref.ref(variant))
        weakref.finalize(variant, self._part_from, shared, twins).atexit = False

    def _part_from(self, shared: list[Slot], twins: list[Any]) -> None:
        for unit in self._units:
            unit.untie(shared)
        self._own -= _names_of(shared)
        for (modules, _), twin in zip(self._blocks, twins, strict=True):
            modules.remove(twin)

    def is_at(self, share: float) -> bool:
        """Whether exactly this share of its weights is kept on the GPU."""
        return self._share == share

    def to_gpu(self, share: float = 1.0) -> None:
        """Copy the weights to the GPU.

        Args:
            share: What is kept there; the other blocks are copied each time they work.
        """
        if self.is_at(share):
            return
        self.to_host()
        self.make_host_copy()
        streamed = self._to_stream(share)
        away = {id(unit) for _, unit in streamed}
        self._share = share
        try:
            for unit in self._units:
                if id(unit) not in away:
                    unit.to_gpu()
            self._streamed = streamed
            self._ring = Ring(streamed, self._device) if streamed else None
            self._attached_to_gpu()
        except BaseException:
            # The GPU had no room: what was copied already must not stay.
            self.to_host()
            raise

    def to_host(self) -> None:
        """Take the weights off the GPU; they are copied only if host memory does not have them."""
        if not self.is_on_gpu:
            return
        self.make_host_copy()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._streamed = []
        for unit in self._units:
            unit.to_host()
        self._attached_to_host()
        self._share = None

    def make_host_copy(self) -> None:
        """Copy all weights to host memory, where they stay until `drop_host_copy`."""
        for unit in self._units:
            if unit.in_host:
                continue
            unit.make_host_copy(from_gpu=self.is_on_gpu)
            if not self.is_on_gpu:
                # One by one: else all of them would exist twice.
                unit.to_host()

    def drop_host_copy(self) -> None:
        """Free host memory; only while all weights are on the GPU."""
        if not self.is_at(1.0):
            raise RuntimeError("the only copy of weights cannot be dropped")
        for unit in self._units:
            unit.drop_host_copy()

    @property
    def _units(self) -> list[Unit]:
        return [*self._rest, *(unit for _, unit in self._blocks)]

    def _to_stream(self, share: float) -> list[tuple[list[Any], Unit]]:
        """Choose the blocks that stream, spread evenly: each copy then has the longest time.

        What lies outside of the blocks is kept, and as many blocks as the share has room for.
        """
        room = share * self.nbytes - sum(unit.nbytes for unit in self._rest)
        if share >= 1 or len(self._blocks) <= IN_FLIGHT:
            return []
        total = sum(unit.nbytes for _, unit in self._blocks)
        kept_share, kept, streamed = max(0.0, room) / total, 0.0, []
        passed = 0
        for modules, unit in self._blocks:
            passed += unit.nbytes
            if kept + unit.nbytes <= kept_share * passed:
                kept += unit.nbytes
            else:
                streamed.append((modules, unit))
        return streamed if len(streamed) > IN_FLIGHT else []

    def _attached_slots(self) -> Iterator[Slot]:
        living = [model for ref in self._variants if (model := ref()) is not None]
        for slot in (slot for model in (self.module, *living) for slot in slots_of(model)):
            if (id(slot.module), slot.name) not in self._own:
                yield slot

    def _attached_to_gpu(self) -> None:
        for slot in self._attached_slots():
            tensor = slot.tensor
            on_gpu = rebuilt(tensor, [_copied(leaf, self._device) for leaf in leaves_of(tensor)])
            self._copied.to_gpu_bytes += nbytes_of(tensor)
            self._attached.append((slot, tensor, on_gpu))
            slot.put(on_gpu)

    def _attached_to_host(self) -> None:
        there = {id(on_gpu): tensor for _, tensor, on_gpu in self._attached}
        for slot in self._attached_slots():
            tensor = slot.tensor
            if (in_host := there.get(id(tensor))) is None:
                # It was attached while the model was on the GPU.
                leaves = [_copied(leaf, "cpu") for leaf in leaves_of(tensor)]
                in_host = rebuilt(tensor, leaves)
                self._copied.to_host_bytes += nbytes_of(tensor)
            slot.put(in_host)
        self._attached = []


def _blocks_of(module: Any) -> list[Any]:
    """Return the blocks of a transformer of diffusers, in the order in which they work."""
    from diffusers.models.modeling_utils import ModelMixin
    from torch.nn import ModuleList

    if not isinstance(module, ModelMixin):
        return []
    lists = [child for child in module.children() if isinstance(child, ModuleList)]
    return [block for blocks in lists for block in blocks]


def _names_of(slots: Iterable[Slot]) -> set[tuple[int, str]]:
    return {(id(slot.module), slot.name) for slot in slots}


def _chunks(slots: list[Slot]) -> list[list[Slot]]:
    """Cut slots into chunks of about `CHUNK_BYTES`; tied ones stay together."""
    tied: dict[int, list[Slot]] = {}
    for slot in slots:
        tied.setdefault(id(slot.tensor), []).append(slot)
    chunks: list[list[Slot]] = []
    size = CHUNK_BYTES
    for group in tied.values():
        if size >= CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].extend(group)
        size += nbytes_of(group[0].tensor)
    return chunks


def _copied(leaf: Any, device: str) -> Any:
    return leaf.to(device, copy=True)
