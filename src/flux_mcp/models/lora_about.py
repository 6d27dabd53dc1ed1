"""What people say of a LoRA: the TOML file beside it, and the metadata its trainer left in it.

Both are data for people, never instructions; metadata comes from strangers, so it is cut short.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flux_mcp.errors import InvalidLoraError
from flux_mcp.models.layer_names import Family

MAX_WEIGHT = 4.0
"""Weights reach from -4 to 4: beyond, every LoRA draws noise."""
_LONGEST = 200
_MOST_TRIGGERS = 20
# Source: ModelSpec 1.0 (github.com/Stability-AI/ModelSpec) and the keys that kohya's sd-scripts
# write (train_util.py, `ss_*`).
_TITLE_KEYS = ("modelspec.title", "ss_output_name")
_TRIGGER_KEYS = ("modelspec.trigger_phrase", "ss_trigger_words")
_LICENCE_KEYS = ("modelspec.license",)
_BASE_KEYS = ("modelspec.architecture", "ss_base_model_version")
_FLUX2_WORDS = ("flux-2", "flux2", "flux.2", "klein")
_FLUX1_WORDS = ("flux-1", "flux1", "flux.1")


class LoraAbout(BaseModel):
    """`<name>.toml` beside `<name>.safetensors`; every key may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    title: str | None = Field(None, max_length=_LONGEST)
    trigger_words: tuple[str, ...] = Field((), max_length=_MOST_TRIGGERS)
    """Words a prompt needs for it to show."""
    family: Family | None = None
    """What it was trained for, where its layers fit several families."""
    weight_range: tuple[float, float] | None = None
    """Weights it looks right with."""
    licence: str | None = Field(None, max_length=_LONGEST)
    source: str | None = Field(None, max_length=_LONGEST)
    """Where it came from."""

    @field_validator("weight_range")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not -MAX_WEIGHT <= value[0] <= value[1] <= MAX_WEIGHT:
            raise ValueError(f"give two numbers in order, from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        return value


def read_about(path: Path) -> LoraAbout:
    """Read the TOML file beside a LoRA; no file says nothing.

    Raises:
        InvalidLoraError: it is there and wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return LoraAbout()
    except (OSError, ValueError) as error:
        raise InvalidLoraError(f"{path.name} cannot be read: {error}.", "Mend it.") from error
    try:
        return LoraAbout.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidLoraError(f"{path.name} is not TOML: {error}.", "Mend that line.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidLoraError(
            f"{path.name}: {where}: {first['msg']}.",
            f"Its keys are {', '.join(LoraAbout.model_fields)}.",
        ) from error


def with_metadata(about: LoraAbout, metadata: Mapping[str, str]) -> LoraAbout:
    """Fill in what the trainer's metadata says and the TOML file does not."""
    told = {
        "title": _first(metadata, _TITLE_KEYS),
        "licence": _first(metadata, _LICENCE_KEYS),
        "family": _family(_first(metadata, _BASE_KEYS) or ""),
    }
    triggers = _first(metadata, _TRIGGER_KEYS)
    filled: dict[str, object] = {
        name: value
        for name, value in told.items()
        if value is not None and getattr(about, name) is None
    }
    if triggers and not about.trigger_words:
        words = [word.strip() for word in triggers.split(",")]
        filled["trigger_words"] = tuple(word for word in words if word)[:_MOST_TRIGGERS]
    return about.model_copy(update=filled)


def _first(metadata: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    found = (" ".join(metadata.get(key, "").split()) for key in keys)
    printable = ("".join(c for c in text if c.isprintable())[:_LONGEST] for text in found)
    return next((text for text in printable if text and text != "None"), None)


def _family(base: str) -> Family | None:
    if any(word in base.lower() for word in _FLUX2_WORDS):
        return "flux2"
    return "flux1" if any(word in base.lower() for word in _FLUX1_WORDS) else None
