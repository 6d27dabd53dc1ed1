"""What NVIDIA's driver tells of its cards and of the programs on them, through `nvidia-smi`.

No torch, no context on the card. Owns nothing: each call asks anew; `CardReader` keeps answers.

Fields are those of `nvidia-smi --help-query-gpu` and `--help-query-compute-apps`. A field that the
driver cannot tell is `[N/A]`: memory of a card that shares the machine's (Grace, Jetson), what a
program holds under Windows. Under WSL it names no programs at all.
"""

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 10.0
"""A driver that wakes a sleeping card takes seconds."""
WSL_TOOL = Path("/usr/lib/wsl/lib/nvidia-smi")
"""Where Windows puts it for WSL 2 (NVIDIA's CUDA on WSL User Guide); not on every PATH."""
_MIB = 1024
_CARD_FIELDS = (
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
    """A program that computes on a card."""

    pid: int
    name: str | None
    """`None` where neither the system nor the driver tells it."""
    used_gib: float | None
    """`None` where the driver does not tell it."""
    data_dir: Path | None = None
    """The data folder it serves, if it is a worker of flux-mcp."""


@dataclass(frozen=True)
class DriverCard:
    """A card as the driver tells of it."""

    uuid: str
    name: str
    driver: str
    compute: float | None
    total_gib: float | None
    """`None`: the card shares the machine's memory; so the next one."""
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
    """Every card, or why none is known."""

    cards: tuple[DriverCard, ...]
    problem: str | None = None
    """Why the driver's tool did not tell; `None` where it did, and where there is no tool."""


class _ToolError(Exception):
    """The tool did not answer; the text says how."""


def nvidia_tool() -> str | None:
    """Return where the driver's tool is; `None` if there is none."""
    found = shutil.which("nvidia-smi")
    return found or (str(WSL_TOOL) if WSL_TOOL.is_file() else None)


def ask_driver(tool: str | None, timeout_s: float = TIMEOUT_S) -> DriverAnswer:
    """Ask for every card and the programs on it; may take a second, at most twice `timeout_s`."""
    if tool is None:
        return DriverAnswer(())
    try:
        rows = _query(tool, "gpu", _CARD_FIELDS, timeout_s)
    except _ToolError as error:
        return DriverAnswer((), str(error))
    # Not every driver tells of programs (WSL): cards are worth having without.
    programs: list[list[str]] = []
    with suppress(_ToolError):
        programs = _query(tool, "compute-apps", _PROGRAM_FIELDS, timeout_s)
    cards = tuple(_card(row, programs) for row in rows)
    return DriverAnswer(cards, None if cards else "nvidia-smi lists no card.")


def _card(row: Sequence[str], programs: Sequence[Sequence[str]]) -> DriverCard:
    uuid, driver, compute, total_mib, free_mib, mig, name = row
    return DriverCard(
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
