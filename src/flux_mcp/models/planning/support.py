"""What can be loaded: by the extras that are installed, or everything the tables know. Pure.

machine.py says what that is on this machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from flux_mcp.models.families import PipelineClass
from flux_mcp.models.formats import format_of, load_formats
from flux_mcp.models.memory import LoadedAs
from flux_mcp.models.parts import PLACEMENTS, Placement, Precision, load_parts
from flux_mcp.models.registry import ModelSpec, WeightsForm

TILES_PX: tuple[int | None, ...] = (None, 1024, 512)
"""1024 is diffusers' own size for FLUX; an image no larger than a tile is decoded as without."""


@dataclass(frozen=True)
class LoadSupport:
    """Pipelines, forms of weights, precisions and placements that can be loaded."""

    pipelines: frozenset[PipelineClass]
    forms: frozenset[WeightsForm]
    precisions: frozenset[Precision]
    placements: frozenset[Placement]
    tiles_px: tuple[int | None, ...]
    """Sides of the tiles a VAE may decode in, best first; `None`: the whole image at once."""

    def can_load(self, spec: ModelSpec) -> bool:
        """Whether a row can be loaded once its weights are on this disk."""
        return (
            spec.pipeline in self.pipelines
            and spec.form in self.forms
            and spec.precision in self.precisions
            and _can_be_merged_onto(spec, spec.precision)
        )

    def can_load_as(self, spec: ModelSpec, loaded_as: LoadedAs) -> bool:
        """Whether a row can be loaded in a certain way."""
        streams = load_parts().placement[loaded_as.placement].streams
        return (
            self.can_load(spec)
            and {loaded_as.precision, loaded_as.text_precision} <= self.precisions
            and loaded_as.placement in self.placements
            and loaded_as.tile_px in self.tiles_px
            and _can_be_merged_onto(spec, loaded_as.precision)
            and (not streams or format_of(loaded_as.precision).streams)
        )


def _can_be_merged_onto(spec: ModelSpec, precision: Precision) -> bool:
    """Whether a base in a precision can take the LoRA of a row; true for rows that are none."""
    return not spec.lora or format_of(precision).takes_loras


def load_support_with(extras: Iterable[str]) -> LoadSupport:
    """Return what can be loaded with these extras of the package, and no others."""
    formats = load_formats()
    lacking = set(formats.extra) - set(extras)
    without = {pipeline for name in lacking for pipeline in formats.extra[name].pipelines}
    return LoadSupport(
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


def full_load_support() -> LoadSupport:
    """Return support for every row in every way: for plans of what could be."""
    return LoadSupport(
        pipelines=frozenset(get_args(PipelineClass)),
        forms=frozenset(get_args(WeightsForm)),
        precisions=frozenset(load_parts().precision),
        placements=frozenset(PLACEMENTS),
        tiles_px=TILES_PX,
    )
