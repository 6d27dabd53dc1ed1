"""Which device a worker would use, told without torch: its files and the driver's tool say enough.

Calls, plans and `doctor` decide by this, so that all count with the same GPU or with none.
"""

import ast
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flux_mcp.models.planning.machine import DriverAnswer, DriverGpu
from flux_mcp.settings.environment import visible_gpus

TorchBuild = Literal["cuda", "rocm", "cpu", "unknown"]
DeviceKind = Literal["cpu", "cuda", "mps"]
Obstacle = Literal["no_torch", "driver_fails", "no_gpu", "cpu_build", "old_driver", "hidden"]


class Torch(BaseModel):
    """The installed torch, by its files: it is not imported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str | None = Field(description="Its version; null where it is not installed.")
    build: TorchBuild = Field(description="What it was built for; macOS has one build, `cpu`.")
    cuda: str | None = Field(description="The CUDA it was built with, as `13.0`.")
    least_driver: int | None = Field(
        description="The oldest NVIDIA driver series that this CUDA runs on, as 580."
    )


class DeviceFact(BaseModel):
    """The device that images would be generated on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: str = Field(description="The setting `device`.")
    kind: DeviceKind = Field(description="The device, as far as can be told without torch.")
    gpu: str | None = Field(description="The GPU that plans count with, by its driver's name.")
    obstacle: Obstacle | None = Field(description="What keeps an NVIDIA GPU from being used.")
    reason: str = Field(description="Why, in a sentence.")


def expected_device(setting: str, torch: Torch, driver: DriverAnswer) -> DeviceFact:
    """Return the device that a worker started here would use.

    Args:
        setting: The setting `device`.
        torch: What `installed_torch` returns.
        driver: What the driver says.
    """
    return choose(Surroundings(setting, torch, driver, visible_gpus(), _is_apple_silicon()))


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


# --- torch -------------------------------------------------------------------------------------

LEAST_DRIVER = {"13": 580, "12": 525, "11": 450}
"""Major version of CUDA -> the oldest driver series it runs on (NVIDIA's CUDA Compatibility guide,
"Minor Version Compatibility", table 1). Windows' numbers are a few higher within a series."""


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
