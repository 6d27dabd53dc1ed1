"""Which model draws a request on which GPU, held how: the table, and what holds on every GPU."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.errors import TooLittleMemoryError, UnknownModelError
from flux_mcp.models.parts import PLACEMENTS, load_parts
from flux_mcp.models.planning.candidates import (
    Candidate,
    Choices,
    Gpu,
    Machine,
    Wanted,
    as_if_installed,
    candidates,
    real_models,
    recommended,
)
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.planning.support import load_support_with
from flux_mcp.models.planning.tiers import Tier, choose_tier, choose_without_gpu
from flux_mcp.models.registry import KINDS, QUALITIES, load_registry

REGISTRY = load_registry()
ALL = as_if_installed(REGISTRY)


def machine(vram_gib: float, ram_gib: float | None = None, **gpu: object) -> Machine:
    return Machine(Gpu(vram_gib, vram_gib, **gpu), ram_gib)


def tier(wanted: Wanted, where: Machine, choices: Choices = ALL) -> Tier:
    found = choose_tier(wanted, where, choices)
    assert found is not None
    return found


def only(*ids: str) -> Choices:
    """Return what there is to choose from where these models are installed and can be loaded."""
    return replace(ALL, is_installed=lambda spec: spec.id in ids)


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "vram_gib", "model", "bits", "placement"),
    [
        # The founding table: low 12 GB, standard 16 GB, high 24 GB and more.
        ("low", 12, "flux1-schnell", 8, "group_offload"),
        # From where on dev is quick enough; below, a model that draws in some seconds.
        ("standard", 16, "flux2-klein-9b", 8, "model_offload"),
        ("high", 24, "flux1-dev", 16, "model_offload"),
        ("high", 48, "flux1-dev", 16, "resident"),
        ("high", 141, "flux1-dev", 16, "resident"),
        # Down to 8 GB, in 4 bit.
        ("low", 8, "flux1-schnell", 4, "model_offload"),
        ("standard", 8, "flux2-klein-9b", 4, "model_offload"),
        ("high", 8, "flux1-dev", 4, "model_offload"),
        ("low", 7.5, "flux1-schnell", 4, "group_offload"),
        ("low", 4, "flux1-schnell", 4, "block_stream"),
        # A larger GPU holds more of what is asked for.
        ("low", 16, "flux1-schnell", 8, "model_offload"),
        ("low", 24, "flux1-schnell", 8, "resident"),
        ("standard", 24, "flux1-dev", 8, "resident"),
        ("standard", 48, "flux1-dev", 16, "resident"),
        ("high", 16, "flux1-dev", 8, "model_offload"),
        ("high", 20, "flux1-dev", 16, "group_offload"),
    ],
)
def test_a_quality_on_a_gpu_is_drawn_as_the_table_says(quality, vram_gib, model, bits, placement):
    chosen = tier(Wanted("text2img", quality), machine(vram_gib)).chosen
    found_bits = load_parts().precision[chosen.loaded_as.precision].bits
    assert (chosen.spec.id, found_bits, chosen.loaded_as.placement) == (model, bits, placement)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_on_every_common_gpu(kind):
    for quality in QUALITIES:
        for vram_gib in (8, 12, 16, 24, 32, 48, 80, 141):
            references = 0 if kind == "text2img" else 1
            assert tier(Wanted(kind, quality, references=references), machine(vram_gib, 32))


def test_several_references_go_to_a_model_that_reads_several():
    chosen = tier(Wanted("kontext", "high", references=3), machine(141)).chosen
    assert chosen.spec.id == "flux2-dev"
    chosen = tier(Wanted("kontext", "low", references=4), machine(12)).chosen
    assert chosen.spec.id == "flux2-klein-4b"
    assert tier(Wanted("kontext", "low", references=1), machine(48)).chosen.spec.family == "flux1"


@pytest.mark.parametrize(
    ("structure", "model"), [("canny", "flux1-canny-dev"), ("depth", "flux1-depth-dev")]
)
def test_a_structure_keeps_only_the_models_that_follow_it(structure, model):
    wanted = Wanted("control", "high", structure=structure, references=1)
    assert tier(wanted, machine(24)).chosen.spec.id == model


# --- what holds on every GPU ---------------------------------------------------------------------

SIZES = st.floats(4, 192)
RAMS = st.one_of(st.none(), st.floats(8, 512))


@st.composite
def wanted_switches(draw: st.DrawFn) -> Wanted:
    kind = draw(st.sampled_from(KINDS))
    side = st.sampled_from([None, 256, 512, 1024, 1536, 2048])
    width = draw(side)
    return Wanted(
        kind=kind,
        quality=draw(st.sampled_from(QUALITIES)),
        width_px=width,
        height_px=None if width is None else draw(side.filter(lambda one: one is not None)),
        references=0 if kind == "text2img" else draw(st.integers(1, 6)),
        count=draw(st.integers(1, 8)),
        batched=draw(st.booleans()),
    )


def place(wanted: Wanted, where: Machine) -> tuple[tuple[bool, int], Candidate] | None:
    """Return the chosen candidate with its place in the order of preference; None if refused."""
    try:
        chosen = tier(wanted, where).chosen
    except TooLittleMemoryError:
        return None
    ways = [(one.spec.id, one.loaded_as) for one in candidates(wanted, where, ALL)]
    return rank(ways.index((chosen.spec.id, chosen.loaded_as)), chosen), chosen


def rank(number: int, one: Candidate) -> tuple[bool, int]:
    """Return what orders plans: what is quick enough first, then as the table has them."""
    return one.slow_s is not None, number


@settings(max_examples=50)
@given(wanted=wanted_switches(), vram_gib=SIZES, ram_gib=RAMS)
def test_a_plan_is_within_the_memory_and_is_the_best_that_is(wanted, vram_gib, ram_gib):
    found = place(wanted, machine(vram_gib, ram_gib))
    fitting = [
        rank(number, one)
        for number, one in enumerate(candidates(wanted, machine(vram_gib, ram_gib), ALL))
        if one.peak_gib <= vram_gib and (ram_gib is None or one.ram_gib <= ram_gib)
    ]
    if found is None:
        assert fitting == []
    else:
        assert found[1].peak_gib <= vram_gib
        assert ram_gib is None or found[1].ram_gib <= ram_gib
        assert found[0] == min(fitting)


@settings(max_examples=40)
@given(wanted=wanted_switches(), vram_gib=SIZES, ram_gib=st.floats(8, 512), more=st.floats(0, 64))
def test_more_memory_never_gives_a_worse_plan(wanted, vram_gib, ram_gib, more):
    before = place(wanted, machine(vram_gib, ram_gib))
    for larger in (machine(vram_gib + more, ram_gib), machine(vram_gib, ram_gib + more)):
        after = place(wanted, larger)
        assert before is None or (after is not None and after[0] <= before[0])


@settings(max_examples=40)
@given(wanted=wanted_switches(), vram_gib=st.floats(0.1, 12), ram_gib=st.floats(2, 32))
def test_what_an_error_says_would_fit_does(wanted, vram_gib, ram_gib):
    try:
        tier(wanted, machine(vram_gib, ram_gib))
    except TooLittleMemoryError as error:
        for side in (1024, 768, 512):
            if f"{side}x{side} would fit" in error.hint:
                smaller = replace(wanted, width_px=side, height_px=side)
                assert tier(smaller, machine(vram_gib, ram_gib))
        if "A GPU with" in error.hint:
            needed = float(error.hint.split("A GPU with ")[1].split(" ")[0]) + 0.05
            assert tier(wanted, machine(needed, None))


def test_the_order_of_placements_is_from_much_of_the_gpu_to_little():
    for quality in QUALITIES:
        ways = list(candidates(Wanted("text2img", quality, model="flux1-dev"), machine(24), ALL))
        for precision in ("int8", "nf4"):
            used = [w.loaded_as.placement for w in ways if w.loaded_as.precision == precision]
            assert used == sorted(used, key=PLACEMENTS.index)


# --- what is said ---------------------------------------------------------------------------------


def test_fewer_bits_than_a_quality_is_meant_for_are_said_with_the_reason():
    notices = tier(Wanted("text2img", "high"), machine(16)).notices
    assert any("loaded in 8 bit: 16 bit takes 17.4 GiB" in notice for notice in notices)
    assert not any("bit" in n for n in tier(Wanted("text2img", "standard"), machine(16)).notices)


def test_a_lesser_model_is_named_in_the_notice():
    found = tier(Wanted("text2img", "high"), machine(48), only("flux1-schnell"))
    assert found.notices == (
        "Quality 'high' has no installed model for generate; drew with flux1-schnell.",
    )


def test_a_model_that_does_not_fit_is_named_with_the_one_that_does():
    found = tier(Wanted("text2img", "low"), machine(3.2))
    assert found.chosen.spec.id == "flux2-klein-4b"
    expected = "flux2-klein-4b draws instead of flux1-schnell: takes 3.4 GiB of the GPU, 3.2 are"
    assert found.notices[0].startswith(expected)


def test_streams_and_tiles_are_said():
    said = " ".join(tier(Wanted("text2img", "low"), machine(4)).notices)
    assert "stream in" in said
    assert "tiles of 512 px" in said


def test_a_licence_that_is_not_free_is_said_unless_the_model_was_named():
    notices = tier(Wanted("text2img", "high"), machine(48)).notices
    assert any("licence" in notice for notice in notices)
    assert tier(Wanted("text2img", "high", model="flux1-dev"), machine(48)).notices == ()


def test_only_allowed_licences_are_chosen_but_any_model_may_be_named():
    free = replace(ALL, licences=frozenset({"apache-2.0"}))
    assert tier(Wanted("text2img", "high"), machine(48), free).chosen.spec.is_free
    assert choose_tier(Wanted("fill", "high", references=1), machine(48), free) is None
    named = Wanted("fill", "high", model="flux1-fill-dev", references=1)
    assert tier(named, machine(48), free).chosen.spec.id == "flux1-fill-dev"


@pytest.mark.parametrize(
    ("wanted", "where", "says"),
    [
        (Wanted("text2img", "low", width_px=2048, height_px=2048), machine(5), "1024x1024 would"),
        (Wanted("text2img", "high", count=8, batched=True), machine(5), "Without 'batched'"),
        (Wanted("text2img", "low"), machine(1), "A GPU with 3.1 GiB free would do."),
        (Wanted("text2img", "low"), machine(8, 3.5), "A machine with 4.0 GiB of memory would do."),
        (Wanted("text2img", "low"), machine(48, compute=6.1), "newer GPU"),
    ],
)
def test_an_error_says_what_would_fit(wanted, where, says):
    with pytest.raises(TooLittleMemoryError, match="Nothing that is here") as refused:
        choose_tier(wanted, where, ALL)
    assert says in refused.value.hint
    assert refused.value.code == "too_little_memory"


def test_a_lower_quality_is_named_where_it_would_fit():
    installed = only("flux1-dev", "flux1-schnell")
    bare = replace(installed, registry=REGISTRY, support=load_support_with(()))
    # Without quantisers the text encoder alone takes as much, whatever streams.
    with pytest.raises(TooLittleMemoryError, match=r"flux1-\w+: takes 9\.6 GiB"):
        choose_tier(Wanted("text2img", "high"), machine(8), bare)


def test_a_gpu_that_cannot_compute_a_precision_is_not_given_it():
    chosen = tier(Wanted("text2img", "high"), machine(48, compute=7.5)).chosen
    assert chosen.loaded_as.precision == "int8"


def test_nothing_installed_is_no_tier_and_an_unknown_model_an_error():
    assert choose_tier(Wanted("fill", "low"), machine(24), only()) is None
    with pytest.raises(UnknownModelError):
        choose_tier(Wanted("fill", "low", model="flux1-dev"), machine(24), ALL)


# --- what this version can load, and where no GPU is known ---------------------------------------


@pytest.mark.parametrize(
    ("vram", "ram", "named"),
    [(8, 64, "torchao"), (5.2, 64, "bitsandbytes"), (16, 24, "torchao"), (3, 64, None)],
)
def test_a_refusal_names_an_extra_that_would_do(vram, ram, named):
    bare = replace(ALL, support=load_support_with(()))
    wanted, gpu = Wanted("text2img", "low", model="flux1-dev"), machine(vram, ram)
    with pytest.raises(TooLittleMemoryError) as refused:
        choose_tier(wanted, gpu, bare)
    told = re.search(r"With the extra '(\S+)' it would fit", refused.value.hint)
    assert (told and told[1]) == named
    if told is not None:
        assert f"install '{named}>=" in refused.value.hint
        widened = replace(bare, support=load_support_with((named,)))
        assert choose_tier(wanted, gpu, widened) is not None


@pytest.mark.parametrize(
    ("extras", "made"),
    [((), {"bf16"}), (("torchao",), {"bf16", "int8"}), (("bitsandbytes",), {"bf16", "nf4"})],
)
def test_this_version_only_plans_what_it_can_load(extras, made):
    here = replace(ALL, support=load_support_with(extras))
    planned = [
        one
        for kind in KINDS
        for quality in QUALITIES
        for one in candidates(Wanted(kind, quality, references=1), machine(24), here)
    ]
    assert {one.loaded_as.precision for one in planned} == made
    assert {one.loaded_as.text_precision for one in planned} == made
    assert {one.loaded_as.placement for one in planned} <= set(PLACEMENTS)
    assert {one.loaded_as.tile_px for one in planned} == {None, 512}
    assert {one.spec.form for one in planned} == {"folder", "lora"}
    # FLUX.2 dev's tokenizer needs an extra of its own.
    assert {one.spec.id for one in planned if one.spec.family == "flux2"} == {
        "flux2-klein-4b",
        "flux2-klein-9b",
    }


@pytest.mark.parametrize(
    ("extras", "vram_gib", "precision", "placement"),
    [
        ((), 24, "bf16", "model_offload"),
        ((), 20, "bf16", "group_offload"),
        ((), 16, "bf16", "block_stream"),
        ((), 10, "bf16", "block_stream"),
        (("torchao",), 16, "int8", "model_offload"),
        (("torchao",), 12, "int8", "group_offload"),
        (("bitsandbytes",), 8, "nf4", "model_offload"),
        (("bitsandbytes",), 6, "nf4", "block_stream"),
    ],
)
def test_this_version_draws_flux1_on_small_gpus_as_well(extras, vram_gib, precision, placement):
    here = replace(only("flux1-dev"), support=load_support_with(extras))
    held = tier(Wanted("text2img", "high"), machine(vram_gib), here).chosen.loaded_as
    assert (held.precision, held.placement) == (precision, placement)


def test_without_a_gpu_the_best_installed_model_of_the_quality_is_taken():
    def choose(quality: str, *ids: str) -> tuple[str, int]:
        spec, notices = choose_without_gpu(Wanted("text2img", quality), only(*ids))
        return spec.id, len(notices)

    assert choose("low", "flux1-dev", "flux1-schnell") == ("flux1-schnell", 0)
    assert choose("standard", "flux1-dev", "flux1-schnell") == ("flux1-dev", 1)
    assert choose("high", "flux1-schnell") == ("flux1-schnell", 1)
    assert choose_without_gpu(Wanted("text2img", "low"), only("micro")) is None


def test_the_first_model_to_install_is_one_free_to_use_that_can_be_loaded():
    bare = load_support_with(())
    assert recommended(REGISTRY, "text2img", bare).id == "flux2-klein-4b"
    assert recommended(REGISTRY, "kontext", bare).id == "flux2-klein-4b"
    assert recommended(REGISTRY, "control", bare, "depth").id == "flux1-depth-dev"
    assert all(not row.is_demonstration for row in real_models(REGISTRY, "fill"))


# --- what was learned -----------------------------------------------------------------------------


def figure(**changes: object) -> Figure:
    measured = Figure(
        model="flux1-dev",
        kind="text2img",
        precision="int8",
        placement="model_offload",
        megapixels=1024 * 1024 / 1e6,
        seconds_per_step=2.0,
        peak_gib=15.5,
    )
    return replace(measured, **changes)


def test_measured_peaks_and_speeds_count_instead_of_computed_ones():
    wanted = Wanted("text2img", "standard", model="flux1-dev", count=2)
    before = tier(wanted, machine(16)).chosen
    assert not before.is_measured
    learned = replace(ALL, figures=(figure(), figure(seconds_per_step=3.0), figure()))
    after = tier(wanted, machine(16), learned).chosen
    assert after.seconds == pytest.approx(2.0 * 28 * 2)
    assert after.peak_gib == pytest.approx(15.5)
    assert after.is_measured


def test_a_measured_peak_that_no_longer_fits_moves_the_plan():
    learned = replace(ALL, figures=(figure(peak_gib=16.5),))
    wanted = Wanted("text2img", "standard", model="flux1-dev")
    chosen = tier(wanted, machine(16), learned).chosen
    assert chosen.loaded_as.placement == "group_offload"


def test_figures_of_another_way_or_below_what_is_computed_change_no_peak():
    low, other = figure(peak_gib=3.0), figure(precision="nf4", peak_gib=40.0)
    learned = replace(ALL, figures=(low, other))
    wanted = Wanted("text2img", "standard", model="flux1-dev")
    assert tier(wanted, machine(16), learned).chosen.peak_gib == (
        tier(wanted, machine(16)).chosen.peak_gib
    )
