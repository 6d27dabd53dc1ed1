"""What would draw each kind in each quality on a machine, by the same planner as a call. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from flux_mcp.errors import TooLittleMemoryError
from flux_mcp.examination.facts import CardSize, Fit, Fits, KindFits
from flux_mcp.models.candidates import Candidate, Card, Choices, Machine, Wanted
from flux_mcp.models.recommending import usual
from flux_mcp.models.registry import KINDS, QUALITIES, ModelSpec, Registry
from flux_mcp.models.tiers import choose_tier, choose_without_card

COMMON_CARDS_GIB = (8.0, 12.0, 16.0, 24.0)
"""Sizes of cards that people have; what they give is shown where there is none."""
_NOTHING = Fit(
    model=None,
    is_demonstration=False,
    precision=None,
    text_precision=None,
    placement=None,
    vae_tile_px=None,
    peak_gib=None,
    ram_gib=None,
    seconds=None,
    is_measured=False,
    licence=None,
    notices=(),
    refusal=None,
)


def fits_of(machine: Machine | None, choices: Choices, *, is_this_machine: bool = True) -> Fits:
    """Return what would draw there, with what is installed and with every model pulled.

    Args:
        machine: What is planned for; `None` where no card is known.
        choices: What is installed, and what the engine can load.
        is_this_machine: Whether what is installed here counts.
    """
    rows = tuple(
        KindFits(
            kind=kind,
            quality=quality,
            now=fit_of(usual(kind, quality), machine, choices) if is_this_machine else None,
            pulled=fit_of(usual(kind, quality), machine, as_if_pulled(choices)),
        )
        for kind in KINDS
        for quality in QUALITIES
    )
    return Fits(
        vram_gib=None if machine is None else round(machine.card.free_gib, 2),
        ram_gib=None if machine is None or machine.ram_gib is None else round(machine.ram_gib, 1),
        is_this_machine=is_this_machine,
        rows=rows,
    )


def common_cards(choices: Choices, ram_gib: float) -> Iterator[CardSize]:
    """Yield what common cards would draw in this machine, every model pulled."""
    for vram_gib in COMMON_CARDS_GIB:
        machine = Machine(Card(vram_gib, vram_gib), ram_gib)
        fit = fit_of(usual("text2img", "standard"), machine, as_if_pulled(choices))
        yield CardSize(vram_gib=vram_gib, fit=fit)


def as_if_pulled(choices: Choices) -> Choices:
    """Return the same choices as if everything were installed."""
    return replace(choices, is_installed=lambda _: True)


def fit_of(wanted: Wanted, machine: Machine | None, choices: Choices) -> Fit:
    """Return what would draw a request, or why it would be refused."""
    if machine is None:
        found = choose_without_card(wanted, choices)
        if found is None:
            return _demonstration(wanted, choices.registry)
        return _NOTHING.model_copy(
            update={"model": found[0].id, "licence": found[0].licence, "notices": found[1]}
        )
    try:
        tier = choose_tier(wanted, machine, choices)
    except TooLittleMemoryError as error:
        return _NOTHING.model_copy(update={"refusal": f"{error.message} {error.hint}".rstrip()})
    if tier is None:
        return _demonstration(wanted, choices.registry)
    return _held(tier.chosen, tier.notices)


def _held(chosen: Candidate, notices: tuple[str, ...]) -> Fit:
    spec, holding = chosen.spec, chosen.holding
    return Fit(
        model=spec.id,
        is_demonstration=False,
        precision=holding.precision,
        text_precision=holding.text_precision,
        placement=holding.placement,
        vae_tile_px=holding.tile_px,
        peak_gib=round(chosen.peak_gib, 2),
        ram_gib=round(chosen.ram_gib, 2),
        seconds=round(chosen.seconds, 1),
        is_measured=chosen.is_measured,
        licence=spec.licence,
        notices=notices,
        refusal=None,
    )


def _demonstration(wanted: Wanted, registry: Registry) -> Fit:
    """Return what draws where no real model may."""
    rows: list[ModelSpec] = [row for row in registry[wanted.kind].values() if row.is_demonstration]
    if not rows:
        return _NOTHING.model_copy(update={"refusal": "No model for it is here."})
    update = {"model": rows[0].id, "is_demonstration": True, "licence": rows[0].licence}
    return _NOTHING.model_copy(update=update)
