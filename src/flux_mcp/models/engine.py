"""What the engine of this version can load: the one switch between a row and a picture. Pure.

The registry also has rows that the engine cannot draw with yet. They are listed, and planned with
where "as if everything were installed" is asked for (`flux-mcp models plan`); the server offers
what is listed here. Whoever teaches pipelines/ something widens this table.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from flux_mcp.models.formats import format_of, has_extra, load_formats
from flux_mcp.models.memory import Holding
from flux_mcp.models.parts import PLACEMENTS, Placement, Precision, load_parts
from flux_mcp.models.registry import ModelSpec, PipelineClass, WeightsForm

TILES_PX: tuple[int | None, ...] = (None, 1024, 512)
"""1024 is diffusers' own size for FLUX; a picture no larger than a tile is decoded as without."""


@dataclass(frozen=True)
class Engine:
    """Pipelines, files, precisions and placements that can be loaded."""

    pipelines: frozenset[PipelineClass]
    forms: frozenset[WeightsForm]
    precisions: frozenset[Precision]
    placements: frozenset[Placement]
    tiles_px: tuple[int | None, ...]
    """Sides of the tiles a VAE may decode in, best first; `None`: the whole picture at once."""

    def can_load(self, spec: ModelSpec) -> bool:
        """Whether a row can be drawn with once its weights are there."""
        return (
            spec.pipeline in self.pipelines
            and spec.form in self.forms
            and spec.precision in self.precisions
            and _can_be_laid_over(spec, spec.precision)
        )

    def can_hold(self, spec: ModelSpec, holding: Holding) -> bool:
        """Whether it can be held in a way, too."""
        streams = load_parts().placement[holding.placement].streams
        return (
            self.can_load(spec)
            and {holding.precision, holding.text_precision} <= self.precisions
            and holding.placement in self.placements
            and holding.tile_px in self.tiles_px
            and _can_be_laid_over(spec, holding.precision)
            and (not streams or format_of(holding.precision).streams)
        )


def _can_be_laid_over(spec: ModelSpec, precision: Precision) -> bool:
    """Whether a row that is a LoRA can be put on a base held so; others need not be."""
    return not spec.lora or format_of(precision).takes_loras


def this_engine() -> Engine:
    """Return what pipelines/ can do today with the packages that are installed."""
    return engine_with(name for name in load_formats().extra if has_extra(name))


def engine_with(extras: Iterable[str]) -> Engine:
    """Return what pipelines/ can do today with these extras of the package, and no others."""
    formats = load_formats()
    lacking = set(formats.extra) - set(extras)
    without = {pipeline for name in lacking for pipeline in formats.extra[name].pipelines}
    return Engine(
        pipelines=frozenset(get_args(PipelineClass)) - without,
        forms=frozenset(get_args(WeightsForm)),
        precisions=frozenset(
            name
            for name, row in formats.format.items()
            if not row.blocked and row.extra not in lacking
        ),
        placements=frozenset(PLACEMENTS),
        tiles_px=TILES_PX,
    )


def every_engine() -> Engine:
    """Return an engine that can load every row in every way: for plans of what could be."""
    return Engine(
        pipelines=frozenset(get_args(PipelineClass)),
        forms=frozenset(get_args(WeightsForm)),
        precisions=frozenset(load_parts().precision),
        placements=frozenset(PLACEMENTS),
        tiles_px=TILES_PX,
    )
