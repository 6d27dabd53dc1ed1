"""Formats of weights: one row for each precision, read from formats.toml; and the extras they need.

A row says what a precision needs (an extra of this package, a kind of device), how it is made, and
what it does to pixels; what it costs in memory and time stands in parts.toml. planning/support.py
says which can be used here; pipelines/loading/ makes them.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.version import Version
from pydantic import BaseModel, ConfigDict

from flux_mcp.errors import ExtraMissingError, UnsupportedOptionError
from flux_mcp.models.families import PipelineClass
from flux_mcp.models.parts import Precision
from flux_mcp.models.registry import ModelSpec
from flux_mcp.settings.installation import install_command

Method = Literal["plain", "casting", "torchao", "bitsandbytes", "gguf", "nunchaku_lite"]
"""`plain`: torch's own number types; `casting`: stored in fewer bits and widened one layer at a
time; the others are quantisers of diffusers and transformers, by their names there."""
Compute = Literal["fp32", "bf16", "fp16"]
DeviceKind = Literal["cpu", "cuda", "mps"]

FORMATS_TOML = Path(__file__).with_name("formats.toml")


class _FormatsRow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ExtraRow(_FormatsRow):
    """An extra of this package."""

    gives: str
    """What it makes usable, in words."""
    packages: Mapping[str, str]
    """Distribution -> least version."""
    classes: tuple[str, ...] = ()
    """Classes of transformers that need it."""
    pipelines: tuple[PipelineClass, ...] = ()
    """Pipelines that have such a class."""


class Format(_FormatsRow):
    """One format of weights."""

    title: str
    method: Method
    recipe: str
    """Option of the method: a dtype of torch, a configuration class of torchao, a number type of
    bitsandbytes, a block type of GGUF."""
    compute: Compute
    """What layers compute in. VAE and small encoders are loaded in it too."""
    pixels: str
    """How images differ from those in bf16."""
    extra: str | None = None
    devices: frozenset[DeviceKind] = frozenset({"cpu", "cuda", "mps"})
    from_file_only: bool = False
    """Whether the weights must be stored in it; else they are converted while loading."""
    for_text: bool = True
    """Whether a text encoder can be loaded in it as well."""
    takes_loras: bool = True
    """Whether LoRAs can be attached to a transformer in it, and detached again."""
    streams: bool = True
    """Whether a transformer's blocks can be copied to the GPU one by one: whether copies of its
    plain tensors make the same weights (pipelines/loading/slots.py)."""
    drawn_on: frozenset[DeviceKind] = frozenset()
    """Devices on which the tests draw with it; on others only the libraries say it works."""
    blocked: str = ""
    """Why it is refused on every machine."""

    @property
    def made_by_device(self) -> bool:
        """Whether the weights are quantised while loading, which a GPU is quick at."""
        return self.method in {"torchao", "bitsandbytes"}


class Formats(_FormatsRow):
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


def require_takes_loras(precision: Precision) -> None:
    """Refuse LoRAs where the transformer's weights take none.

    Raises:
        UnsupportedOptionError: they cannot be attached to weights in this precision.
    """
    if not format_of(precision).takes_loras:
        raise UnsupportedOptionError(
            f"Weights in {precision} take no LoRAs.",
            "Leave them out, or choose a model in another precision.",
        )


def text_precision(spec: ModelSpec) -> Precision:
    """Return the precision of the large text encoder of a row.

    Unless the row says it, what its transformer computes in: a quantised transformer says nothing
    about the text encoder.
    """
    return spec.text_precision or format_of(spec.precision).compute


def install_line(extra: str) -> str:
    """Return the command that installs the packages of an extra."""
    packages = load_formats().extra[extra].packages
    return install_command(*(f"{name}>={least}" for name, least in packages.items()))


def require_extra(extra: str, what: str) -> None:
    """Check that the packages of an extra are installed; imports none of them.

    Args:
        extra: A row of formats.toml.
        what: What needs it, for the message.

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
    """Whether an extra is installed; true for `None`."""
    if extra is None:
        return True
    try:
        require_extra(extra, "It")
    except ExtraMissingError:
        return False
    return True


def lacking_extras(spec: ModelSpec) -> tuple[str, ...]:
    """Return the extras that a row needs and that are not installed."""
    formats = load_formats()
    needed = {
        formats.format[spec.precision].extra,
        formats.format[text_precision(spec)].extra,
        "gguf" if {"gguf", "text_gguf"} & set(spec.files) else None,
        *(name for name, row in formats.extra.items() if spec.pipeline in row.pipelines),
    }
    return tuple(name for name in formats.extra if name in needed and not has_extra(name))
