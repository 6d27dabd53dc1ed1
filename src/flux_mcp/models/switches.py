"""Speed switches: what can make drawing faster, one row each, read from switches.toml. Pure data.

Each row says what a switch does to pixels: `identical`; `rounding`, the last bits of a sum, which
is a grey level here and there; `approximate`, an image that differs to the eye. Which are used is
decided by planning/switches.py and recorded in a plan as `Switches`; pipelines/switches.py applies
those.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flux_mcp.models.families import Family
from flux_mcp.models.formats import Compute, DeviceKind
from flux_mcp.models.parts import Placement, Precision
from flux_mcp.settings.settings import AttentionBackend

Pixels = Literal["identical", "rounding", "approximate"]
StepCache = Literal["none", "first_block", "taylorseer", "magcache"]
Option = bool | int | float

KINDS_WITH_ONE_STATE = frozenset({"kontext", "img2img"})
"""Kinds whose pipeline runs true CFG without telling a cache which of the two passes it is in
(diffusers 0.42.1): both would share what was kept."""

SWITCHES_TOML = Path(__file__).with_name("switches.toml")


class _SwitchesRow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    title: str
    source: str


class ArithmeticRow(_SwitchesRow):
    """A switch that works only with some number types on some devices."""

    pixels: Pixels
    computes: Mapping[DeviceKind, frozenset[Compute]]
    """By device, what layers may compute in there; it does not work on other devices."""
    min_compute: float = 0.0
    """Least compute capability of a CUDA GPU."""


class AttentionRow(ArithmeticRow):
    """A backend for attention."""

    backend: str
    """diffusers' name for it."""
    packages: Mapping[str, str] = Field(default_factory=dict)
    """Distribution -> least version, as diffusers requires."""


class CompileRow(ArithmeticRow):
    """Compilation of a transformer's repeated blocks."""

    auto: frozenset[DeviceKind]
    """Devices on which it is on unless the setting says otherwise."""
    placements: frozenset[Placement]
    precisions: frozenset[Precision]
    """Precisions of weights that can be compiled."""
    cuda_packages: Mapping[str, str]
    compilers: Mapping[DeviceKind, tuple[str, ...]]
    """Commands of which torch needs one."""


class ChannelsLastRow(ArithmeticRow):
    """The memory layout of a VAE."""


class StepCacheRow(_SwitchesRow):
    """A way to skip work in steps that change little. All are approximate."""

    config: str
    """Its configuration class in `diffusers.hooks`."""
    options: Mapping[str, Option]
    """Its arguments; a plan records them."""
    steps_option: str | None = None
    """Its argument for the number of steps."""
    warm_up_option: str | None = None
    """Its argument for the first step that may be skipped."""
    ratios: str | None = None
    """Numbers measured on a checkpoint: a name in `diffusers.hooks.mag_cache`."""
    families: frozenset[Family]
    why_families: str = ""
    """Why it does not work with other families and checkpoints."""
    checkpoints: frozenset[str] = frozenset()
    """Ids of the models whose transformer it is right for; empty for all."""
    least_steps: int
    """With fewer steps each changes too much to be skipped."""
    placements: frozenset[Placement]

    @property
    def pixels(self) -> Pixels:
        """What it does to images."""
        return "approximate"


class SwitchRows(BaseModel):
    """Everything in switches.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    attention: Mapping[AttentionBackend, AttentionRow]
    compile: CompileRow
    channels_last: ChannelsLastRow
    step_cache: Mapping[StepCache, StepCacheRow]


@cache
def load_switches() -> SwitchRows:
    """Return the rows of switches.toml, read at the first call."""
    return SwitchRows.model_validate(tomllib.loads(SWITCHES_TOML.read_text(encoding="utf-8")))


class Switches(BaseModel):
    """The speed switches of a plan; the defaults are without any."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    attention: AttentionBackend = "native"
    compiled: bool = False
    """Whether the transformer's blocks are compiled."""
    channels_last: bool = False
    """Whether the VAE's weights are stored with their channels last."""
    step_cache: StepCache = "none"
    step_cache_options: Mapping[str, Option] = Field(default_factory=dict)
    """Arguments of the step cache. They are in the plan, so a later version with other numbers
    draws an old plan as it was."""
