"""Which placement there is room for, by the numbers that plans are made with. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from flux_mcp.models.formats import format_of, text_precision
from flux_mcp.models.memory import GIB, Holding, Load, card_gib, ram_gib
from flux_mcp.models.parts import PLACEMENTS, Placement, load_parts
from flux_mcp.models.registry import ModelSpec


@dataclass(frozen=True)
class Room:
    """What a row takes to draw something."""

    spec: ModelSpec
    load: Load
    tile_px: int | None = None

    def card_bytes(self, placement: Placement) -> int:
        """Return the most of the card's memory, without the driver's context."""
        taken = card_gib(self.spec.pieces, self._holding(placement), self.load)
        return int((taken - load_parts().machine.context_gib) * GIB)

    def host_bytes(self, placement: Placement) -> int:
        """Return what waits in main memory."""
        taken = ram_gib(self.spec.pieces, self._holding(placement))
        return int((taken - load_parts().machine.base_ram_gib) * GIB)

    def _holding(self, placement: Placement) -> Holding:
        return Holding(self.spec.precision, text_precision(self.spec), placement, self.tile_px)


def room_for(spec: ModelSpec, load: Load | None, tile_px: int | None) -> Room:
    """Return what a row takes; without a load, for a picture of its own size."""
    return Room(spec, load or Load(spec.default_pixels / 1e6), tile_px)


def leaner(placement: Placement, spec: ModelSpec) -> Iterator[Placement]:
    """Yield a placement, and after it those that need less of the card, as the format allows."""
    yield placement
    for other in PLACEMENTS[PLACEMENTS.index(placement) + 1 :]:
        if format_of(spec.precision).streams or not load_parts().placement[other].streams:
            yield other
