"""The graphics card of this machine, asked of the driver's own tool: no torch, no context on it.

`CardReader` owns the last answer and keeps it for some seconds: several calls in a row ask once.
Where there is no `nvidia-smi`, or it does not answer, no card is known, and plans are made without.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.models.candidates import Card, Machine
from flux_mcp.models.memory import GIB

KEEP_S = 5.0
TIMEOUT_S = 10.0
"""A driver that wakes a sleeping card takes seconds."""
_CARD_QUERY = "uuid,name,memory.total,memory.free,compute_cap"
_PROCESS_QUERY = "gpu_uuid,pid,used_memory"
_MIB = 1024
_WORKER_MODULE = "flux_mcp.pipelines.worker"


@dataclass(frozen=True)
class _Answer:
    machine: Machine | None
    at_s: float


class CardReader:
    """Tells the memory of the card and of the machine.

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
        self._last: _Answer | None = None

    def read(self, name: str | None = None) -> Machine | None:
        """Return what there is, or `None` where no card is known; may take a second.

        Args:
            name: The card that draws, where a worker has said so; else the first one counts.
        """
        with self._lock:
            now_s = self._clock()
            if self._last is None or now_s - self._last.at_s > KEEP_S:
                self._last = _Answer(self._ask(name), now_s)
            return self._last.machine

    def _ask(self, name: str | None) -> Machine | None:
        cards = self._query("gpu", _CARD_QUERY)
        if not cards:
            return None
        row = next((row for row in cards if row[1] == name), cards[0])
        try:
            total_gib, free_gib = float(row[2]) / _MIB, float(row[3]) / _MIB
        except ValueError:
            return None  # "[N/A]": the card shares the machine's memory
        compute = None
        with suppress(ValueError):
            compute = float(row[4])
        card = Card(
            total_gib=total_gib,
            free_gib=min(total_gib, free_gib + self._held_by_us_gib(row[0])),
            name=row[1],
            compute=compute,
        )
        import psutil

        return Machine(card, psutil.virtual_memory().total / GIB)

    def _held_by_us_gib(self, uuid: str) -> float:
        import psutil

        held_mib = 0.0
        for row in self._query("compute-apps", _PROCESS_QUERY):
            with suppress(ValueError, psutil.Error):  # "[N/A]", or gone meanwhile
                if row[0] == uuid and self._is_our_worker(int(row[1])):
                    held_mib += float(row[2])
        return held_mib / _MIB

    def _is_our_worker(self, pid: int) -> bool:
        import psutil

        process = psutil.Process(pid)
        serves = process.environ().get("FLUX_MCP_DATA_DIR")
        return _WORKER_MODULE in process.cmdline() and serves == str(self._data_dir)

    def _query(self, what: str, fields: str) -> list[list[str]]:
        """Return the tool's rows; none where it fails."""
        if self._tool is None:
            return []
        try:
            answer = subprocess.run(  # noqa: S603 - a fixed command
                [self._tool, f"--query-{what}={fields}", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return []
        rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines()]
        return [row for row in rows if len(row) == len(fields.split(","))]


def nvidia_tool() -> str | None:
    """Return where the driver's tool is."""
    return shutil.which("nvidia-smi")
