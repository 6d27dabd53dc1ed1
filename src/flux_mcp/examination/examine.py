"""Examine a machine and a data folder: packages, plans and weights, put together.

Imports no torch and goes nowhere; the database and a worker are asked by the caller.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flux_mcp import __version__
from flux_mcp.config import Settings
from flux_mcp.examination.advice import next_steps
from flux_mcp.examination.facts import Examination, WorkerFact
from flux_mcp.examination.fitting import common_cards, fits_of
from flux_mcp.examination.machine import Found, disk_of, main_memory
from flux_mcp.examination.packages import PACKAGES, version_of
from flux_mcp.examination.stock import Stock
from flux_mcp.models.candidates import Choices, Machine
from flux_mcp.models.engine import this_engine
from flux_mcp.models.figures import Figure
from flux_mcp.models.registry import Registry
from flux_mcp.models.weights import is_installed, pull_command


@dataclass(frozen=True)
class Known:
    """What the caller knows already."""

    named: Machine | None = None
    """A machine to plan for instead of this one."""
    ram_gib: float | None = None
    """Main memory to count with instead of this machine's."""
    figures: Sequence[Figure] = ()
    """What finished jobs took on this machine's card."""
    worker: WorkerFact | None = None
    notices: tuple[str, ...] = ()


def examine(settings: Settings, registry: Registry, found: Found, known: Known) -> Examination:
    """Return everything that is to be told.

    Args:
        settings: Where things lie, and what may be chosen.
        registry: The models there are.
        found: What this machine is.
        known: What the caller knows already.
    """
    choices = Choices(
        registry=registry,
        is_installed=lambda spec: is_installed(spec, registry, settings),
        engine=this_engine(),
        licences=None if settings.licences is None else frozenset(settings.licences),
        figures=known.figures,
    )
    machine = _planned(found, known)
    stock, memory = Stock(settings, choices, machine), main_memory()
    lacks_card = found.device.kind == "cpu" and known.named is None
    examination = Examination(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: version_of(name) for name in PACKAGES},
        torch=found.torch,
        device=found.device,
        cards=found.cards,
        driver_problem=found.driver_problem,
        memory=memory,
        disk=disk_of(settings),
        fits=fits_of(machine, choices, is_this_machine=known.named is None),
        with_a_card=tuple(common_cards(choices, memory.total_gib)) if lacks_card else (),
        models=stock.models(),
        pulls=stock.pulls(),
        allowed_licences=settings.licences,
        licences=stock.licences(),
        extras=stock.extras(),
        notices=(*registry.notices, *known.notices),
        worker=known.worker,
        next=(),
    )
    steps = next_steps(examination, lambda models: pull_command(models, settings))
    return examination.model_copy(update={"next": tuple(steps)})


def _planned(found: Found, known: Known) -> Machine | None:
    if known.named is not None:
        return known.named
    if found.planned is None or known.ram_gib is None:
        return found.planned
    return replace(found.planned, ram_gib=known.ram_gib)
