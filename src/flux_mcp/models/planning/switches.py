"""Which speed switches a plan gets, and whether a machine can draw with them. Pure.

The settings hold for every model on a machine: where one cannot be used the image is drawn without
it, and a notice says so. What a request asks for is done or refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.version import Version

from flux_mcp.errors import UnsupportedOptionError
from flux_mcp.models.formats import DeviceKind, format_of
from flux_mcp.models.parts import Placement, Precision
from flux_mcp.models.registry import KIND_NAMES, ModelSpec
from flux_mcp.models.switches import (
    KINDS_WITH_ONE_STATE,
    ArithmeticRow,
    CompileRow,
    Option,
    StepCache,
    StepCacheRow,
    Switches,
    load_switches,
)
from flux_mcp.settings.settings import AttentionBackend, AttentionSetting, CompileSetting

WARM_UP_SHARE = 0.2
"""Of the steps, computed whole before a cache may skip: they decide what the image shows.
MagCache's own default, and diffusers' advice for TaylorSeer (10 of 50)."""
LEAST_WARM_UP_STEPS = 3
"""TaylorSeer's own default: differences need something to differ from."""


@dataclass(frozen=True)
class Drawing:
    """The parts of a plan that decide which switches it can have."""

    spec: ModelSpec
    precision: Precision
    placement: Placement
    steps: int
    """Those that are drawn; image to image leaves the first of the model's out."""
    has_true_cfg: bool
    """Whether each step runs the transformer twice, for and against."""
    has_wide_loras: bool = False
    """Whether a LoRA is more than pairs of narrow matrices: no slot of compiled blocks holds it."""


@dataclass(frozen=True)
class TargetDevice:
    """The device that draws, and what is installed beside it."""

    device: DeviceKind
    compute: float | None = None
    """Compute capability of a CUDA GPU; `None` counts as enough, as in candidates.py."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """The installed ones, with their versions."""
    commands: frozenset[str] = frozenset()
    """Compilers on the PATH."""


@dataclass(frozen=True)
class SwitchSettings:
    """The switches that the settings of a machine and a request ask for."""

    attention: AttentionSetting = "auto"
    compile: CompileSetting = "auto"
    channels_last: bool = False
    step_cache: StepCache = "none"


@dataclass(frozen=True)
class ChosenSwitches:
    """The switches a plan gets, and notices about them for the caller."""

    switches: Switches
    notices: tuple[str, ...] = ()


# --- choosing -------------------------------------------------------------------------------------


def choose_switches(
    drawing: Drawing, target: TargetDevice, asked: SwitchSettings
) -> ChosenSwitches:
    """Return the switches to draw with.

    A step cache takes the place of compilation: diffusers keeps most of what it does out of the
    compiler, so a compiled block would fall into pieces (hooks/, 0.42.1).

    Raises:
        UnsupportedOptionError: the step cache that is asked for cannot be used; it says which can.
    """
    rows = load_switches()
    notices: list[str] = []
    reason = _step_cache_reason(asked.step_cache, drawing)
    if reason is not None:
        raise UnsupportedOptionError(
            f"step_cache '{asked.step_cache}' cannot be used: {reason}.", _advice(drawing)
        )
    options: Mapping[str, Option] = {}
    if asked.step_cache != "none":
        options = _options(rows.step_cache[asked.step_cache], drawing.steps)
        notices.append(
            f"Drawn with step_cache '{asked.step_cache}': approximate, other pixels than without."
        )
    attention = "native" if asked.attention == "auto" else asked.attention
    reason = _attention_reason(attention, drawing, target)
    if reason is not None:
        notices.append(_kept_off("attention", attention, reason))
        attention = "native"
    elif rows.attention[attention].pixels == "approximate":
        notices.append(f"Attention is computed with {attention}: approximate pixels.")
    reason = _compile_reason(drawing, target, asked.step_cache)
    wanted = asked.compile == "on" or (
        asked.compile == "auto"
        and target.device in rows.compile.auto
        # Not on an unknown GPU: compiling might only slow down its first image.
        and target.compute is not None
    )
    if asked.compile == "on" and reason is not None:
        notices.append(_kept_off("compile", "on", reason))
    channels_last = asked.channels_last
    channels_reason = _arithmetic_reason(rows.channels_last, drawing, target)
    if channels_last and channels_reason is not None:
        notices.append(_kept_off("channels_last", "true", channels_reason))
        channels_last = False
    switches = Switches(
        attention=attention,
        compiled=wanted and reason is None,
        channels_last=channels_last,
        step_cache=asked.step_cache,
        step_cache_options=options,
    )
    return ChosenSwitches(switches, tuple(notices))


def why_not(switches: Switches, drawing: Drawing, target: TargetDevice) -> str | None:
    """Return why a plan cannot be drawn with its switches; `None` where it can."""
    rows = load_switches()
    reasons = [
        _attention_reason(switches.attention, drawing, target),
        _compile_reason(drawing, target, switches.step_cache) if switches.compiled else None,
        _arithmetic_reason(rows.channels_last, drawing, target) if switches.channels_last else None,
        _step_cache_reason(switches.step_cache, drawing),
    ]
    return next((reason for reason in reasons if reason is not None), None)


def _kept_off(setting: str, value: str, reason: str) -> str:
    return f"The setting {setting} = {value} is not used here: {reason}."


def _options(row: StepCacheRow, steps: int) -> Mapping[str, Option]:
    options = dict(row.options)
    if row.steps_option is not None:
        options[row.steps_option] = steps
    if row.warm_up_option is not None:
        options[row.warm_up_option] = max(LEAST_WARM_UP_STEPS, math.ceil(WARM_UP_SHARE * steps))
    return options


def _advice(drawing: Drawing) -> str:
    able = [n for n in load_switches().step_cache if _step_cache_reason(n, drawing) is None]
    if not able:
        return "Leave step_cache out."
    return f"Use {' or '.join(repr(name) for name in able)}, or leave step_cache out."


# --- why one cannot be used ----------------------------------------------------------------------


def _arithmetic_reason(row: ArithmeticRow, drawing: Drawing, target: TargetDevice) -> str | None:
    compute = format_of(drawing.precision).compute
    if target.device not in row.computes:
        return f"it needs {' or '.join(sorted(row.computes))}, this draws on {target.device}"
    if compute not in row.computes[target.device]:
        able = " or ".join(sorted(row.computes[target.device]))
        return f"it works in {able}, {drawing.spec.id} in {compute}"
    if target.device == "cuda" and target.compute is not None and target.compute < row.min_compute:
        return f"it needs compute capability {row.min_compute}, this GPU has {target.compute}"
    return None


def _package_reason(packages: Mapping[str, str], target: TargetDevice) -> str | None:
    for name, least in packages.items():
        found = target.packages.get(name)
        if found is None:
            return f"the package {name}>={least} is not installed"
        if Version(found) < Version(least):
            return f"the package {name} is {found}, {least} is the least"
    return None


def _attention_reason(name: AttentionBackend, drawing: Drawing, target: TargetDevice) -> str | None:
    row = load_switches().attention[name]
    return _arithmetic_reason(row, drawing, target) or _package_reason(row.packages, target)


def _compile_reason(drawing: Drawing, target: TargetDevice, step_cache: StepCache) -> str | None:
    row = load_switches().compile
    reason = _arithmetic_reason(row, drawing, target)
    if reason is not None:
        return reason
    if step_cache != "none":
        return "a step cache and compiled blocks do not go together"
    if drawing.has_wide_loras:
        return "a LoKr, or a LoRA with biases, is not compiled"
    if drawing.placement not in row.placements:
        return f"weights that move during a job ({drawing.placement}) are not compiled"
    if drawing.precision not in row.precisions:
        return f"weights in {drawing.precision} are not compiled"
    return _compiler_reason(row, target)


def _compiler_reason(row: CompileRow, target: TargetDevice) -> str | None:
    if target.device == "cuda" and (lacking := _package_reason(row.cuda_packages, target)):
        return lacking
    if not target.commands.intersection(row.compilers[target.device]):
        return f"torch needs a compiler, {' or '.join(row.compilers[target.device])}"
    return None


def _step_cache_reason(name: StepCache, drawing: Drawing) -> str | None:
    if name == "none":
        return None
    row, spec = load_switches().step_cache[name], drawing.spec
    reason = _kind_reason(row, drawing)
    if reason is not None:
        return reason
    drawn_by = spec.base or spec.id
    if spec.family not in row.families or (row.checkpoints and drawn_by not in row.checkpoints):
        return f"not with {spec.id}: {row.why_families}"
    if drawing.placement not in row.placements:
        return f"not where the transformer's blocks stream ({drawing.placement})"
    if drawing.steps < row.least_steps:
        return f"{drawing.steps} steps are too few to skip any; it takes {row.least_steps} or more"
    return None


def _kind_reason(row: StepCacheRow, drawing: Drawing) -> str | None:
    kind = drawing.spec.kind
    if drawing.has_true_cfg and kind in KINDS_WITH_ONE_STATE:
        name = KIND_NAMES[kind]
        return f"not with a negative prompt for {name}: diffusers would mix the two passes"
    if row.ratios is not None and kind == "img2img":
        return "its ratios were measured from the first step on, which image to image leaves out"
    return None
