"""Which model to download first for a GPU. Pure.

Every model counts as installed that can be loaded and whose licence `Choices` allows. Those free
for any use come first, and among them those whose download needs no account; then the order of
qualities.toml.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flux_mcp.errors import InvalidRequestError
from flux_mcp.models.planning.candidates import (
    Candidate,
    Choices,
    Machine,
    Wanted,
    candidates,
    models_for,
)
from flux_mcp.models.registry import ROW_KINDS, Kind, ModelSpec, Quality

_GPU = re.compile(r"(?P<size>\d+(\.\d+)?)\s*(g|gb|gib)?", re.IGNORECASE)
_QUALITIES: tuple[Quality, ...] = ("standard", "low", "high")
"""The order in which a model is tried: first the quality of a call that names none."""


@dataclass(frozen=True)
class Recommendation:
    """What to download first, and what else fits."""

    best: Candidate
    others: tuple[Candidate, ...]
    """Each with the first kind it fits for."""


def gpu_gib(text: str) -> float:
    """Read the size of a GPU's memory: `16GB`, `16 GiB`, `16`.

    Makers write GB and mean GiB: a GPU of 16 GB has 16 GiB, less what the driver keeps.

    Raises:
        InvalidRequestError: it is not a size.
    """
    found = _GPU.fullmatch(text.strip())
    if found is None or float(found["size"]) <= 0:
        raise InvalidRequestError(
            f"'{text[:40]}' is not the size of a GPU's memory.", "Write it as 16GB."
        )
    return float(found["size"])


def usual(kind: Kind, quality: Quality) -> Wanted:
    """Return a usual request: the model's own size, one reference where a kind takes any."""
    return Wanted(kind, quality, references=0 if kind == "text2img" else 1)


def recommend(
    machine: Machine, choices: Choices, kinds: Sequence[Kind] = ROW_KINDS
) -> Recommendation | None:
    """Return what to download first for a machine; `None` where nothing fits.

    Args:
        machine: Its GPU.
        choices: What there is to choose from; what is installed does not count.
        kinds: In order: the best is for the first of them for which anything fits.
    """
    fitting: dict[str, Candidate] = {}
    for kind in kinds:
        for row in to_recommend(kind, choices):
            best = next((one for one in _ways(row, machine, choices) if one.refused is None), None)
            if best is not None:
                fitting.setdefault(row.id, best)
    if not fitting:
        return None
    first, *others = fitting.values()
    return Recommendation(first, tuple(others))


def least_needed(choices: Choices, machine: Machine) -> Candidate | None:
    """Return what takes the least of a GPU; `None` where no model may be chosen at all."""
    every = (
        one
        for kind in ROW_KINDS
        for row in to_recommend(kind, choices)
        for one in _ways(row, machine, choices)
    )
    return min(every, key=lambda one: one.peak_gib, default=None)


def to_recommend(kind: Kind, choices: Choices) -> list[ModelSpec]:
    """Return the models that can be downloaded for a kind, the one to begin with first."""
    rows = models_for(usual(kind, "standard"), replace(choices, is_installed=lambda _: True))
    return sorted(
        (row for row in rows if row.repository is not None), key=lambda row: row.access_requirements
    )


def loading_in_words(one: Candidate) -> str:
    """Return how a candidate is loaded and what that takes: `int8, resident, 9.1 GiB at most`."""
    loaded_as = one.loaded_as
    return f"{loaded_as.precision}, {loaded_as.placement}, {one.peak_gib:.1f} GiB at most"


def _ways(row: ModelSpec, machine: Machine, choices: Choices) -> Iterator[Candidate]:
    for quality in _QUALITIES:
        wanted = replace(usual(row.kind, quality), model=row.id)
        yield from candidates(wanted, machine, choices)
