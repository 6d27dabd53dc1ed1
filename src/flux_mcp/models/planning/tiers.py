"""From quality and memory to a tier: which model draws, how it is loaded, what that takes. Pure.

A tier is chosen from a list of candidates that is the same whatever the GPU: every model that may
answer, in the order of qualities.toml, each in every way it can be loaded, best first. A candidate
fits if its peak is within the GPU's free memory and what waits in host memory is within the
machine's. The first is taken that fits and is not slower than its quality tolerates, else the first
that fits. A larger GPU or more memory therefore never gives a worse tier, and nothing is refused
that fits.

`choose_for` is the one decision: calls, `doctor`, `models plan` and `models pull --for` ask it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from flux_mcp.errors import TooLittleMemoryError
from flux_mcp.models.formats import install_line, load_formats
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.candidates import (
    Candidate,
    Choices,
    Machine,
    Wanted,
    can_compute,
    candidates,
    is_meant_for,
    models_for,
)
from flux_mcp.models.qualities import load_qualities
from flux_mcp.models.registry import KIND_NAMES, QUALITIES, ModelSpec

_SMALLER_PX = (1024, 768, 512)


@dataclass(frozen=True)
class Tier:
    """The candidate that is taken, and notices for the caller."""

    chosen: Candidate
    notices: tuple[str, ...]


def choose_tier(wanted: Wanted, machine: Machine, choices: Choices) -> Tier | None:
    """Return the best candidate that fits, or `None` where no real model may answer.

    Raises:
        TooLittleMemoryError: there are models, and none fits; the hint says what would fit.
        UnknownModelError: the named model is not of this kind.
    """
    passed_over: list[Candidate] = []
    for candidate in candidates(wanted, machine, choices):
        if candidate.refused is None and candidate.slow_s is None:
            return Tier(candidate, _notices(candidate, passed_over, wanted))
        passed_over.append(candidate)
    if not passed_over:
        return None
    slow = next((n for n, one in enumerate(passed_over) if one.refused is None), None)
    if slow is None:
        raise _too_little(passed_over, wanted, machine, choices)
    return Tier(passed_over[slow], _notices(passed_over[slow], passed_over[:slow], wanted))


@dataclass(frozen=True)
class ModelChoice:
    """The model that a request gets, and how it is loaded where the GPU's memory is known."""

    spec: ModelSpec
    loaded: Candidate | None
    """`None` where no GPU is known: the worker sees how far it comes."""
    notices: tuple[str, ...]


def choose_for(wanted: Wanted, machine: Machine | None, choices: Choices) -> ModelChoice | None:
    """Return the model for a request on a machine; `None` where no real model may answer.

    Args:
        wanted: What decides it.
        machine: `None` where no GPU is known.
        choices: What there is to choose from.

    Raises:
        TooLittleMemoryError: there are models, and none fits; the hint says what would fit.
        UnknownModelError: the named model is not of this kind.
    """
    if machine is None:
        found = choose_without_gpu(wanted, choices)
        return None if found is None else ModelChoice(found[0], None, found[1])
    tier = choose_tier(wanted, machine, choices)
    return None if tier is None else ModelChoice(tier.chosen.spec, tier.chosen, tier.notices)


def choose_without_gpu(
    wanted: Wanted, choices: Choices
) -> tuple[ModelSpec, tuple[str, ...]] | None:
    """Return the best real model and the notices about it, where no GPU's memory is known.

    Raises:
        UnknownModelError: the named model is not of this kind.
    """
    rows = models_for(wanted, choices)
    if not rows:
        return None
    return rows[0], (*_about_quality(rows[0], rows[0], wanted), *_about_licence(rows[0], wanted))


# --- notices -------------------------------------------------------------------------------------


def _notices(chosen: Candidate, refused: Sequence[Candidate], wanted: Wanted) -> tuple[str, ...]:
    """Return what is not as the quality promises, and why.

    Args:
        chosen: What is taken.
        refused: What is better, and does not fit or is slow.
        wanted: What was asked for.
    """
    parts, meant = load_parts(), load_qualities().bits[wanted.quality]
    spec, loaded_as, best = chosen.spec, chosen.loaded_as, (*refused, chosen)[0].spec
    notices = list(_about_quality(spec, best, wanted))
    if spec.id != best.id:
        of_best = [one for one in refused if one.spec.id == best.id]
        slow = next((one for one in of_best if one.refused is None), None)
        because = (
            f"takes about {slow.slow_s:.0f} s an image here"
            if slow is not None
            else _least(of_best).refused
        )
        notices.append(f"{spec.id} draws instead of {best.id}: {because}.")
    if parts.precision[loaded_as.precision].bits < meant:
        finer = [
            one
            for one in refused
            if one.refused is not None
            and one.spec.id == spec.id
            and parts.precision[one.loaded_as.precision].bits >= meant
        ]
        because = f": {meant} bit {_least(finer).refused}" if finer else ""
        bits = parts.precision[loaded_as.precision].bits
        notices.append(f"{spec.id} is loaded in {bits} bit{because}.")
    placement = parts.placement[loaded_as.placement]
    if placement.streams:
        notices.append(
            f"{spec.id} does not fit on the GPU whole: {placement.about}. That takes longer."
        )
    if loaded_as.tile_px is not None:
        notices.append(f"The image is decoded in tiles of {loaded_as.tile_px} px to save memory.")
    return (*notices, *_about_licence(spec, wanted))


def _about_quality(spec: ModelSpec, best: ModelSpec, wanted: Wanted) -> Iterator[str]:
    if wanted.model is None and not is_meant_for(best, wanted.quality):
        yield (
            f"Quality '{wanted.quality}' has no installed model for {KIND_NAMES[wanted.kind]}; "
            f"drew with {spec.id}."
        )


def _about_licence(spec: ModelSpec, wanted: Wanted) -> Iterator[str]:
    if wanted.model is None and not spec.is_free:
        yield (
            f"{spec.id} may only be used as its licence says ({spec.licence}); the setting "
            "'licences' decides which may be chosen."
        )


# --- what to say where nothing fits --------------------------------------------------------------


def _least(refused: Iterable[Candidate]) -> Candidate:
    return min(refused, key=lambda candidate: candidate.peak_gib)


def _too_little(
    refused: Sequence[Candidate], wanted: Wanted, machine: Machine, choices: Choices
) -> TooLittleMemoryError:
    least = _least(refused)
    what = wanted.model or f"{KIND_NAMES[wanted.kind]} in quality '{wanted.quality}'"
    hints = [
        hint
        for hint in (
            _smaller(wanted, machine, choices),
            _fewer(wanted, machine, choices),
            _other_quality(wanted, machine, choices),
            _another_extra(wanted, machine, choices),
        )
        if hint
    ]
    return TooLittleMemoryError(
        f"Nothing that is here draws {what} at this size: {least.spec.id}: {least.refused}.",
        " ".join([*hints, _what_would_do(refused, machine)]),
    )


def _what_would_do(refused: Sequence[Candidate], machine: Machine) -> str:
    """Return what the machine lacks: compute capability, GPU memory, or host memory."""
    able = [one for one in refused if can_compute(one.loaded_as.precision, machine.gpu)]
    if not able:
        return "It takes a newer GPU: one that computes in bf16 (compute capability 8.0)."
    on_gpu = [one for one in able if one.peak_gib <= machine.gpu.free_gib]
    if not on_gpu:
        return f"A GPU with {_least(able).peak_gib:.1f} GiB free would do."
    return f"A machine with {min(one.ram_gib for one in on_gpu):.1f} GiB of memory would do."


def _smaller(wanted: Wanted, machine: Machine, choices: Choices) -> str | None:
    asked_px = (wanted.width_px or 1024) * (wanted.height_px or 1024)
    for side in _SMALLER_PX:
        smaller = replace(wanted, width_px=side, height_px=side)
        if side**2 < asked_px and _fits(smaller, machine, choices):
            return f"{side}x{side} would fit."
    return None


def _fewer(wanted: Wanted, machine: Machine, choices: Choices) -> str | None:
    if wanted.batched and _fits(replace(wanted, batched=False), machine, choices):
        return "Without 'batched' it would fit."
    return None


def _other_quality(wanted: Wanted, machine: Machine, choices: Choices) -> str | None:
    for quality in reversed(QUALITIES[: QUALITIES.index(wanted.quality)]):
        if _fits(replace(wanted, quality=quality), machine, choices):
            return f"Quality '{quality}' would fit."
    return None


def _another_extra(wanted: Wanted, machine: Machine, choices: Choices) -> str | None:
    support, formats = choices.support, load_formats()
    for extra in formats.extra:
        made = {
            name
            for name, row in formats.format.items()
            if row.extra == extra and "cuda" in row.devices and not row.blocked
        }
        wider = replace(support, precisions=support.precisions | made)
        if wider != support and _fits(wanted, machine, replace(choices, support=wider)):
            return f"With the extra '{extra}' it would fit: {install_line(extra)}."
    return None


def _fits(wanted: Wanted, machine: Machine, choices: Choices) -> bool:
    return any(one.refused is None for one in candidates(wanted, machine, choices))
