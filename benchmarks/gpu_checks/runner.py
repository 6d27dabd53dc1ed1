"""Runs cases in a child process: what a case breaks there, the next ones do not notice.

Owns the child and the time. A child that dies takes its case with it and is replaced for the rest;
when the budget is used up it is ended, and what is left is listed as not run.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flux_mcp.jobs.process_fleet import worker_environment
from flux_mcp.settings.settings import Settings
from gpu_checks.results import Results, row_of

COMMAND = Path(__file__).resolve().parents[1] / "gpu.py"


@dataclass
class Runner:
    """One run.

    Args:
        results: Told what is found.
        scale: A name of `SCALES`.
        device: `cuda` or `cpu`.
        scratch: Folder for weights and compiled code.
        budget_s: After so many seconds nothing more is begun; `None` for no limit.
    """

    results: Results
    scale: str
    device: str
    scratch: Path
    budget_s: float | None = None
    _rates: str | None = None
    _current: str | None = None
    """The case that the child is in."""
    _started: float = field(default_factory=time.monotonic)

    def run(self, names: Sequence[str]) -> None:
        """Run the cases; every one of them has a line in the results afterwards."""
        left = list(names)
        while left and self._left_s() > 0:
            for ended in self._run_child(left):
                left.remove(ended)
        for name in left:
            self._end(name, "not run", f"the budget of {self.budget_s:g} s was used up")

    def say(self, text: str) -> None:
        """Tell people, with the seconds since the start."""
        print(f"{time.monotonic() - self._started:7.1f} s  {text}", file=sys.stderr, flush=True)

    def _left_s(self) -> float:
        if self.budget_s is None:
            return float("inf")
        return self.budget_s - (time.monotonic() - self._started)

    def _run_child(self, names: Sequence[str]) -> Iterator[str]:
        """Start a child on these cases; yield each that ended, in whatever way.

        Args:
            names: What is left; shorter by each case that was yielded.
        """
        progressed = False
        with subprocess.Popen(
            self._command(names), stdout=subprocess.PIPE, env=self._environment()
        ) as child:
            try:
                for event in self._events(child):
                    for ended in self._hear(event, names):
                        progressed = True
                        yield ended
            finally:
                _end_with_children(child)
        if self._left_s() <= 0:
            if self._current is not None:
                reason = f"it was under way when the budget of {self.budget_s:g} s was used up"
                yield self._end(self._current, "failed", reason)
        elif self._current is not None or not progressed:
            # It died in a case, or before its first one, as the next child would.
            lost = self._current or names[0]
            yield self._end(lost, "failed", f"its process ended with {child.returncode}")

    def _hear(self, event: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
        """Take what a child says; yield each case that ended with it."""
        kind = event.pop("event")
        if kind == "ready":
            self.results.know(event["environment"])
        elif kind == "unusable":
            for name in tuple(names):
                yield self._end(name, "failed", event["reason"])
        elif kind == "begin":
            self._current = str(event["case"])
            self.results.begin()
            self.say(self._current)
        elif kind == "rates":
            self._rates = json.dumps(event["rates"])
        elif kind == "figure":
            self.say("  ".join(filter(None, row_of(self.results.figure(event)))))
        elif kind == "end":
            yield self._end(event["case"], event["status"], event.get("reason", ""))

    def _end(self, case: str, status: Any, reason: str) -> str:
        """Write how a case ended; return its name."""
        self._current = None
        self.results.end(case, status, reason)
        self.say(f"{case}: {status}{': ' if reason else ''}{reason}")
        return case

    def _events(self, child: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
        """Yield what the child says until it ends or the time is up."""
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def read() -> None:
            for line in child.stdout or ():
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            left_s = self._left_s()
            try:
                line = lines.get(timeout=None if left_s == float("inf") else max(0.0, left_s))
            except queue.Empty:
                return
            if line is None:
                child.wait()
                return
            yield json.loads(line)

    def _command(self, names: Sequence[str]) -> list[str]:
        rates = [] if self._rates is None else ["--rates", self._rates]
        return [
            sys.executable, str(COMMAND), "--child", "--scale", self.scale,
            "--scratch", str(self.scratch), *rates,
            *(part for name in names for part in ("--only", name)),
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """Return what a worker gets, and where compiled code is kept for the next run."""
        settings = Settings(
            config=Path(os.devnull),
            data_dir=self.scratch / "data",
            device=self.device,  # type: ignore[arg-type]  # argparse has checked it
            torch_threads=1 if self.scale == "tiny" else None,
        )
        return {
            **worker_environment(settings),
            "TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "inductor"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }


def _end_with_children(child: "subprocess.Popen[bytes]") -> None:
    """End a process that is still there, and the servers and workers below it."""
    if child.poll() is not None:
        return
    below = psutil.Process(child.pid).children(recursive=True)
    for process in (*below, psutil.Process(child.pid)):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
