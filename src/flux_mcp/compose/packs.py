"""The values of a prompt pack, once it has been read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_mcp.compose.audit import Forbidden
from flux_mcp.compose.files import Text
from flux_mcp.models.registry import Kind, Quality
from flux_mcp.requests.geometry import AspectRatio

SUBJECT = "subject"
EXTRA = "extra"
RESERVED = (SUBJECT, EXTRA, "fixed", "prompt", "pack")
"""Names that no variable may have: those of arguments and blocks."""


@dataclass(frozen=True)
class Variable:
    """What a caller chooses: the subject, or a variable of the pack."""

    name: str
    description: str
    choices: Mapping[str, Text]
    weights: Mapping[str, int]
    """Of every choice, in order; `*` never picks one of weight 0."""
    default: str | None
    """A choice, a wildcard or, with `free_text`, any text; `None` if the caller must choose."""
    free_text: bool

    @property
    def is_required(self) -> bool:
        """Whether the caller must give a value."""
        return self.default is None

    @property
    def texts(self) -> tuple[Text, ...]:
        """The texts of every choice."""
        return tuple(self.choices.values())


@dataclass(frozen=True)
class PackLora:
    """A LoRA the pack is made for."""

    name: str
    weight: float


@dataclass(frozen=True)
class Defaults:
    """What a pack sets where the caller gives nothing."""

    kind: Kind
    model: str | None = None
    quality: Quality | None = None
    aspect_ratio: AspectRatio | None = None
    width: int | None = None
    height: int | None = None
    loras: tuple[PackLora, ...] = ()


@dataclass(frozen=True)
class Pack:
    """A pack that can be composed with."""

    name: str
    title: str
    description: str
    version: str
    digest: str
    """SHA-256 over every file that was read: different for different files of one version."""
    folder: Path
    fixed: Text
    subject: Variable
    variables: Mapping[str, Variable]
    """In the order of the prompt."""
    woven: frozenset[str]
    """Variables with a placeholder in some text of the pack: they make no block of their own."""
    forbidden: tuple[Forbidden, ...]
    defaults: Defaults = field(default_factory=lambda: Defaults("text2img"))

    @property
    def arguments(self) -> tuple[Variable, ...]:
        """What a caller may choose, in order: the subject, then the variables."""
        return (self.subject, *self.variables.values())

    def describe(self) -> dict[str, Any]:
        """Return the pack as JSON values, for a caller who chooses."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "version": self.version,
            "digest": self.digest,
            "defaults": {
                "kind": self.defaults.kind,
                "model": self.defaults.model,
                "quality": self.defaults.quality,
                "aspect_ratio": self.defaults.aspect_ratio,
                "width": self.defaults.width,
                "height": self.defaults.height,
                "loras": [
                    {"name": lora.name, "weight": lora.weight} for lora in self.defaults.loras
                ],
            },
            "fixed": self.fixed.text,
            "arguments": [
                {
                    "name": argument.name,
                    "description": argument.description,
                    "required": argument.is_required,
                    "default": argument.default,
                    "free_text": argument.free_text,
                    "choices": {name: text.text for name, text in argument.choices.items()},
                }
                for argument in self.arguments
            ],
            "forbidden": [
                {
                    "pattern": row.pattern,
                    "kind": row.kind,
                    "severity": row.severity,
                    "reason": row.reason,
                    "instead": row.instead,
                    "related": row.related,
                    "allowed_in": list(row.allowed_in),
                }
                for row in self.forbidden
            ],
        }
