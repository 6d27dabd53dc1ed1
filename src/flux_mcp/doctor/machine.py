"""What this machine is: the device that would be used and why, torch, GPUs, memory, disk.

torch is not imported: its files and the driver's tool say enough.
"""

import ast
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from flux_mcp.doctor.facts import (
    DeviceFact,
    DeviceKind,
    Disk,
    GpuFact,
    MemoryFact,
    Obstacle,
    ProgramFact,
    Torch,
    TorchBuild,
)
from flux_mcp.models.formats import has_extra, load_formats
from flux_mcp.models.memory import GIB
from flux_mcp.models.planning.candidates import Machine
from flux_mcp.models.planning.machine import DriverAnswer, DriverGpu, GpuReader
from flux_mcp.settings.environment import visible_gpus
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
    there = Surroundings(settings.device, torch, driver, visible_gpus(), _is_apple_silicon())
    device = choose(there)
    if said is not None:
        device = as_said(device, said)
    planned = reader.read(device.gpu) if device.kind == "cuda" else None
    gpus = tuple(_gpu(gpu, settings) for gpu in driver.gpus)
    return MachineFindings(torch, device, gpus, driver.problem, planned)


# --- device ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surroundings:
    """What decides which device is used."""

    setting: str
    torch: Torch
    driver: DriverAnswer
    visible: str | None
    """CUDA_VISIBLE_DEVICES; `None` where it is not set."""
    is_apple_silicon: bool

    @property
    def hides_gpus(self) -> bool:
        """Whether no GPU is to be used: CUDA reads the list up to the first that is none."""
        return self.visible is not None and self.visible.partition(",")[0].strip() in ("", "-1")


def choose(there: Surroundings) -> DeviceFact:
    """Return the device that a worker would use, and why."""
    obstacle = next(_obstacles(there), None)
    kind, reason = _kind(there, obstacle)
    gpu = None
    if kind == "cuda" and there.driver.gpus:
        gpu = there.driver.gpus[0].name
        reason = f"{reason}{_which(there.driver.gpus)}"
    return DeviceFact(
        setting=there.setting,
        kind=kind,
        gpu=gpu,
        obstacle=None if obstacle is None else obstacle[0],
        reason=reason,
    )


def _kind(there: Surroundings, obstacle: tuple[Obstacle, str] | None) -> tuple[DeviceKind, str]:
    if there.setting == "cpu":
        return "cpu", "the setting 'device' says cpu."
    if there.setting == "mps":
        wrong = "" if there.is_apple_silicon else ", which is not here: the worker would refuse"
        return "mps", f"the setting 'device' says mps{wrong}."
    if there.setting == "cuda":
        wrong = "." if obstacle is None else f", but {obstacle[1]} The worker would refuse."
        return "cuda", f"the setting 'device' says cuda{wrong}"
    if obstacle is None:
        return "cuda", _why_a_gpu(there)
    if there.is_apple_silicon and there.torch.version is not None:
        return "mps", "this is a Mac with Apple's own processor."
    return "cpu", obstacle[1]


def _why_a_gpu(there: Surroundings) -> str:
    if there.torch.build == "rocm":
        return "torch is a build for AMD GPUs; whether there is one only a worker can say."
    return "the driver tells of a GPU, and torch is a build for it."


def _obstacles(there: Surroundings) -> Iterator[tuple[Obstacle, str]]:
    """Yield what keeps a GPU from being used, the first cause first."""
    torch, gpus = there.torch, there.driver.gpus
    if torch.version is None:
        yield "no_torch", "torch is not installed."
    if torch.build == "rocm":
        return  # an AMD GPU: nvidia-smi does not list it, and torch calls it cuda
    if there.driver.problem is not None:
        yield "driver_fails", f"no GPU is known: {there.driver.problem}"
    if not gpus:
        yield "no_gpu", "no NVIDIA GPU was found: there is no nvidia-smi."
        return
    if torch.build == "cpu":
        yield "cpu_build", f"torch {torch.version} is a CPU build and does not use the GPU."
    if is_too_old(gpus[0], torch):
        needed = f"CUDA {torch.cuda}, which takes {torch.least_driver} or newer"
        yield "old_driver", f"driver {gpus[0].driver} is too old for {needed}."
    if there.hides_gpus:
        yield "hidden", f"CUDA_VISIBLE_DEVICES is '{there.visible}' and hides every GPU."


def _which(gpus: Sequence[DriverGpu]) -> str:
    if len(gpus) == 1:
        return ""
    return (
        f" Of {len(gpus)} GPUs, plans count with the first of this list until a worker has said "
        "which one it uses."
    )


def driver_series(gpu: DriverGpu) -> int | None:
    """Return the series of a GPU's driver: 580 of `580.95.05`."""
    series = gpu.driver.partition(".")[0]
    return int(series) if series.isdigit() else None


def is_too_old(gpu: DriverGpu, torch: Torch) -> bool:
    """Whether a GPU's driver is older than torch's CUDA needs; unknown versions are not."""
    series = driver_series(gpu)
    return series is not None and torch.least_driver is not None and series < torch.least_driver


def _is_apple_silicon() -> bool:
    """Whether torch's MPS device can be expected."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


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
LEAST_DRIVER = {"13": 580, "12": 525, "11": 450}
"""Major version of CUDA -> the oldest driver series it runs on (NVIDIA's CUDA Compatibility guide,
"Minor Version Compatibility", table 1). Windows' numbers are a few higher within a series."""
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


def installed_torch() -> Torch:
    """Return what the installed torch was built for."""
    try:
        distribution = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return Torch(version=None, build="unknown", cuda=None, least_driver=None)
    version = distribution.version
    # torch writes it into each wheel; the version of the one on PyPI says nothing of its build.
    place = Path(str(distribution.locate_file("torch/version.py")))
    try:
        says = constants(place.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        says = {}
    return torch_build(says.get("__version__") or version, says, is_known=bool(says))


def torch_build(version: str, says: dict[str, str | None], *, is_known: bool) -> Torch:
    """Return what a torch was built for.

    Args:
        version: As it names itself: `2.13.0+cpu`.
        says: The constants of its `version.py`.
        is_known: Whether that could be read.
    """
    cuda, hip = says.get("cuda"), says.get("hip") or says.get("rocm")
    suffix = version.partition("+")[2]
    build: TorchBuild = "cpu" if is_known or suffix == "cpu" else "unknown"
    if cuda or re.fullmatch(r"cu\d+", suffix):
        build = "cuda"
        cuda = cuda or f"{suffix[2:-1]}.{suffix[-1]}"
    elif hip or suffix.startswith("rocm"):
        build = "rocm"
    least = LEAST_DRIVER.get((cuda or "").partition(".")[0])
    return Torch(version=version, build=build, cuda=cuda, least_driver=least)


def constants(source: str) -> dict[str, str | None]:
    """Return the names that a module binds to a string or to None at its top; runs nothing.

    Raises:
        SyntaxError: it is not Python.
    """
    found: dict[str, str | None] = {}
    for line in ast.parse(source).body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
        bound = getattr(line, "value", None)
        if isinstance(bound, ast.Constant) and isinstance(bound.value, str | None):
            found |= {target.id: bound.value for target in targets if isinstance(target, ast.Name)}
    return found


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
