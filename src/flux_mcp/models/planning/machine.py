"""What this machine offers to plans: its GPUs, its memory, what is installed. The impure part.

GPUs are known through the driver's tool, `nvidia-smi`. `GpuReader` keeps its last answer for some
seconds, so several calls in a row start it once. Where it is missing or does not answer, or the
GPU's memory is not its own, no GPU is known and plans are made without.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from flux_mcp.models.formats import DeviceKind, has_extra, load_formats
from flux_mcp.models.memory import GIB
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.candidates import Choices, Gpu, Machine
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.planning.support import LoadSupport, load_support_with
from flux_mcp.models.planning.switches import TargetDevice
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.models.switches import load_switches
from flux_mcp.settings.settings import Settings

# --- the driver ----------------------------------------------------------------------------------

TIMEOUT_S = 10.0
"""A driver that wakes a sleeping GPU takes seconds."""
WSL_TOOL = Path("/usr/lib/wsl/lib/nvidia-smi")
"""Where Windows puts it for WSL 2 (NVIDIA's CUDA on WSL User Guide); not on every PATH."""
_MIB = 1024
_GPU_FIELDS = (
    "uuid",
    "driver_version",
    "compute_cap",
    "memory.total",
    "memory.free",
    "mig.mode.current",
    "name",
)
_PROGRAM_FIELDS = ("gpu_uuid", "pid", "used_memory", "process_name")
"""A name comes last: it may have commas."""
_WORKER_MODULE = "flux_mcp.pipelines.worker"
_MOST_WORDS = 200


@dataclass(frozen=True)
class Program:
    """A program that computes on a GPU."""

    pid: int
    name: str | None
    """`None` where neither the system nor the driver knows it."""
    used_gib: float | None
    """`None` where the driver does not know it."""
    data_dir: Path | None = None
    """The data folder it serves, if it is a worker of flux-mcp."""


@dataclass(frozen=True)
class DriverGpu:
    """A GPU as the driver describes it."""

    uuid: str
    name: str
    driver: str
    compute: float | None
    total_gib: float | None
    """`None`, as `free_gib`, where the GPU shares the machine's memory."""
    free_gib: float | None
    is_split: bool
    """Into instances (MIG): a process sees one of them, and the memory here is that of all."""
    programs: tuple[Program, ...] = ()

    @property
    def other_gib(self) -> float | None:
        """What is taken by no listed program: the driver itself, graphics, hidden programs."""
        if self.total_gib is None or self.free_gib is None:
            return None
        listed = sum(program.used_gib or 0.0 for program in self.programs)
        return max(0.0, self.total_gib - self.free_gib - listed)


@dataclass(frozen=True)
class DriverAnswer:
    """Every GPU, or why none is known."""

    gpus: tuple[DriverGpu, ...]
    problem: str | None = None
    """Why the driver's tool gave no answer; `None` where it did, and where there is no tool."""


class _ToolError(Exception):
    """The tool did not answer; the text says how."""


def nvidia_tool() -> str | None:
    """Return where the driver's tool is; `None` if there is none."""
    found = shutil.which("nvidia-smi")
    return found or (str(WSL_TOOL) if WSL_TOOL.is_file() else None)


def ask_driver(tool: str | None, timeout_s: float = TIMEOUT_S) -> DriverAnswer:
    """Ask for every GPU and the programs on it; may take a second, at most twice `timeout_s`."""
    if tool is None:
        return DriverAnswer(())
    try:
        rows = _query(tool, "gpu", _GPU_FIELDS, timeout_s)
    except _ToolError as error:
        return DriverAnswer((), str(error))
    # Some drivers list no programs (WSL): the GPUs are used without.
    programs: list[list[str]] = []
    with suppress(_ToolError):
        programs = _query(tool, "compute-apps", _PROGRAM_FIELDS, timeout_s)
    gpus = tuple(_gpu(row, programs) for row in rows)
    return DriverAnswer(gpus, None if gpus else "nvidia-smi lists no GPU.")


def _gpu(row: Sequence[str], programs: Sequence[Sequence[str]]) -> DriverGpu:
    uuid, driver, compute, total_mib, free_mib, mig, name = row
    return DriverGpu(
        uuid=uuid,
        name=name,
        driver=driver,
        compute=_number(compute),
        total_gib=_gib(total_mib),
        free_gib=_gib(free_mib),
        is_split=mig == "Enabled",
        programs=tuple(_program(one) for one in programs if one[0] == uuid and one[1].isdigit()),
    )


def _program(row: Sequence[str]) -> Program:
    _, pid, used_mib, told = row
    name, data_dir = _about_process(int(pid))
    if name is None and not told.startswith("["):  # "[Not Found]", "[Insufficient Permissions]"
        name = Path(told.replace("\\", "/")).name or None
    return Program(int(pid), name, _gib(used_mib), data_dir)


def _about_process(pid: int) -> tuple[str | None, Path | None]:
    """Return a process's name, and the data folder it serves if it is a worker of flux-mcp.

    `None` for what the system does not say: it is another user's, of another container, or gone.
    """
    import psutil  # only where a GPU has programs

    name = None
    try:
        process = psutil.Process(pid)
        name = process.name()
        if _WORKER_MODULE not in process.cmdline():
            return name, None
        serves = process.environ().get("FLUX_MCP_DATA_DIR")
    except psutil.Error:
        return name, None
    return name, Path(serves) if serves else None


def _query(tool: str, what: str, fields: Sequence[str], timeout_s: float) -> list[list[str]]:
    """Return the tool's rows; those without every field are left out.

    Raises:
        _ToolError: it cannot be run, takes too long, or fails.
    """
    command = [tool, f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    answer = _run(command, timeout_s)
    rows = [line.split(",", len(fields) - 1) for line in answer.splitlines()]
    return [[cell.strip() for cell in row] for row in rows if len(row) == len(fields)]


def _run(command: Sequence[str], timeout_s: float) -> str:
    try:
        ended = subprocess.run(  # noqa: S603 - a fixed command
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _ToolError(f"nvidia-smi did not answer within {timeout_s:g} s.") from None
    except OSError as error:
        raise _ToolError(f"nvidia-smi cannot be run: {error.strerror}.") from error
    if ended.returncode:
        said = " ".join((ended.stdout or ended.stderr).split())[:_MOST_WORDS]
        raise _ToolError(f"nvidia-smi ended with {ended.returncode}: {said or 'no words'}")
    return ended.stdout


def _gib(mib: str) -> float | None:
    number = _number(mib)
    return None if number is None else number / _MIB


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# --- GPU and memory as plans need them -----------------------------------------------------------

KEEP_S = 5.0
"""How long an answer of the driver is used again."""


@dataclass(frozen=True)
class _KeptAnswer:
    answer: DriverAnswer
    at_s: float


class GpuReader:
    """Reads the memory of the GPU and of the machine.

    Args:
        data_dir: What workers that serve this data folder take counts as free.
        tool: The driver's tool; `None` where there is none.
        clock: Seconds, for how long an answer is kept.
    """

    def __init__(
        self,
        data_dir: Path,
        tool: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._tool = tool
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: _KeptAnswer | None = None

    def ask(self) -> DriverAnswer:
        """Return every GPU and the programs on it; may take some seconds."""
        with self._lock:
            now_s = self._clock()
            if self._kept is None or now_s - self._kept.at_s > KEEP_S:
                self._kept = _KeptAnswer(ask_driver(self._tool), now_s)
            return self._kept.answer

    def read(self, name: str | None = None) -> Machine | None:
        """Return what there is, or `None` where no GPU's memory is known; may take some seconds.

        Args:
            name: The GPU that draws, where a worker has said so; else the first one counts.
        """
        gpus = self.ask().gpus
        if not gpus:
            return None
        drawing = next((one for one in gpus if one.name == name), gpus[0])
        gpu = as_planned(drawing, self._data_dir)
        return None if gpu is None else Machine(gpu, machine_memory_gib())


def as_planned(gpu: DriverGpu, data_dir: Path) -> Gpu | None:
    """Return a GPU as plans count with it; `None` where its memory is not known.

    Args:
        gpu: As the driver describes it.
        data_dir: What workers that serve this data folder take counts as free.
    """
    if gpu.total_gib is None or gpu.free_gib is None or gpu.is_split:
        return None
    ours_gib = sum(one.used_gib or 0.0 for one in gpu.programs if one.data_dir == data_dir)
    free_gib = min(gpu.total_gib, gpu.free_gib + ours_gib)
    return Gpu(gpu.total_gib, free_gib, gpu.name, gpu.compute)


def machine_memory_gib() -> float:
    """Return the host memory of this machine, in GiB."""
    import psutil  # not needed to start

    return psutil.virtual_memory().total / GIB


# --- host memory ---------------------------------------------------------------------------------

SHARE = 0.5
"""Of the machine's memory, where nothing is set. guess: page-locked memory is taken from every
other program of the machine, and cannot be swapped out."""


def host_budget_gib(setting_gib: float | None, total_gib: float) -> float:
    """Return how many GiB may keep weights for later jobs.

    The job that draws may take more: its plan was compared with the whole machine.

    Args:
        setting_gib: `host_memory_gib`.
        total_gib: Host memory of the machine.
    """
    return SHARE * total_gib if setting_gib is None else min(setting_gib, total_gib)


def within_setting(machine: Machine | None, setting_gib: float | None) -> Machine | None:
    """Return the machine with no more host memory than the setting `host_memory_gib` allows.

    What is taken before any weights comes on top, as plans count it.
    """
    if machine is None or setting_gib is None:
        return machine
    limit_gib = load_parts().machine.base_ram_gib + setting_gib
    known_gib = machine.ram_gib
    return replace(machine, ram_gib=limit_gib if known_gib is None else min(known_gib, limit_gib))


# --- what is installed ---------------------------------------------------------------------------


def this_load_support() -> LoadSupport:
    """Return what can be loaded with the packages that are installed; imports none of them."""
    return load_support_with(name for name in load_formats().extra if has_extra(name))


def choices_here(
    registry: Registry,
    settings: Settings,
    is_installed: Callable[[ModelSpec], bool],
    figures: Sequence[Figure] = (),
    support: LoadSupport | None = None,
) -> Choices:
    """Return what this installation can choose from: the same for calls, `doctor` and plans.

    Args:
        registry: The rows.
        settings: Which licences may be chosen.
        is_installed: Whether a row's weights count as here.
        figures: What finished jobs took on the GPU, newest first.
        support: What can be loaded, where the caller knows.
    """
    return Choices(
        registry=registry,
        is_installed=is_installed,
        support=support or this_load_support(),
        licences=None if settings.licences is None else frozenset(settings.licences),
        figures=figures,
    )


def target_device(device: DeviceKind, compute: float | None) -> TargetDevice:
    """Return a device together with what this Python has installed; imports none of it."""
    rows = load_switches()
    asked = {name for row in rows.attention.values() for name in row.packages}
    packages = {}
    for name in asked | set(rows.compile.cuda_packages):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    compilers = {name for names in rows.compile.compilers.values() for name in names}
    found = frozenset(name for name in compilers if shutil.which(name))
    return TargetDevice(device, compute, packages, found)
