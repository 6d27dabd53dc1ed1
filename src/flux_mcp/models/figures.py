"""Figures: what finished jobs took on this machine, and what that says about the next one. Pure.

jobs/measurements.py keeps them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flux_mcp.models.memory import Holding, Load, Pieces, card_gib
from flux_mcp.models.parts import Placement, Precision
from flux_mcp.models.registry import Kind


@dataclass(frozen=True)
class Figure:
    """What a finished job took on this machine."""

    model: str
    kind: Kind
    precision: Precision
    placement: Placement
    megapixels: float
    """Token megapixels of a pass (memory.py)."""
    seconds_per_step: float
    peak_gib: float | None = None
    """Most of the card's memory, the context too; `None` where nobody measured it."""


def figures_of(
    figures: Sequence[Figure], model: str, kind: Kind, holding: Holding
) -> tuple[Figure, ...]:
    """Return the figures of a model that was held so."""
    way = (model, kind, holding.precision, holding.placement)
    return tuple(f for f in figures if (f.model, f.kind, f.precision, f.placement) == way)


def learned_seconds(figures: Sequence[Figure], load: Load, steps: int) -> float | None:
    """Return the seconds of so many steps by the median rate; a step grows with its megapixels."""
    rates = [f.seconds_per_step / f.megapixels for f in figures if f.megapixels > 0]
    return median(rates) * load.token_megapixels * steps if rates else None


def learned_offset_gib(figures: Sequence[Figure], pieces: Pieces, holding: Holding) -> float:
    """Return how far measured peaks lay above what is computed: the median, in GiB.

    Never below zero: a job that needed less than another may need more the next time.
    """
    offsets = [
        f.peak_gib - card_gib(pieces, holding, Load(f.megapixels))
        for f in figures
        if f.peak_gib is not None
    ]
    return max(0.0, median(offsets)) if offsets else 0.0
