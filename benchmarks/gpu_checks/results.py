"""What a run found, as JSON lines, and as a table. Owns the file: one line at a time, flushed."""

import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from common import commit, cpu_model
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flux_mcp.pipelines.device import GIB
from gpu_checks.goals import goal_of, is_reached
from gpu_checks.gpu import read_gpu

Status = Literal["measured", "done", "failed", "not run"]


class Results:
    """Collects the lines of one run.

    Args:
        path: Where they are appended; `None` for nowhere.
        scale: Of the run; goals are for the full one.
        device: Of the run.
    """

    def __init__(self, path: Path | None, scale: str, device: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = path
        self._facts: dict[str, Any] = {
            "benchmark": "gpu",
            "run": secrets.token_hex(4),
            "scale": scale,
            "device": device,
            "commit": commit(),
        }
        self._machine: dict[str, Any] = {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "ram_gib": round(psutil.virtual_memory().total / GIB, 1),
            "gpu": read_gpu().get("name", ""),
            "driver": read_gpu().get("driver", ""),
        }
        self._gpu_before: Mapping[str, Any] = {}

    def know(self, environment: Mapping[str, Any]) -> None:
        """Take what the process that measures says of its libraries and device."""
        self._machine |= environment
        self._machine["gpu"] = self._machine["gpu"] or environment.get("device_name", "")

    def begin(self) -> None:
        """Note the GPU's state before a case."""
        self._gpu_before = read_gpu()

    def figure(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write a measured number with its floor and goal; return its line."""
        case, name, value, floor = (found[key] for key in ("case", "name", "value", "floor"))
        goal = goal_of(case, name) if self._facts["scale"] == "full" else None
        line = {
            "case": case,
            "status": "measured",
            "figure": name,
            "value": value,
            "unit": found["unit"],
            "floor": floor,
            "ratio": value / floor if floor else None,
            "goal": None if goal is None else {"at_most": goal.at_most, "of": goal.of,
                                               "gpu": goal.gpu, "source": goal.source},
            "reached": None if goal is None else is_reached(
                goal, str(self._machine["gpu"]), value, floor
            ),
            "details": found["details"],
            "gpu_before": self._gpu_before,
            "gpu_after": read_gpu(),
        }  # fmt: skip
        return self._write(line)

    def end(self, case: str, status: Status, reason: str = "") -> None:
        """Write how a case ended."""
        self._write({"case": case, "status": status, "reason": reason})

    def _write(self, line: dict[str, Any]) -> dict[str, Any]:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        whole = {**self._facts, "date": date, **line, "machine": self._machine}
        self.lines.append(whole)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(whole, ensure_ascii=False) + "\n")
        return whole

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(
            title=f"gpu, {self._facts['scale']} scale, {self._machine['gpu']}",
            title_justify="left",
        )
        for heading in ("case", "figure", "value", "floor", "ratio", "goal", "reached"):
            table.add_column(heading)
        for line in self.lines:
            table.add_row(*map(escape, row_of(line)))
        console.print(table)


def row_of(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line's cells; one without a number says how its case ended."""
    if line["status"] != "measured":
        told = line["reason"] or line["status"]
        return (line["case"], line["status"], told if line["reason"] else "", "", "", "", "")
    goal = line["goal"]
    words = {True: "yes", False: "no", None: ""}
    return (
        line["case"],
        told_figure(line),
        f"{line['value']:.4g} {line['unit']}",
        f"{line['floor']:.4g}" if line["floor"] else "",
        f"{line['ratio']:.3f}" if line["ratio"] is not None else "",
        "" if goal is None else f"{goal['of']} <= {goal['at_most']:g}",
        words[line["reached"]],
    )


def told_figure(line: Mapping[str, Any]) -> str:
    """Return a figure's name, and which of several it is."""
    which = [str(v) for k, v in line["details"].items() if k in ("way", "tokens")]
    return " ".join([line["figure"], *which])
