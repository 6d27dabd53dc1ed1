"""Candidates: every model that may answer a request, in every way it can be held, best first. Pure.

The list is the same whatever the GPU; only what does not fit differs. tiers.py takes from it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from flux_mcp.models.formats import format_of, has_extra, load_formats
from flux_mcp.models.memory import Holding, Load, gpu_gib, ram_gib
from flux_mcp.models.parts import PLACEMENTS, Placement, Precision, load_parts
from flux_mcp.models.planning.speed import (
    Figure,
    figures_of,
    find_gpu,
    job_seconds,
    learned_offset_gib,
    learned_seconds,
)
from flux_mcp.models.qualities import load_qualities
from flux_mcp.models.registry import (
    Kind,
    ModelSpec,
    PipelineClass,
    Quality,
    Registry,
    Structure,
    WeightsForm,
)
from flux_mcp.settings.types import Licence

TILES_PX: tuple[int | None, ...] = (None, 1024, 512)
"""1024 is diffusers' own size for FLUX; an image no larger than a tile is decoded as without."""


@dataclass(frozen=True)
class LoadSupport:
    """Pipelines, files, precisions and placements that can be loaded."""

    pipelines: frozenset[PipelineClass]
    forms: frozenset[WeightsForm]
    precisions: frozenset[Precision]
    placements: frozenset[Placement]
    tiles_px: tuple[int | None, ...]
    """Sides of the tiles a VAE may decode in, best first; `None`: the whole image at once."""

    def can_load(self, spec: ModelSpec) -> bool:
        """Whether a row can be drawn with once its weights are there."""
        return (
            spec.pipeline in self.pipelines
            and spec.form in self.forms
            and spec.precision in self.precisions
            and _can_be_merged_onto(spec, spec.precision)
        )

    def can_hold(self, spec: ModelSpec, holding: Holding) -> bool:
        """Whether it can be held in a way, too."""
        streams = load_parts().placement[holding.placement].streams
        return (
            self.can_load(spec)
            and {holding.precision, holding.text_precision} <= self.precisions
            and holding.placement in self.placements
            and holding.tile_px in self.tiles_px
            and _can_be_merged_onto(spec, holding.precision)
            and (not streams or format_of(holding.precision).streams)
        )


def _can_be_merged_onto(spec: ModelSpec, precision: Precision) -> bool:
    """Whether a row that is a LoRA can be put on a base held so; others need not be."""
    return not spec.lora or format_of(precision).takes_loras


def this_load_support() -> LoadSupport:
    """Return what pipelines/ can do today with the packages that are installed."""
    return load_support_with(name for name in load_formats().extra if has_extra(name))


def load_support_with(extras: Iterable[str]) -> LoadSupport:
    """Return what pipelines/ can do today with these extras of the package, and no others."""
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
    """Return an engine that can load every row in every way: for plans of what could be."""
    return LoadSupport(
        pipelines=frozenset(get_args(PipelineClass)),
        forms=frozenset(get_args(WeightsForm)),
        precisions=frozenset(load_parts().precision),
        placements=frozenset(PLACEMENTS),
        tiles_px=TILES_PX,
    )


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver tells of it."""

    total_gib: float
    free_gib: float
    """What a new pipeline may take; what our own worker holds counts as free."""
    name: str | None = None
    compute: float | None = None
    """CUDA compute capability; `None` counts as enough for everything."""


@dataclass(frozen=True)
class Machine:
    """Where a request will be drawn."""

    gpu: Gpu
    ram_gib: float | None = None
    """Host memory of the machine; `None` counts as enough."""


@dataclass(frozen=True)
class Wanted:
    """What of a request decides its tier."""

    kind: Kind
    quality: Quality
    model: str | None = None
    """The one the caller named."""
    structure: Structure | None = None
    width_px: int | None = None
    """With `height_px`; without them the model's default size counts."""
    height_px: int | None = None
    references: int = 0
    count: int = 1
    batched: bool = False
    """All images in one pass."""
    steps: int | None = None


@dataclass(frozen=True)
class Choices:
    """What there is to choose from.

    Args:
        registry: The rows.
        is_installed: Whether a row's weights are there.
        engine: What can be loaded.
        licences: Classes that may be used where no model is named; `None` for all.
        figures: What finished jobs of this machine took, newest first.
    """

    registry: Registry
    is_installed: Callable[[ModelSpec], bool]
    engine: LoadSupport
    licences: frozenset[Licence] | None = None
    figures: Sequence[Figure] = ()


def as_if_installed(registry: Registry) -> Choices:
    """Return every row, as if its weights were there and everything could be loaded."""
    return Choices(registry, lambda _: True, full_load_support())


@dataclass(frozen=True)
class Candidate:
    """One model held in one way, with what that takes, and why it is not taken."""

    spec: ModelSpec
    holding: Holding
    peak_gib: float
    ram_gib: float
    seconds: float
    is_measured: bool
    """Whether the seconds were learned on this machine, not estimated."""
    refused: str | None = None
    """Why it does not fit; `None` if it does."""


# --- which models may answer ----------------------------------------------------------------------


def real_models(
    registry: Registry, kind: Kind, structure: Structure | None = None
) -> list[ModelSpec]:
    """Return every model of a kind but the demonstration, in the registry's order."""
    return [
        row
        for row in registry[kind].values()
        if not row.is_demonstration and (structure is None or structure in row.structures)
    ]


def recommended(
    registry: Registry, kind: Kind, engine: LoadSupport, structure: Structure | None = None
) -> ModelSpec:
    """Return the real model to install first for a kind, where no GPU is known.

    One free to use if there is any, and of those one that asks for no account.
    """
    real = [row for row in real_models(registry, kind, structure) if engine.can_load(row)]
    return min(real, key=lambda row: row.access_requirements)


def models_for(wanted: Wanted, choices: Choices) -> list[ModelSpec]:
    """Return the real models that may answer, best first: those of the quality, then the others.

    Installed, loadable, of an allowed licence (unless named), with room for the references.
    """
    if wanted.model is not None:
        return [choices.registry.find(wanted.kind, wanted.model)]
    rows = {
        row.id: row
        for row in real_models(choices.registry, wanted.kind, wanted.structure)
        if choices.engine.can_load(row)
        and choices.is_installed(row)
        and (choices.licences is None or row.licence in choices.licences)
    }
    takes_all = {key: r for key, r in rows.items() if wanted.references <= r.max_reference_images}
    rows = takes_all or rows  # where none does, the request is refused with what the first takes
    listed = load_qualities().models[wanted.kind][wanted.quality]
    named = [rows[key] for key in listed if key in rows]
    naming = [r for r in rows.values() if wanted.quality in r.qualities and r.id not in listed]
    others = [r for r in rows.values() if wanted.quality not in r.qualities and r.id not in listed]
    return [*named, *naming, *others]


def is_meant_for(spec: ModelSpec, quality: Quality) -> bool:
    """Whether a model is a good answer to a quality, by the table or by its own row."""
    listed = load_qualities().models[spec.kind][quality]
    return spec.id in listed or quality in spec.qualities


# --- how they can be held, and what that takes ----------------------------------------------------


def candidates(wanted: Wanted, machine: Machine, choices: Choices) -> Iterator[Candidate]:
    """Yield every model that may answer, in every way it can be held, best first."""
    for spec in models_for(wanted, choices):
        for fallback in load_qualities().fallbacks(wanted.quality, spec.precision):
            least_gib = float("inf")
            for tile_px in _tiles(spec, wanted, choices.engine):
                holding = Holding(
                    fallback.precision, fallback.text_precision, fallback.placement, tile_px
                )
                if not choices.engine.can_hold(spec, holding):
                    continue
                candidate = _weigh(spec, holding, wanted, machine, choices.figures)
                # Smaller tiles change pixels: they are worth a line only where they save memory.
                if candidate.peak_gib < least_gib:
                    least_gib = candidate.peak_gib
                    yield candidate


def _weigh(
    spec: ModelSpec, holding: Holding, wanted: Wanted, machine: Machine, figures: Sequence[Figure]
) -> Candidate:
    load, gpu = load_of(spec, wanted), machine.gpu
    steps = spec.steps[wanted.quality] if wanted.steps is None else wanted.steps
    passes = 1 if wanted.batched else wanted.count
    seconds = job_seconds(
        spec.pieces,
        holding,
        load,
        steps=steps,
        passes=passes,
        gpu=find_gpu(gpu.name, gpu.total_gib),
    )
    taken_gib = gpu_gib(spec.pieces, holding, load)
    known = figures_of(figures, spec.id, spec.kind, holding)
    learned = learned_seconds(known, load, steps * passes)
    candidate = Candidate(
        spec=spec,
        holding=holding,
        peak_gib=taken_gib + learned_offset_gib(known, spec.pieces, holding),
        ram_gib=ram_gib(spec.pieces, holding),
        seconds=seconds if learned is None else learned,
        is_measured=learned is not None,
    )
    return replace(candidate, refused=_why_not(candidate, machine))


def load_of(spec: ModelSpec, wanted: Wanted) -> Load:
    """Return how much one pass draws."""
    pixels = spec.default_pixels
    if wanted.width_px is not None and wanted.height_px is not None:
        pixels = wanted.width_px * wanted.height_px
    return Load(
        megapixels=pixels / 1e6,
        references=wanted.references,
        references_are_tokens=spec.references_are_tokens,
        batch=wanted.count if wanted.batched else 1,
    )


def _tiles(spec: ModelSpec, wanted: Wanted, engine: LoadSupport) -> list[int | None]:
    """Return the tiles worth trying: those smaller than the image."""
    side = max(wanted.width_px or 0, wanted.height_px or 0) or spec.default_pixels**0.5
    return [tile for tile in engine.tiles_px if tile is None or tile < side]


def can_compute(precision: Precision, gpu: Gpu) -> bool:
    """Whether a GPU has the arithmetic for a precision; one of unknown capability has."""
    return gpu.compute is None or gpu.compute >= load_parts().precision[precision].min_compute


def _why_not(candidate: Candidate, machine: Machine) -> str | None:
    gpu = machine.gpu
    if not can_compute(candidate.holding.precision, gpu):
        return f"the GPU cannot compute in {candidate.holding.precision}"
    if candidate.peak_gib > gpu.free_gib:
        return f"takes {candidate.peak_gib:.1f} GiB of the GPU, {gpu.free_gib:.1f} are free"
    if machine.ram_gib is not None and candidate.ram_gib > machine.ram_gib:
        return f"takes {candidate.ram_gib:.1f} GiB of host memory, there are {machine.ram_gib:.1f}"
    return None
