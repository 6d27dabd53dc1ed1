"""Candidates: every model that may answer a request, in every way it can be held, best first. Pure.

The list is the same whatever the card; only what does not fit differs. tiers.py takes from it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from flux_mcp.models.engine import Engine, every_engine
from flux_mcp.models.figures import Figure, figures_of, learned_offset_gib, learned_seconds
from flux_mcp.models.memory import Holding, Load, card_gib, ram_gib
from flux_mcp.models.parts import Precision, load_parts
from flux_mcp.models.qualities import load_qualities
from flux_mcp.models.registry import Kind, ModelSpec, Quality, Registry, Structure
from flux_mcp.models.speed import find_card, job_seconds
from flux_mcp.setting_types import Licence


@dataclass(frozen=True)
class Card:
    """A graphics card as the driver tells of it."""

    total_gib: float
    free_gib: float
    """What a new pipeline may take; what our own worker holds counts as free."""
    name: str | None = None
    compute: float | None = None
    """CUDA compute capability; `None` counts as enough for everything."""


@dataclass(frozen=True)
class Machine:
    """Where a request will be drawn."""

    card: Card
    ram_gib: float | None = None
    """Main memory of the machine; `None` counts as enough."""


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
    """All pictures in one pass."""
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
    engine: Engine
    licences: frozenset[Licence] | None = None
    figures: Sequence[Figure] = ()


def as_if_installed(registry: Registry) -> Choices:
    """Return every row, as if its weights were there and everything could be loaded."""
    return Choices(registry, lambda _: True, every_engine())


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
    registry: Registry, kind: Kind, engine: Engine, structure: Structure | None = None
) -> ModelSpec:
    """Return the real model to install first for a kind, where no card is known.

    One free to use if there is any, and of those one that asks for no account.
    """
    real = [row for row in real_models(registry, kind, structure) if engine.can_load(row)]
    return min(real, key=lambda row: row.hurdles)


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
        for rung in load_qualities().rungs(wanted.quality, spec.precision):
            least_gib = float("inf")
            for tile_px in _tiles(spec, wanted, choices.engine):
                holding = Holding(rung.precision, rung.text_precision, rung.placement, tile_px)
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
    load, card = load_of(spec, wanted), machine.card
    steps = spec.steps[wanted.quality] if wanted.steps is None else wanted.steps
    passes = 1 if wanted.batched else wanted.count
    seconds = job_seconds(
        spec.pieces,
        holding,
        load,
        steps=steps,
        passes=passes,
        card=find_card(card.name, card.total_gib),
    )
    taken_gib = card_gib(spec.pieces, holding, load)
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


def _tiles(spec: ModelSpec, wanted: Wanted, engine: Engine) -> list[int | None]:
    """Return the tiles worth trying: those smaller than the picture."""
    side = max(wanted.width_px or 0, wanted.height_px or 0) or spec.default_pixels**0.5
    return [tile for tile in engine.tiles_px if tile is None or tile < side]


def can_compute(precision: Precision, card: Card) -> bool:
    """Whether a card has the arithmetic for a precision; one of unknown capability has."""
    return card.compute is None or card.compute >= load_parts().precision[precision].min_compute


def _why_not(candidate: Candidate, machine: Machine) -> str | None:
    card = machine.card
    if not can_compute(candidate.holding.precision, card):
        return f"the card cannot compute in {candidate.holding.precision}"
    if candidate.peak_gib > card.free_gib:
        return f"takes {candidate.peak_gib:.1f} GiB of the card, {card.free_gib:.1f} are free"
    if machine.ram_gib is not None and candidate.ram_gib > machine.ram_gib:
        return f"takes {candidate.ram_gib:.1f} GiB of main memory, there are {machine.ram_gib:.1f}"
    return None
