"""The order of preference of a quality, from qualities.toml: its models, and ways to load them.

Pure data; planning/candidates.py goes through it.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from flux_mcp.errors import InternalError
from flux_mcp.models.parts import Placement, Precision, can_be_loaded_as
from flux_mcp.models.registry import QUALITIES, ROW_KINDS, Kind, Quality

QUALITIES_TOML = Path(__file__).with_name("qualities.toml")
_STORED = "stored"


@dataclass(frozen=True)
class FallbackStep:
    """One way to load a model; a later one is tried where those before do not fit."""

    precision: Precision
    text_precision: Precision
    placement: Placement


@dataclass(frozen=True)
class _TableStep:
    """A fallback step as the table has it."""

    precision: Precision | None
    """`None` for the one in which the files are stored."""
    text_precision: Precision
    placement: Placement


@dataclass(frozen=True)
class Qualities:
    """The whole table."""

    bits: Mapping[Quality, int]
    """The bits a quality is meant to be drawn with."""
    tolerable_s: Mapping[Quality, float]
    """What one image may take before a quicker model is preferred; infinite for no limit."""
    steps: Mapping[Quality, tuple[_TableStep, ...]]
    models: Mapping[Kind, Mapping[Quality, tuple[str, ...]]]
    """Ids, best first."""

    def fallbacks(self, quality: Quality, stored: Precision) -> Iterator[FallbackStep]:
        """Yield the ways to load a model whose weights are stored in a precision, best first."""
        is_fixed = not can_be_loaded_as(stored, "nf4")  # fp8 and GGUF files cannot be converted
        seen: set[FallbackStep] = set()
        for step in self.steps[quality]:
            if (step.precision is None) != is_fixed:
                continue
            precision = step.precision or stored
            if not can_be_loaded_as(stored, precision):
                continue
            fallback = FallbackStep(precision, step.text_precision, step.placement)
            if fallback not in seen:
                seen.add(fallback)
                yield fallback


@cache
def load_qualities() -> Qualities:
    """Return the table of qualities.toml, read at the first call.

    Raises:
        InternalError: a line of it names no way to load a model.
    """
    table = tomllib.loads(QUALITIES_TOML.read_text(encoding="utf-8"))
    groups = {name: tuple(map(_read_step, steps)) for name, steps in table["fallbacks"].items()}
    return Qualities(
        bits={quality: int(table["bits"][quality]) for quality in QUALITIES},
        tolerable_s={
            quality: float(table["tolerable_s"].get(quality, math.inf)) for quality in QUALITIES
        },
        steps={
            quality: tuple(step for name in table["order"][quality] for step in groups[name])
            for quality in QUALITIES
        },
        models=_with_img2img(
            {
                kind: {quality: tuple(table[kind][quality]) for quality in QUALITIES}
                for kind in ROW_KINDS
            }
        ),
    )


def _with_img2img(
    models: dict[Kind, Mapping[Quality, tuple[str, ...]]],
) -> Mapping[Kind, Mapping[Quality, tuple[str, ...]]]:
    """Add image to image, which is drawn with the weights of text2img."""
    return {**models, "img2img": models["text2img"]}


def _read_step(text: str) -> _TableStep:
    """Read `int8/int8 model_offload`."""
    precisions, _, placement = text.partition(" ")
    precision, _, text_precision = precisions.partition("/")
    if (
        precision not in (*get_args(Precision), _STORED)
        or text_precision not in get_args(Precision)
        or placement not in get_args(Placement)
    ):
        raise InternalError(f"{QUALITIES_TOML.name}: '{text}' is no way to load a model.")
    # Checked above; the type checker cannot see it.
    of_transformer = None if precision == _STORED else precision
    return _TableStep(of_transformer, text_precision, placement)  # type: ignore[arg-type]
