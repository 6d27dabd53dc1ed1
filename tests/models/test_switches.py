"""Which speed switches a plan gets: never one that its row forbids, on any machine."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.errors import UnsupportedOptionError
from flux_mcp.models.formats import DeviceKind, format_of, load_formats
from flux_mcp.models.parts import PLACEMENTS
from flux_mcp.models.planning.machine import target_device
from flux_mcp.models.planning.switches import (
    KINDS_WITH_ONE_STATE,
    Drawing,
    SwitchSettings,
    TargetDevice,
    choose_switches,
    why_not,
)
from flux_mcp.models.registry import load_registry
from flux_mcp.models.switches import StepCache, Switches, load_switches
from flux_mcp.settings.settings import AttentionSetting, CompileSetting

REGISTRY = load_registry()
ROWS = load_switches()
PACKAGES = {
    "flash-attn": "2.8.0",
    "sageattention": "2.2.0",
    "xformers": "0.0.35",
    "triton": "3.5.0",
}
EVERYTHING = TargetDevice("cuda", 9.0, PACKAGES, frozenset({"gcc", "g++"}))


def drawing(model: str = "flux1-dev", kind: str = "text2img", **changes: object) -> Drawing:
    spec = REGISTRY.find(kind, model)
    drawn = Drawing(spec, spec.precision, "resident", spec.steps["standard"], has_true_cfg=False)
    return replace(drawn, **changes)


def chosen(drawn: Drawing, target: TargetDevice = EVERYTHING, **asked: object) -> Switches:
    return choose_switches(drawn, target, SwitchSettings(**asked)).switches


drawings = st.builds(
    Drawing,
    spec=st.sampled_from(list(REGISTRY)),
    precision=st.sampled_from(list(load_formats().format)),
    placement=st.sampled_from(PLACEMENTS),
    steps=st.integers(1, 64),
    has_true_cfg=st.booleans(),
)
targets = st.builds(
    TargetDevice,
    device=st.sampled_from(get_args(DeviceKind)),
    compute=st.none() | st.sampled_from([6.1, 7.5, 8.0, 8.6, 9.0, 12.0]),
    packages=st.dictionaries(
        st.sampled_from(list(PACKAGES)), st.sampled_from(["0.0.1", "2.0.0", "99"]), max_size=4
    ),
    commands=st.frozensets(st.sampled_from(["gcc", "g++", "clang"])),
)
settings_asked = st.builds(
    SwitchSettings,
    attention=st.sampled_from(get_args(AttentionSetting)),
    compile=st.sampled_from(get_args(CompileSetting)),
    channels_last=st.booleans(),
    step_cache=st.sampled_from(get_args(StepCache)),
)


@settings(max_examples=400)
@given(drawings, targets, settings_asked)
def test_no_switch_is_chosen_that_its_row_forbids(
    drawn: Drawing, target: TargetDevice, asked: SwitchSettings
) -> None:
    try:
        used = choose_switches(drawn, target, asked).switches
    except UnsupportedOptionError as refused:
        assert asked.step_cache != "none"
        offered = [name for name in ROWS.step_cache if repr(name) in refused.hint]
        for name in offered:
            choose_switches(drawn, target, replace(asked, step_cache=name))
        return
    compute = format_of(drawn.precision).compute
    arithmetic = [ROWS.attention[used.attention]]
    arithmetic += [ROWS.compile] if used.compiled else []
    arithmetic += [ROWS.channels_last] if used.channels_last else []
    native = ROWS.attention["native"]
    for row in arithmetic:
        if row is native:
            continue
        assert compute in row.computes[target.device]
        assert (
            target.device != "cuda" or target.compute is None or target.compute >= row.min_compute
        )
    assert ROWS.attention[used.attention].packages.keys() <= target.packages.keys()
    assert "0.0.1" not in {target.packages[n] for n in ROWS.attention[used.attention].packages}
    if used.compiled:
        assert asked.compile != "off"
        assert drawn.placement == "resident"
        assert drawn.precision in ROWS.compile.precisions
        assert used.step_cache == "none"
        assert target.commands
    if used.step_cache != "none":
        cache = ROWS.step_cache[used.step_cache]
        assert used.step_cache == asked.step_cache
        assert drawn.spec.family in cache.families
        assert drawn.steps >= cache.least_steps
        assert drawn.placement in cache.placements
        assert not (drawn.has_true_cfg and drawn.spec.kind in KINDS_WITH_ONE_STATE)
    assert why_not(used, drawn, target) is None


@settings(max_examples=200)
@given(drawings, targets, settings_asked)
def test_a_setting_is_used_or_a_notice_says_why_not(
    drawn: Drawing, target: TargetDevice, asked: SwitchSettings
) -> None:
    found = choose_switches(drawn, target, replace(asked, step_cache="none"))
    used, said = found.switches, " ".join(found.notices)
    assert asked.attention in (used.attention, "auto") or "attention =" in said
    assert used.compiled or asked.compile != "on" or "compile = on" in said
    assert used.channels_last or not asked.channels_last or "channels_last =" in said
    assert used.step_cache == "none"


@settings(max_examples=200)
@given(drawings, targets)
def test_by_default_nothing_approximate_is_used(drawn: Drawing, target: TargetDevice) -> None:
    found = choose_switches(drawn, target, SwitchSettings())
    assert found.notices == ()
    assert found.switches in (Switches(), Switches(compiled=True))


def test_blocks_are_compiled_where_it_pays_and_nowhere_else() -> None:
    assert chosen(drawing()).compiled
    assert chosen(drawing("flux2-klein-4b")).compiled
    assert not chosen(drawing(), compile="off").compiled
    assert not chosen(drawing(placement="model_offload")).compiled
    assert not chosen(drawing(precision="q4_k")).compiled
    assert not chosen(drawing(has_wide_loras=True)).compiled
    assert not chosen(drawing(), replace(EVERYTHING, compute=7.5)).compiled
    assert not chosen(drawing(), replace(EVERYTHING, compute=None)).compiled
    assert not chosen(drawing(), replace(EVERYTHING, packages={})).compiled
    assert not chosen(drawing(), replace(EVERYTHING, commands=frozenset())).compiled
    assert not chosen(drawing(), step_cache="first_block").compiled
    cpu = TargetDevice("cpu", commands=frozenset({"g++"}))
    assert not chosen(drawing(), cpu).compiled
    assert chosen(drawing(), cpu, compile="on").compiled


@pytest.mark.parametrize(
    ("cache", "drawn", "why", "instead"),
    [
        ("first_block", drawing("flux1-schnell"), "4 steps are too few", "Leave step_cache out"),
        ("first_block", drawing("flux2-dev"), "FLUX.2's blocks return", "'taylorseer'"),
        (
            "magcache",
            drawing("flux1-krea-dev"),
            "ratios have not been measured",
            "'first_block' or 'taylor",
        ),
        (
            "magcache",
            drawing("flux1-fill-dev", "fill"),
            "ratios have not been measured",
            "'first_block'",
        ),
        (
            "taylorseer",
            drawing("flux1-kontext-dev", "kontext", has_true_cfg=True),
            "mix the two passes",
            "Leave step_cache out",
        ),
        ("taylorseer", drawing(placement="block_stream"), "blocks stream", "Leave step_cache"),
    ],
)
def test_a_step_cache_that_cannot_be_used_is_refused_with_what_can(
    cache: StepCache, drawn: Drawing, why: str, instead: str
) -> None:
    with pytest.raises(UnsupportedOptionError) as refused:
        chosen(drawn, step_cache=cache)
    assert why in refused.value.message
    assert instead in refused.value.hint


def test_a_plan_records_the_arguments_of_its_cache() -> None:
    short, usual = (
        chosen(drawing(steps=12), step_cache="taylorseer"),
        chosen(drawing(steps=50), step_cache="taylorseer"),
    )
    assert short.step_cache_options["disable_cache_before_step"] == 3
    assert usual.step_cache_options["disable_cache_before_step"] == 10
    redux = drawing("flux1-redux-dev", "redux")
    assert chosen(redux, step_cache="magcache").step_cache_options["num_inference_steps"] == 28
    assert Switches.model_validate_json(short.model_dump_json()) == short


def test_notices_name_old_packages_and_other_arithmetic() -> None:
    old = replace(EVERYTHING, packages={**PACKAGES, "sageattention": "1.0.6"})
    found = choose_switches(drawing(), old, SwitchSettings(attention="sage"))
    assert found.switches.attention == "native"
    assert "sageattention is 1.0.6, 2.1.1 is the least" in found.notices[0]
    micro = choose_switches(drawing("micro"), EVERYTHING, SwitchSettings(attention="flash"))
    assert "works in bf16 or fp16, micro in fp32" in micro.notices[0]


def test_a_notice_names_attention_that_changes_pixels_to_the_eye() -> None:
    sage = choose_switches(drawing(), EVERYTHING, SwitchSettings(attention="sage"))
    assert sage.switches.attention == "sage"
    assert sage.notices == ("Attention is computed with sage: approximate pixels.",)
    assert choose_switches(drawing(), EVERYTHING, SwitchSettings(attention="flash")).notices == ()


def test_a_target_device_lists_what_is_installed_and_nothing_else() -> None:
    target = target_device("cpu", None)
    assert set(target.packages) <= set(PACKAGES)
    assert target.commands <= {"g++", "gcc", "clang"}
