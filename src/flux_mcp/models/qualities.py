"""What a quality word asks for, as rows read from qualities.toml: models and ways to hold them.

Owns the order of preference. Pure data; tiers.py walks it.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from flux_mcp.errors import InternalError
from flux_mcp.models.parts import Placement, Precision, can_be_held
from flux_mcp.models.registry import KINDS, QUALITIES, Kind, Quality

QUALITIES_TOML = Path(__file__).with_name("qualities.toml")
_STORED = "stored"


@dataclass(frozen=True)
class FallbackStep:
    """One way to hold a model."""

    precision: Precision
    text_precision: Precision
    placement: Placement


@dataclass(frozen=True)
class _Step:
    """A rung as the table has it."""

    precision: Precision | None
    """`None`: that of the files."""
    text_precision: Precision
    placement: Placement


@dataclass(frozen=True)
class Qualities:
    """The whole table."""

    bits: Mapping[Quality, int]
    """The bits a quality is meant to be drawn with."""
    steps: Mapping[Quality, tuple[_Step, ...]]
    models: Mapping[Kind, Mapping[Quality, tuple[str, ...]]]
    """Ids, best first."""

    def fallbacks(self, quality: Quality, stored: Precision) -> Iterator[FallbackStep]:
        """Yield the ways to hold a model whose weights are stored in a precision, best first."""
        is_made = not can_be_held(stored, "nf4")  # files in fp8 or GGUF are as they are
        seen: set[FallbackStep] = set()
        for step in self.steps[quality]:
            if (step.precision is None) != is_made:
                continue
            precision = step.precision or stored
            if not can_be_held(stored, precision):
                continue
            fallback = FallbackStep(precision, step.text_precision, step.placement)
            if fallback not in seen:
                seen.add(fallback)
                yield fallback


@cache
def load_qualities() -> Qualities:
    """Return the table of qualities.toml, read at the first call.

    Raises:
        InternalError: a line of it is not one of ours.
    """
    table = tomllib.loads(QUALITIES_TOML.read_text(encoding="utf-8"))
    ladders = {
        name: tuple(map(_read_step, fallbacks)) for name, fallbacks in table["ladders"].items()
    }
    return Qualities(
        bits={quality: int(table["bits"][quality]) for quality in QUALITIES},
        steps={
            quality: tuple(step for name in table["climb"][quality] for step in ladders[name])
            for quality in QUALITIES
        },
        models={
            kind: {quality: tuple(table[kind][quality]) for quality in QUALITIES} for kind in KINDS
        },
    )


def _read_step(text: str) -> _Step:
    """Read `int8/int8 model_offload`."""
    held, _, placement = text.partition(" ")
    precision, _, text_precision = held.partition("/")
    if (
        precision not in (*get_args(Precision), _STORED)
        or text_precision not in get_args(Precision)
        or placement not in get_args(Placement)
    ):
        raise InternalError(f"{QUALITIES_TOML.name}: '{text}' is no way to hold a model.")
    # Checked above; the type checker cannot see it.
    held_in = None if precision == _STORED else precision
    return _Step(held_in, text_precision, placement)  # type: ignore[arg-type]
