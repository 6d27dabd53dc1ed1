"""What `models pull --for` takes: what the planner finds, free and ungated first."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.errors import InvalidRequestError, TooLittleMemoryError
from flux_mcp.models.formats import load_formats
from flux_mcp.models.planning.candidates import Choices, Gpu, Machine, as_if_installed
from flux_mcp.models.planning.recommending import (
    gpu_gib,
    least_needed,
    loading_in_words,
    recommend,
    to_recommend,
    usual,
)
from flux_mcp.models.planning.support import full_load_support, load_support_with
from flux_mcp.models.planning.tiers import choose_tier
from flux_mcp.models.registry import KINDS, QUALITIES, Registry, load_registry

REGISTRY = load_registry()
ALL = as_if_installed(REGISTRY)
ENGINES = {
    "every": full_load_support(),
    "all extras": load_support_with(load_formats().extra),
    "no extra": load_support_with(()),
}
LICENCES = (None, frozenset({"apache-2.0"}), frozenset({"flux-non-commercial"}), frozenset())


def of_size(gib: float) -> Machine:
    return Machine(Gpu(gib, gib))


def planner_finds_something(machine: Machine, choices: Choices) -> bool:
    for kind in KINDS:
        for quality in QUALITIES:
            try:
                if choose_tier(usual(kind, quality), machine, choices) is not None:
                    return True
            except TooLittleMemoryError:
                continue
    return False


@pytest.mark.parametrize("text", ["16GB", "16 gb", "16 GiB", "16", "16.0g"])
def test_a_gpu_is_written_in_many_ways(text: str):
    assert gpu_gib(text) == 16


@pytest.mark.parametrize("text", ["", "0", "-4", "GB", "16TB", "16 of them"])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(InvalidRequestError):
        gpu_gib(text)


@settings(max_examples=80)
@given(
    gib=st.floats(4, 96),
    engine=st.sampled_from(sorted(ENGINES)),
    licences=st.sampled_from(LICENCES),
)
def test_what_is_recommended_fits_and_there_is_one_wherever_the_planner_finds_any(
    gib, engine, licences
):
    choices = replace(ALL, support=ENGINES[engine], licences=licences)
    machine = of_size(gib)
    found = recommend(machine, choices)
    assert (found is not None) == planner_finds_something(machine, choices)
    if found is None:
        least = least_needed(choices, machine)
        assert least is None or least.peak_gib > gib
        return
    for one in (found.best, *found.others):
        assert one.refused is None
        assert one.peak_gib <= gib
        assert not one.spec.is_demonstration
        assert one.spec.repository is not None
        assert choices.support.can_load_as(one.spec, one.loaded_as)
        assert licences is None or one.spec.licence in licences
    ids = [one.spec.id for one in (found.best, *found.others)]
    assert len(set(ids)) == len(ids)
    same_kind = [one for one in found.others if one.spec.kind == found.best.spec.kind]
    assert all(
        found.best.spec.access_requirements <= one.spec.access_requirements for one in same_kind
    )


def test_free_and_without_an_account_comes_first_whatever_is_installed():
    nothing = replace(ALL, is_installed=lambda _: False)
    for gib in (8, 16, 24, 96):
        found = recommend(of_size(gib), nothing)
        assert found is not None
        assert found.best.spec.id == "flux2-klein-4b"
        as_called = choose_tier(
            replace(usual("text2img", "standard"), model="flux2-klein-4b"), of_size(gib), ALL
        )
        assert as_called is not None
        assert found.best.loaded_as == as_called.chosen.loaded_as, (
            "as a call without a quality has it"
        )
    assert {"flux1-dev", "flux1-schnell"} <= {one.spec.id for one in found.others}


def test_a_kind_can_be_named_and_a_licence_can_leave_nothing():
    fill = recommend(of_size(24), ALL, ("fill",))
    assert fill is not None
    assert fill.best.spec.id == "flux1-fill-dev"
    only_free = replace(ALL, licences=frozenset({"apache-2.0"}))
    assert recommend(of_size(24), only_free, ("fill",)) is None
    assert least_needed(replace(ALL, licences=frozenset()), of_size(24)) is None


def test_a_row_without_a_repository_is_nothing_to_download():
    rows = [row for row in REGISTRY if row.kind == "text2img"]
    mine = REGISTRY.find("text2img", "flux2-klein-4b").model_copy(
        update={"id": "mine", "repository": None, "folder": "/weights"}
    )
    choices = as_if_installed(Registry((*rows, mine)))
    assert "mine" not in {row.id for row in to_recommend("text2img", choices)}


def test_how_it_is_held_is_told_in_words():
    found = recommend(of_size(24), replace(ALL, support=ENGINES["no extra"]))
    assert found is not None
    assert re.fullmatch(r"bf16, resident, \d\d\.\d GiB at most", loading_in_words(found.best))
