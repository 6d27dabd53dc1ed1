"""The GPU of this machine as plans need it: its free memory, and the machine's.

`GpuReader` owns the driver's last answer and keeps it for some seconds: several calls in a row ask
once. Where there is no `nvidia-smi`, it does not answer, or the GPU's memory is not its own, no
GPU is known, and plans are made without.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from flux_mcp.models.memory import GIB
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.candidates import Gpu, Machine

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
    """`None` where neither the system nor the driver tells it."""
    used_gib: float | None
    """`None` where the driver does not tell it."""
    data_dir: Path | None = None
    """The data folder it serves, if it is a worker of flux-mcp."""


@dataclass(frozen=True)
class DriverGpu:
    """A GPU as the driver tells of it."""

    uuid: str
    name: str
    driver: str
    compute: float | None
    total_gib: float | None
    """`None`: the GPU shares the machine's memory; so the next one."""
    free_gib: float | None
    is_split: bool
    """Into instances (MIG), of which a process sees one: then its memory is not what is told."""
    programs: tuple[Program, ...] = ()

    @property
    def untold_gib(self) -> float | None:
        """What is taken by nobody we are told of: the driver itself, graphics, hidden programs."""
        if self.total_gib is None or self.free_gib is None:
            return None
        told = sum(program.used_gib or 0.0 for program in self.programs)
        return max(0.0, self.total_gib - self.free_gib - told)


@dataclass(frozen=True)
class DriverAnswer:
    """Every GPU, or why none is known."""

    gpus: tuple[DriverGpu, ...]
    problem: str | None = None
    """Why the driver's tool did not tell; `None` where it did, and where there is no tool."""


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
    # Not every driver tells of programs (WSL): GPUs are worth having without.
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
    """Return a process's name, and the data folder it serves if it is a worker of ours.

    `None` for what the system does not tell: it is another user's, of another container, or gone.
    """
    import psutil

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
        _ToolError: it cannot be run, takes too long, or says no.
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


KEEP_S = 5.0


@dataclass(frozen=True)
class _Kept:
    answer: DriverAnswer
    at_s: float


class GpuReader:
    """Tells the memory of the GPU and of the machine.

    Args:
        data_dir: What our own workers hold counts as free: those that serve this data folder.
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
        self._kept: _Kept | None = None

    def ask(self) -> DriverAnswer:
        """Return every GPU and who is on it; may take some seconds."""
        with self._lock:
            now_s = self._clock()
            if self._kept is None or now_s - self._kept.at_s > KEEP_S:
                self._kept = _Kept(ask_driver(self._tool), now_s)
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
        GPU: As the driver tells of it.
        data_dir: What workers that serve this data folder hold counts as free.
    """
    if gpu.total_gib is None or gpu.free_gib is None or gpu.is_split:
        return None
    ours_gib = sum(one.used_gib or 0.0 for one in gpu.programs if one.data_dir == data_dir)
    free_gib = min(gpu.total_gib, gpu.free_gib + ours_gib)
    return Gpu(gpu.total_gib, free_gib, gpu.name, gpu.compute)


def machine_memory_gib() -> float:
    """Return the host memory of this machine."""
    import psutil

    return psutil.virtual_memory().total / GIB


SHARE = 0.5
"""Of the machine's memory, where nothing is set. guess: page-locked memory is taken from every
other program of the machine, and cannot be swapped out."""


def host_budget_gib(setting_gib: float | None, total_gib: float) -> float:
    """Return what may be taken for weights that a later job may want.

    What the job that draws needs may be more: its plan was weighed against the whole machine.

    Args:
        setting_gib: `host_memory_gib`.
        total_gib: Host memory of the machine.
    """
    return SHARE * total_gib if setting_gib is None else min(setting_gib, total_gib)


def within_setting(machine: Machine | None, setting_gib: float | None) -> Machine | None:
    """Return the machine as plans are to see it: with no more host memory than the setting allows.

    The memory that is taken before any weights comes on top, as plans count it.
    """
    if machine is None or setting_gib is None:
        return machine
    limit_gib = load_parts().machine.base_ram_gib + setting_gib
    known_gib = machine.ram_gib
    return replace(machine, ram_gib=limit_gib if known_gib is None else min(known_gib, limit_gib))
