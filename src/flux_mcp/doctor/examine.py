"""The examination of a machine and a data folder: device, packages, plans, weights, next steps.

Imports no torch and uses no network; the caller asks the database and a worker.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flux_mcp import __version__
from flux_mcp.doctor.advice import next_steps
from flux_mcp.doctor.facts import Examination, QueueFact, WorkerFact
from flux_mcp.doctor.machine import PACKAGES, MachineFindings, disk_of, host_memory, version_of
from flux_mcp.doctor.stock import Stock, common_gpus, fits_of
from flux_mcp.models.hub.cache import is_installed, pull_command
from flux_mcp.models.planning.candidates import Machine
from flux_mcp.models.planning.machine import choices_here, within_setting
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.registry import Registry
from flux_mcp.settings.installation import own_command
from flux_mcp.settings.settings import Settings


@dataclass(frozen=True)
class Known:
    """What the caller knows already."""

    named: Machine | None = None
    """A machine to plan for instead of this one."""
    ram_gib: float | None = None
    """Host memory to count with instead of this machine's."""
    figures: Sequence[Figure] = ()
    """What finished jobs took on this machine's GPU."""
    worker: WorkerFact | None = None
    queue: QueueFact | None = None
    notices: tuple[str, ...] = ()


def examine(
    settings: Settings, registry: Registry, found: MachineFindings, known: Known
) -> Examination:
    """Return everything that `doctor` prints.

    Args:
        settings: Where things lie, and what may be chosen.
        registry: The models there are.
        found: What this machine is.
        known: What the caller knows already.
    """
    choices = choices_here(
        registry,
        settings,
        lambda spec: is_installed(spec, registry, settings),
        known.figures if known.named is None else (),
    )
    machine = _planned(found, known)
    if known.named is None and known.ram_gib is None:
        machine = within_setting(machine, settings.host_memory_gib)
    stock, memory = Stock(settings, choices, machine), host_memory()
    lacks_gpu = found.device.kind == "cpu" and known.named is None
    examination = Examination(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: version_of(name) for name in PACKAGES},
        torch=found.torch,
        device=found.device,
        gpus=found.gpus,
        driver_problem=found.driver_problem,
        memory=memory,
        disk=disk_of(settings),
        fits=fits_of(machine, choices, is_this_machine=known.named is None),
        with_a_gpu=tuple(common_gpus(choices, memory.total_gib)) if lacks_gpu else (),
        models=stock.models(),
        pulls=stock.pulls(),
        allowed_licences=settings.licences,
        licences=stock.licences(),
        extras=stock.extras(),
        notices=(*registry.notices, *known.notices),
        queue=known.queue,
        worker=known.worker,
        next=(),
    )
    steps = next_steps(
        examination,
        lambda models: pull_command(models, settings),
        own_command("serve", settings.data_dir),
    )
    return examination.model_copy(update={"next": tuple(steps)})


def _planned(found: MachineFindings, known: Known) -> Machine | None:
    if known.named is not None:
        return known.named
    if found.planned is None or known.ram_gib is None:
        return found.planned
    return replace(found.planned, ram_gib=known.ram_gib)
