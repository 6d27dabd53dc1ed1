"""What this machine is: the device that would be used and why, torch, GPUs, memory, disk.

torch is not imported: its files and the driver's tool say enough.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import psutil

from flux_mcp.doctor.facts import Disk, GpuFact, MemoryFact, ProgramFact
from flux_mcp.models.formats import has_extra, load_formats
from flux_mcp.models.memory import GIB
from flux_mcp.models.planning.candidates import Machine
from flux_mcp.models.planning.device import (
    DeviceFact,
    DeviceKind,
    Torch,
    expected_device,
    installed_torch,
)
from flux_mcp.models.planning.machine import DriverGpu, GpuReader
from flux_mcp.settings.file_systems import network_file_system
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Environment


@dataclass(frozen=True)
class MachineFindings:
    """What this machine is."""

    torch: Torch
    device: DeviceFact
    gpus: tuple[GpuFact, ...]
    driver_problem: str | None
    planned: Machine | None
    """What plans count with; `None` without a GPU, or where its memory is not known."""


def look(settings: Settings, reader: GpuReader, said: Environment | None) -> MachineFindings:
    """Return what this machine is; may take some seconds where there is a GPU.

    Args:
        settings: The device that was asked for.
        reader: Asks the driver.
        said: What a worker said of its device, if one was asked.
    """
    driver, torch = reader.ask(), installed_torch()
    device = expected_device(settings.device, torch, driver)
    if said is not None:
        device = as_said(device, said)
    planned = reader.read(device.gpu) if device.kind == "cuda" else None
    gpus = tuple(_gpu(gpu, settings) for gpu in driver.gpus)
    return MachineFindings(torch, device, gpus, driver.problem, planned)


# --- device ------------------------------------------------------------------------------------


def as_said(device: DeviceFact, said: Environment) -> DeviceFact:
    """Return the device that a worker said it uses: that counts more than what could be told."""
    kind: DeviceKind = "cuda" if said.device.startswith("cuda") else "cpu"
    if said.device == "mps":
        kind = "mps"
    gpu = said.device_name if kind == "cuda" else None
    reason = f"a worker said {said.device}."
    return device.model_copy(update={"kind": kind, "gpu": gpu, "reason": reason})


# --- torch and packages ------------------------------------------------------------------------


PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "mcp",
    "pillow",
    "pydantic",
    "sqlite-utils",
)
_MORE_EXTRAS = {
    "keyring": ("keyring", "`models pull` finds the hub's token in the system's keyring"),
    "otel": ("opentelemetry-sdk", "traces are sent to a collector"),
}
"""Extras that hold no weights -> a package they bring, and what they give."""


def version_of(package: str) -> str | None:
    """Return an installed package's version; `None` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing_extras() -> Iterator[tuple[str, str]]:
    """Yield each extra of this package that is not installed, and what it would give."""
    for name, row in load_formats().extra.items():
        if not has_extra(name):
            yield name, row.gives
    for name, (package, gives) in _MORE_EXTRAS.items():
        if version_of(package) is None:
            yield name, gives


# --- GPUs, memory, disk ------------------------------------------------------------------------


def _gpu(gpu: DriverGpu, settings: Settings) -> GpuFact:
    programs = tuple(
        ProgramFact(
            pid=one.pid,
            name=one.name,
            used_gib=_rounded(one.used_gib),
            data_dir=None if one.data_dir is None else str(one.data_dir),
            is_ours=one.data_dir == settings.data_dir,
        )
        for one in gpu.programs
    )
    return GpuFact(
        name=gpu.name,
        uuid=gpu.uuid,
        driver=gpu.driver,
        compute=gpu.compute,
        total_gib=_rounded(gpu.total_gib),
        free_gib=_rounded(gpu.free_gib),
        is_split=gpu.is_split,
        programs=programs,
        other_gib=_rounded(gpu.other_gib),
        notes=tuple(_notes(gpu)),
    )


def _notes(gpu: DriverGpu) -> Iterator[str]:
    """Yield what cannot be known."""
    if gpu.is_split:
        yield (
            "It is split into instances (MIG): a worker gets one of them, and these numbers are "
            "of the whole GPU. Plans are made without knowing its memory."
        )
    if gpu.total_gib is None or gpu.free_gib is None:
        yield (
            "The driver tells no memory of its own: it shares the machine's, or the account may "
            "not see it. Plans are made without."
        )
    if any(one.used_gib is None for one in gpu.programs):
        yield "The driver does not tell what each program holds: on Windows it never does."


def host_memory() -> MemoryFact:
    """Return the host memory now."""
    memory = psutil.virtual_memory()
    return MemoryFact(total_gib=_gib(memory.total), available_gib=_gib(memory.available))


def disk_of(settings: Settings) -> Disk:
    """Return the disk of the data folder, which exists."""
    usage = shutil.disk_usage(settings.data_dir)
    return Disk(
        data_dir=str(settings.data_dir),
        total_gib=_gib(usage.total),
        free_gib=_gib(usage.free),
        reserve_gib=settings.disk_reserve_gib,
        network=network_file_system(settings.data_dir),
    )


def _gib(size_bytes: float) -> float:
    return round(size_bytes / GIB, 1)


def _rounded(gib: float | None) -> float | None:
    return None if gib is None else round(gib, 2)
