"""How weights can be held: one row for each precision, read from formats.toml. Pure data.

Owns what a precision needs (an extra of this package, a kind of device), how it is made, and what
it costs in pixels; what it costs in memory stands in parts.toml. engine.py offers what is here and
installed; pipelines/formats/ makes it.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.version import Version
from pydantic import BaseModel, ConfigDict

from flux_mcp.errors import ExtraMissingError
from flux_mcp.models.parts import Precision
from flux_mcp.models.registry import ModelSpec, PipelineClass

Method = Literal["plain", "casting", "torchao", "bitsandbytes", "gguf", "nunchaku_lite"]
"""`plain`: torch's own numbers; `casting`: stored small and widened for one layer at a time; the
others are quantisers of diffusers and transformers, under the names they have there."""
Compute = Literal["fp32", "bf16", "fp16"]
DeviceKind = Literal["cpu", "cuda", "mps"]

FORMATS_TOML = Path(__file__).with_name("formats.toml")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ExtraRow(_Row):
    """An extra of this package."""

    gives: str
    """What can be drawn with it, in words."""
    packages: Mapping[str, str]
    """Distribution -> least version."""
    classes: tuple[str, ...] = ()
    """Classes of transformers that cannot be used without."""
    pipelines: tuple[PipelineClass, ...] = ()
    """Pipelines that have such a class."""


class Format(_Row):
    """One way to hold weights."""

    title: str
    method: Method
    recipe: str
    """What the method is told: a dtype of torch, a configuration class of torchao, a number type of
    bitsandbytes, a block type of GGUF."""
    compute: Compute
    """What is worked in. VAE and small encoders are loaded in it too."""
    pixels: str
    """What it does to images, beside bf16."""
    extra: str | None = None
    devices: frozenset[DeviceKind] = frozenset({"cpu", "cuda", "mps"})
    from_file_only: bool = False
    """Whether a file must hold the weights so; else they are made so while loading."""
    for_text: bool = True
    """Whether a text encoder can be held so as well."""
    takes_loras: bool = True
    """Whether LoRAs can be put on a transformer that is held so, and taken off again."""
    streams: bool = True
    """Whether a transformer's blocks can come to the GPU one by one: whether plain copies of bytes
    make the same weights there (pipelines/formats/leaves.py)."""
    drawn_on: frozenset[DeviceKind] = frozenset()
    """Where our tests draw with it; elsewhere it rests on the libraries' word."""
    blocked: str = ""
    """Why it is refused whatever the machine has."""

    @property
    def made_by_device(self) -> bool:
        """Whether the weights are quantised while loading, which a GPU is quick at."""
        return self.method in {"torchao", "bitsandbytes"}


class Formats(_Row):
    """Everything in formats.toml."""

    extra: Mapping[str, ExtraRow]
    format: Mapping[Precision, Format]


@cache
def load_formats() -> Formats:
    """Return the rows of formats.toml, read at the first call."""
    return Formats.model_validate(tomllib.loads(FORMATS_TOML.read_text(encoding="utf-8")))


def format_of(precision: Precision) -> Format:
    """Return the row of a precision."""
    return load_formats().format[precision]


def text_precision(spec: ModelSpec) -> Precision:
    """Return what the large text encoder of a row is held in.

    Unless the row says so, what its transformer is worked with in: a quantised transformer says
    nothing about the text encoder.
    """
    return spec.text_precision or format_of(spec.precision).compute


def install_line(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return f"pip install 'flux-mcp-server[{extra}]'"


def require_extra(extra: str, what: str) -> None:
    """Check that the packages of an extra are installed; imports none of them.

    Args:
        extra: A row of formats.toml.
        what: What cannot be used without, for the message.

    Raises:
        ExtraMissingError: one is missing or too old.
    """
    hint = f"Run: {install_line(extra)}."
    for package, least in load_formats().extra[extra].packages.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ExtraMissingError(
                f"{what} cannot be used without the package {package}.", hint
            ) from None
        if Version(found) < Version(least):
            raise ExtraMissingError(
                f"{what} cannot be used with {package} {found}; {least} is the least.", hint
            )


def has_extra(extra: str | None) -> bool:
    """Whether an extra is installed; none is."""
    if extra is None:
        return True
    try:
        require_extra(extra, "It")
    except ExtraMissingError:
        return False
    return True


def lacking_extras(spec: ModelSpec) -> tuple[str, ...]:
    """Return the extras that a row cannot be drawn with without, and that are not installed."""
    formats = load_formats()
    needed = {
        formats.format[spec.precision].extra,
        formats.format[text_precision(spec)].extra,
        "gguf" if spec.gguf or spec.text_gguf else None,
        *(name for name, row in formats.extra.items() if spec.pipeline in row.pipelines),
    }
    return tuple(name for name in formats.extra if name in needed and not has_extra(name))
