"""How much of the machine's main memory weights may take while they wait for the card. Pure.

The one place where it is computed: the worker keeps within it (pipelines/placing/store.py), and
plans are made within what the setting `host_memory_gib` leaves.
"""

from dataclasses import replace

from flux_mcp.models.candidates import Machine
from flux_mcp.models.parts import load_parts

SHARE = 0.5
"""Of the machine's memory, where nothing is set. guess: page-locked memory is taken from every
other program of the machine, and cannot be swapped out."""


def host_budget_gib(setting_gib: float | None, total_gib: float) -> float:
    """Return what may be taken for weights that a later job may want.

    What the job that draws needs may be more: its plan was weighed against the whole machine.

    Args:
        setting_gib: `host_memory_gib`.
        total_gib: Main memory of the machine.
    """
    return SHARE * total_gib if setting_gib is None else min(setting_gib, total_gib)


def within_setting(machine: Machine | None, setting_gib: float | None) -> Machine | None:
    """Return the machine as plans are to see it: with no more main memory than the setting allows.

    The memory that is taken before any weights comes on top, as plans count it.
    """
    if machine is None or setting_gib is None:
        return machine
    limit_gib = load_parts().machine.base_ram_gib + setting_gib
    known_gib = machine.ram_gib
    return replace(machine, ram_gib=limit_gib if known_gib is None else min(known_gib, limit_gib))
