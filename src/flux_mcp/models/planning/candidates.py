"""Every model that may answer a request, in every way it can be loaded, best first. Pure.

The list is the same whatever the GPU; only what does not fit differs. tiers.py takes from it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from flux_mcp.models.memory import Load, LoadedAs, gpu_gib, ram_gib
from flux_mcp.models.parts import Precision, load_parts
from flux_mcp.models.planning.speed import (
    Figure,
    figures_of,
    find_gpu,
    job_seconds,
    learned_offset_gib,
    learned_seconds,
)
from flux_mcp.models.planning.support import LoadSupport, full_load_support
from flux_mcp.models.qualities import load_qualities
from flux_mcp.models.registry import Kind, ModelSpec, Quality, Registry, Structure
from flux_mcp.settings.settings import Licence


@dataclass(frozen=True)
class Gpu:
    """A GPU as plans count with it."""

    total_gib: float
    free_gib: float
    """What a new pipeline may take; what workers of this data folder take counts as free."""
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
    """Id of the model that the caller named."""
    structure: Structure | None = None
    width_px: int | None = None
    """Given together with `height_px`; without them the model's own size counts."""
    height_px: int | None = None
    references: int = 0
    count: int = 1
    batched: bool = False
    """All images in one pass."""
    steps: int | None = None
    share: float = 1.0
    """Of the steps, that is drawn: what image to image calls strength."""


@dataclass(frozen=True)
class Choices:
    """What there is to choose from.

    Args:
        registry: The rows.
        is_installed: Whether a row's weights are on this disk.
        support: What can be loaded.
        licences: Classes that may be used where no model is named; `None` for all.
        figures: What finished jobs of this machine took, newest first.
    """

    registry: Registry
    is_installed: Callable[[ModelSpec], bool]
    support: LoadSupport
    licences: frozenset[Licence] | None = None
    figures: Sequence[Figure] = ()

    @property
    def as_if_pulled(self) -> "Choices":
        """The same, as if every row's weights were on this disk."""
        return replace(self, is_installed=lambda _: True)


def as_if_installed(registry: Registry) -> Choices:
    """Return every row, as if its weights were on this disk and everything could be loaded."""
    return Choices(registry, lambda _: True, full_load_support())


@dataclass(frozen=True)
class Candidate:
    """One model loaded in one way: what that takes, and why it cannot be taken."""

    spec: ModelSpec
    loaded_as: LoadedAs
    peak_gib: float
    ram_gib: float
    seconds: float
    is_measured: bool
    """Whether the seconds follow from jobs of this machine, not from an estimate."""
    slow_s: float | None = None
    """What a usual image takes, if that is more than the quality tolerates; `None` if it is not."""
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
    registry: Registry, kind: Kind, support: LoadSupport, structure: Structure | None = None
) -> ModelSpec:
    """Return the real model to install first for a kind, where no GPU is known.

    One free for any use if there is one, and of those one whose download needs no account.
    """
    real = [row for row in real_models(registry, kind, structure) if support.can_load(row)]
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
        if choices.support.can_load(row)
        and choices.is_installed(row)
        and (choices.licences is None or row.licence in choices.licences)
    }
    reads_all = {key: r for key, r in rows.items() if wanted.references <= r.max_reference_images}
    joins_all = {key: r for key, r in rows.items() if wanted.references <= r.most_references}
    # Where none takes them all, the request is refused by the first.
    rows = reads_all or joins_all or rows
    listed = load_qualities().models[wanted.kind][wanted.quality]
    named = [rows[key] for key in listed if key in rows]
    naming = [r for r in rows.values() if wanted.quality in r.qualities and r.id not in listed]
    others = [r for r in rows.values() if wanted.quality not in r.qualities and r.id not in listed]
    return [*named, *naming, *others]


def is_meant_for(spec: ModelSpec, quality: Quality) -> bool:
    """Whether a model is a good answer to a quality, by the table or by its own row."""
    listed = load_qualities().models[spec.kind][quality]
    return spec.id in listed or quality in spec.qualities


# --- how they can be loaded, and what that takes -------------------------------------------------


def candidates(wanted: Wanted, machine: Machine, choices: Choices) -> Iterator[Candidate]:
    """Yield every model that may answer, in every way it can be loaded, best first."""
    for spec in models_for(wanted, choices):
        for fallback in load_qualities().fallbacks(wanted.quality, spec.precision):
            least_gib = float("inf")
            for tile_px in _tiles(spec, wanted, choices.support):
                loaded_as = LoadedAs(
                    fallback.precision, fallback.text_precision, fallback.placement, tile_px
                )
                if not choices.support.can_load_as(spec, loaded_as):
                    continue
                candidate = _weigh(spec, loaded_as, wanted, machine, choices.figures)
                # Smaller tiles change pixels: they are worth a line only where they save memory.
                if candidate.peak_gib < least_gib:
                    least_gib = candidate.peak_gib
                    yield candidate


def _weigh(
    spec: ModelSpec,
    loaded_as: LoadedAs,
    wanted: Wanted,
    machine: Machine,
    figures: Sequence[Figure],
) -> Candidate:
    load, gpu = load_of(spec, wanted), machine.gpu
    steps = spec.steps[wanted.quality] if wanted.steps is None else wanted.steps
    steps = math.ceil(steps * wanted.share)
    passes = 1 if wanted.batched else wanted.count
    seconds = job_seconds(
        spec.pieces,
        loaded_as,
        load,
        steps=steps,
        passes=passes,
        gpu=find_gpu(gpu.name, gpu.total_gib),
    )
    taken_gib = gpu_gib(spec.pieces, loaded_as, load)
    known = figures_of(figures, spec.id, spec.kind, loaded_as)
    learned = learned_seconds(known, load, steps * passes)
    candidate = Candidate(
        spec=spec,
        loaded_as=loaded_as,
        peak_gib=taken_gib + learned_offset_gib(known, spec.pieces, loaded_as),
        ram_gib=ram_gib(spec.pieces, loaded_as),
        seconds=seconds if learned is None else learned,
        is_measured=learned is not None,
        slow_s=_slow_s(spec, loaded_as, wanted, machine.gpu),
    )
    return replace(candidate, refused=_why_not(candidate, machine))


def _slow_s(spec: ModelSpec, loaded_as: LoadedAs, wanted: Wanted, gpu: Gpu) -> float | None:
    """Return what a usual image takes, if that is more than the quality of a choice tolerates.

    Estimated for the quality's own steps, one image of the model's own size: the model of a quality
    on a machine must not change with the size, the number of images, or what jobs have taken.
    """
    if wanted.model is not None:
        return None  # who names a model takes its time
    usual = replace(wanted, width_px=None, height_px=None, count=1, batched=False)
    seconds = job_seconds(
        spec.pieces,
        loaded_as,
        load_of(spec, usual),
        steps=spec.steps[wanted.quality],
        passes=1,
        gpu=find_gpu(gpu.name, gpu.total_gib),
    )
    return seconds if seconds > load_qualities().tolerable_s[wanted.quality] else None


def load_of(spec: ModelSpec, wanted: Wanted) -> Load:
    """Return how much one pass has to draw."""
    pixels = spec.default_pixels
    if wanted.width_px is not None and wanted.height_px is not None:
        pixels = wanted.width_px * wanted.height_px
    return Load(
        megapixels=pixels / 1e6,
        references=min(wanted.references, spec.max_reference_images),  # joined ones are one
        references_are_tokens=spec.references_are_tokens,
        batch=wanted.count if wanted.batched else 1,
    )


def _tiles(spec: ModelSpec, wanted: Wanted, support: LoadSupport) -> list[int | None]:
    """Return the tiles worth trying: those smaller than the image."""
    side = max(wanted.width_px or 0, wanted.height_px or 0) or spec.default_pixels**0.5
    return [tile for tile in support.tiles_px if tile is None or tile < side]


def can_compute(precision: Precision, gpu: Gpu) -> bool:
    """Whether a GPU can compute in a precision; one of unknown capability counts as able."""
    return gpu.compute is None or gpu.compute >= load_parts().precision[precision].min_compute


def _why_not(candidate: Candidate, machine: Machine) -> str | None:
    gpu = machine.gpu
    if not can_compute(candidate.loaded_as.precision, gpu):
        return f"the GPU cannot compute in {candidate.loaded_as.precision}"
    if candidate.peak_gib > gpu.free_gib:
        return f"takes {candidate.peak_gib:.1f} GiB of the GPU, {gpu.free_gib:.1f} are free"
    if machine.ram_gib is not None and candidate.ram_gib > machine.ram_gib:
        return f"takes {candidate.ram_gib:.1f} GiB of host memory, there are {machine.ram_gib:.1f}"
    return None
