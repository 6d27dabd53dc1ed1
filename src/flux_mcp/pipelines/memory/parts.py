"""A part of a pipeline: a model whose weights are on the GPU, in host memory, or in both.

Owns where they are and how the model is cut into units. What somebody else puts onto a model later
(a LoRA) is not the part's own: it goes onto the GPU and off it with the model, whole. So does what
a variant of the model has of its own; what it shares with the model moves for both at once.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from flux_mcp.pipelines.loading.slots import Slot, leaves_of, nbytes_of, rebuilt, slots_of
from flux_mcp.pipelines.memory.units import CopiedBytes, Unit

IN_FLIGHT = 2
"""Blocks on the GPU at once; models/memory.py plans with as many."""


class Ring:
    """Streams units onto the GPU, each for as long as its module works.

    Args:
        blocks: In the order in which they work, more than `IN_FLIGHT`: the modules that work with
            the same weights, of which one does at a time, and those weights.
        device: The GPU.
    """

    def __init__(self, blocks: Sequence[tuple[Sequence[Any], Unit]], device: str) -> None:
        self._units = [unit for _, unit in blocks]
        self.nbytes = IN_FLIGHT * max(unit.nbytes for unit in self._units)
        """Of the GPU's memory."""
        self._streams = _Streams(device)
        size = self.nbytes // IN_FLIGHT
        self._memory = [self._units[0].new_block(size) for _ in range(IN_FLIGHT)]
        self._fetched: dict[int, int] = {}
        """Block -> the piece of memory it is in, or on its way to."""
        self._hooks = []
        for number, (modules, _) in enumerate(blocks):
            for module in modules:
                self._hooks.append(module.register_forward_pre_hook(self._before(number)))
                self._hooks.append(module.register_forward_hook(self._after(number)))

    def close(self) -> None:
        """Take the hooks off and give the model the weights in host memory back."""
        for hook in self._hooks:
            hook.remove()
        for unit in self._units:
            unit.to_host()
        # What is still on its way is on its way into this memory.
        self._streams.finish()
        self._memory.clear()

    def _before(self, number: int) -> Any:
        def bring(_module: Any, _inputs: Any) -> None:
            if number not in self._fetched:
                # The first step, or the one after a step that broke off.
                self._fetched.clear()
                for piece in range(IN_FLIGHT):
                    self._fetch((number + piece) % len(self._units), piece)
            piece = self._fetched[number]
            self._streams.wait_for_copy(piece)
            self._units[number].work_from(self._memory[piece])

        return bring

    def _after(self, number: int) -> Any:
        def leave(_module: Any, _inputs: Any, _output: Any) -> None:
            self._units[number].to_host()
            piece = self._fetched.pop(number)
            self._fetch((number + IN_FLIGHT) % len(self._units), piece)

        return leave

    def _fetch(self, number: int, piece: int) -> None:
        with self._streams.copying(piece):
            self._units[number].copy_to(self._memory[piece])
        self._fetched[number] = piece


class _Streams:
    """Keeps copies and work apart and in order; does nothing where there are no streams."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda if device.startswith("cuda") else None
        self._device = device
        self._side = None if self._cuda is None else self._cuda.Stream(device)
        self._copied: dict[int, Any] = {}

    def copying(self, piece: int) -> Any:
        """Copy beside the work, once what used this piece of memory is done."""
        if self._cuda is None or self._side is None:
            return nullcontext()
        return _Copying(self._cuda, self._device, self._side, self._copied, piece)

    def wait_for_copy(self, piece: int) -> None:
        """Let the work that follows wait until the piece is filled."""
        if self._cuda is not None:
            self._cuda.current_stream(self._device).wait_event(self._copied[piece])

    def finish(self) -> None:
        """Let the work that follows wait for every copy."""
        if self._cuda is not None:
            self._cuda.current_stream(self._device).wait_stream(self._side)


class _Copying:
    """A copy on the side stream, behind the work so far and before the event that marks it."""

    def __init__(
        self, cuda: Any, device: str, side: Any, copied: dict[int, Any], piece: int
    ) -> None:
        self._cuda = cuda
        self._side = side
        self._work = cuda.current_stream(device)
        self._copied = copied
        self._piece = piece
        self._context = cuda.stream(side)

    def __enter__(self) -> None:
        self._side.wait_stream(self._work)
        self._context.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._context.__exit__(*raised)
        event = self._cuda.Event()
        event.record(self._side)
        self._copied[self._piece] = event


CHUNK_BYTES = 256 * 2**20
"""Of a unit that is no block of a transformer: what exists twice while its copy is made."""


class Part:
    """One model.

    Args:
        module: It, with its weights in place.
        device: The GPU.
        traffic: Counts what is copied.
        on_gpu: Whether the weights are on the GPU now.
    """

    def __init__(self, module: Any, device: str, traffic: CopiedBytes, *, on_gpu: bool) -> None:
        self.module = module
        self._share: float | None = 1.0 if on_gpu else None
        """Of the weights, kept on the GPU; `None`: they are not there."""
        self._device = device
        self._traffic = traffic
        self._ring: Ring | None = None
        self._guests: list[tuple[Slot, Any, Any]] = []
        """Slot, tensor in host memory, tensor on the GPU."""
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
            ([block], Unit(slots, device, traffic))
            for block, slots in zip(blocks, inside, strict=True)
        ]
        self._rest = [Unit(slots, device, traffic) for slots in _chunks(outside)]
        self._own = _names_of(slot for slots in (outside, *inside) for slot in slots)

    @property
    def nbytes(self) -> int:
        """Of all its weights."""
        return sum(unit.nbytes for unit in self._units)

    @property
    def can_stream(self) -> bool:
        """Whether it has blocks that can come one after another."""
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
        """Of the GPU's memory that it takes now, LoRAs left out."""
        if not self.is_on_gpu:
            return 0
        if self._ring is None:
            return self.nbytes
        away = sum(unit.nbytes for _, unit in self._streamed)
        return self.nbytes - away + self._ring.nbytes

    def gpu_bytes_at(self, share: float) -> int:
        """Return what it would take of the GPU with this share of it kept there."""
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
        """Take in a model made of the same tensors, as long as it lives.

        Args:
            variant: It, with as many blocks. Not while blocks stream.
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
        """Whether just this share of it is on the GPU."""
        return self._share == share

    def enter(self, share: float = 1.0) -> None:
        """Bring the weights onto the GPU.

        Args:
            share: Of them, to be kept there; the other blocks come when they work.
        """
        if self.is_at(share):
            return
        self.leave()
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
            self._bring_guests()
        except BaseException:
            # The GPU had no room: what is there already must not stay.
            self.leave()
            raise

    def leave(self) -> None:
        """Take the weights off the GPU; copies them only if host memory has none yet."""
        if not self.is_on_gpu:
            return
        self.make_host_copy()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._streamed = []
        for unit in self._units:
            unit.to_host()
        self._send_guests_away()
        self._share = None

    def make_host_copy(self) -> None:
        """Have all weights in host memory, where they stay until `drop_host_copy`."""
        for unit in self._units:
            if unit.in_host:
                continue
            unit.make_host_copy(from_gpu=self.is_on_gpu)
            if not self.is_on_gpu:
                # At once: else all of it would be there twice.
                unit.to_host()

    def drop_host_copy(self) -> None:
        """Give host memory back; only while all of it is on the GPU."""
        if not self.is_at(1.0):
            raise RuntimeError("the only copy of weights cannot be dropped")
        for unit in self._units:
            unit.drop_host_copy()

    @property
    def _units(self) -> list[Unit]:
        return [*self._rest, *(unit for _, unit in self._blocks)]

    def _to_stream(self, share: float) -> list[tuple[list[Any], Unit]]:
        """Choose the blocks that do not stay, spread evenly: their copies have the longest time.

        Kept is what lies outside of the blocks, and as many blocks as the share has room for.
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

    def _guest_slots(self) -> Iterator[Slot]:
        living = [model for ref in self._variants if (model := ref()) is not None]
        for slot in (slot for model in (self.module, *living) for slot in slots_of(model)):
            if (id(slot.module), slot.name) not in self._own:
                yield slot

    def _bring_guests(self) -> None:
        for slot in self._guest_slots():
            tensor = slot.tensor
            on_gpu = rebuilt(tensor, [_copied(leaf, self._device) for leaf in leaves_of(tensor)])
            self._traffic.to_gpu_bytes += nbytes_of(tensor)
            self._guests.append((slot, tensor, on_gpu))
            slot.put(on_gpu)

    def _send_guests_away(self) -> None:
        there = {id(on_gpu): tensor for _, tensor, on_gpu in self._guests}
        for slot in self._guest_slots():
            tensor = slot.tensor
            if (in_host := there.get(id(tensor))) is None:
                # It came while the model was on the GPU.
                leaves = [_copied(leaf, "cpu") for leaf in leaves_of(tensor)]
                in_host = rebuilt(tensor, leaves)
                self._traffic.to_host_bytes += nbytes_of(tensor)
            slot.put(in_host)
        self._guests = []


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
    """Cut slots into pieces of about `CHUNK_BYTES`; tied ones stay together."""
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
