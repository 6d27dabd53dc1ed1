"""How much host memory weights may take: computed in one place, kept by plans."""

from dataclasses import replace

import pytest

from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.candidates import Gpu, Machine, Wanted, as_if_installed
from flux_mcp.models.planning.machine import host_budget_gib, within_setting
from flux_mcp.models.planning.tiers import choose_tier
from flux_mcp.models.registry import load_registry

SMALL_GPU = Machine(Gpu(12, 12), 64.0)


@pytest.mark.parametrize(
    ("setting_gib", "budget_gib"), [(None, 32), (0.0, 0), (10.0, 10), (500.0, 64)]
)
def test_half_of_the_machine_is_kept_for_later_jobs_unless_something_is_set(
    setting_gib, budget_gib
):
    assert host_budget_gib(setting_gib, 64) == budget_gib


def test_without_the_setting_plans_see_the_machine_as_it_is():
    assert within_setting(SMALL_GPU, None) is SMALL_GPU
    assert within_setting(None, 3.0) is None


@pytest.mark.parametrize("ram_gib", [None, 64.0])
def test_with_it_they_see_no_more_than_it_allows_beside_what_is_taken_before(ram_gib):
    machine = replace(SMALL_GPU, ram_gib=ram_gib)
    base_gib = load_parts().machine.base_ram_gib
    assert within_setting(machine, 3.0).ram_gib == base_gib + 3
    assert within_setting(replace(machine, ram_gib=6.0), 3.0).ram_gib == 6


def test_a_plan_keeps_what_waits_within_the_setting():
    choices = as_if_installed(load_registry())
    wanted = Wanted("text2img", "standard")
    base_gib = load_parts().machine.base_ram_gib
    for setting_gib in (16.0, 12.0, 10.0, 5.0):
        chosen = choose_tier(wanted, within_setting(SMALL_GPU, setting_gib), choices).chosen
        assert chosen.ram_gib <= base_gib + setting_gib
    only_resident = choose_tier(wanted, within_setting(SMALL_GPU, 0.0), choices).chosen
    assert only_resident.loaded_as.placement == "resident"
