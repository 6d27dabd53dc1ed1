"""A part of a pipeline: a model whose weights are on the card, in main memory, or in both.

Owns where they are and how the model is cut into units. What somebody else puts onto a model later
(a LoRA) is not the part's own: it goes onto the card and off it with the model, whole. So does what
a variant of the model has of its own; what it shares with the model moves for both at once.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from flux_mcp.pipelines.formats.leaves import leaves_of, nbytes_of, rebuilt
from flux_mcp.pipelines.formats.slots import Slot, slots_of
from flux_mcp.pipelines.placing.ring import IN_FLIGHT, Ring
from flux_mcp.pipelines.placing.units import Traffic, Unit

CHUNK_BYTES = 256 * 2**20
"""Of a unit that is no block of a transformer: what exists twice while its copy is made."""


class Part:
    """One model.

    Args:
        module: It, with its weights in place.
        device: The card.
        traffic: Counts what is copied.
        on_card: Whether the weights are on the card now.
    """

    def __init__(self, module: Any, device: str, traffic: Traffic, *, on_card: bool) -> None:
        self.module = module
        self._share: float | None = 1.0 if on_card else None
        """Of the weights, kept on the card; `None`: they are not there."""
        self._device = device
        self._traffic = traffic
        self._ring: Ring | None = None
        self._guests: list[tuple[Slot, Any, Any]] = []
        """Slot, tensor in main memory, tensor on the card."""
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
        """Whether all of it has a copy in main memory."""
        return all(unit.in_host for unit in self._units)

    @property
    def is_on_card(self) -> bool:
        """Whether it can work now."""
        return self._share is not None

    @property
    def card_bytes(self) -> int:
        """Of the card's memory that it takes now, LoRAs left out."""
        if not self.is_on_card:
            return 0
        if self._ring is None:
            return self.nbytes
        away = sum(unit.nbytes for _, unit in self._streamed)
        return self.nbytes - away + self._ring.nbytes

    def card_bytes_at(self, share: float) -> int:
        """Return what it would take of the card with this share of it kept there."""
        streamed = self._to_stream(share)
        if not streamed:
            return self.nbytes
        sizes = [unit.nbytes for _, unit in streamed]
        return self.nbytes - sum(sizes) + IN_FLIGHT * max(sizes)

    @property
    def is_streaming(self) -> bool:
        """Whether its blocks come onto the card one after another."""
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
        """Whether just this share of it is on the card."""
        return self._share == share

    def enter(self, share: float = 1.0) -> None:
        """Bring the weights onto the card.

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
                    unit.to_card()
            self._streamed = streamed
            self._ring = Ring(streamed, self._device) if streamed else None
            self._bring_guests()
        except BaseException:
            # The card had no room: what is there already must not stay.
            self.leave()
            raise

    def leave(self) -> None:
        """Take the weights off the card; copies them only if main memory has none yet."""
        if not self.is_on_card:
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
        """Have all weights in main memory, where they stay until `drop_host_copy`."""
        for unit in self._units:
            if unit.in_host:
                continue
            unit.make_host_copy(from_card=self.is_on_card)
            if not self.is_on_card:
                # At once: else all of it would be there twice.
                unit.to_host()

    def drop_host_copy(self) -> None:
        """Give main memory back; only while all of it is on the card."""
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
            on_card = rebuilt(tensor, [_copied(leaf, self._device) for leaf in leaves_of(tensor)])
            self._traffic.to_card_bytes += nbytes_of(tensor)
            self._guests.append((slot, tensor, on_card))
            slot.put(on_card)

    def _send_guests_away(self) -> None:
        there = {id(on_card): tensor for _, tensor, on_card in self._guests}
        for slot in self._guest_slots():
            tensor = slot.tensor
            if (in_host := there.get(id(tensor))) is None:
                # It came while the model was on the card.
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
