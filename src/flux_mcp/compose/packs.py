"""What a pack is, once it has been read. Pure values."""

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
"""What no variable may be called: arguments and blocks have these names."""


@dataclass(frozen=True)
class Variable:
    """What a caller chooses: the subject, or something that varies."""

    name: str
    description: str
    choices: Mapping[str, Text]
    weights: Mapping[str, int]
    """Of every choice, in order; 0 is never drawn by `*`."""
    default: str | None
    """A choice, a wildcard or, with `free_text`, any text; `None` if the caller must choose."""
    free_text: bool

    @property
    def is_required(self) -> bool:
        """Whether the caller must give it."""
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
    """What a pack asks for where the caller says nothing."""

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
    """SHA-256 over every file that was read: tells versions apart that share a number."""
    folder: Path
    fixed: Text
    subject: Variable
    variables: Mapping[str, Variable]
    """In the order they stand in the prompt."""
    woven: frozenset[str]
    """Variables some text of the pack has a placeholder for: they make no block of their own."""
    forbidden: tuple[Forbidden, ...]
    defaults: Defaults = field(default_factory=lambda: Defaults("text2img"))

    @property
    def arguments(self) -> tuple[Variable, ...]:
        """What a caller may choose, in order: the subject, then the variables."""
        return (self.subject, *self.variables.values())

    def describe(self) -> dict[str, Any]:
        """Return the pack as JSON values, for a caller who wants to choose."""
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
