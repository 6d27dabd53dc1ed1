"""How long do the lists and the helps of `flux-mcp` take? Ratios: to `python -c pass`, to the goal.

Method: each command is a process of its own, one after another in turn, on an empty data folder;
the processor seconds that the system counts for it (user and system). The clock is no measure: it
counts what else the machine does. Bytecode is compiled before the first turn that counts and kept
in a folder of its own, as an installation has it, whatever the environment says about writing it.
tests/cli/test_cli.py keeps what is imported.

Unit: ratio of the least; processor seconds.
"""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import Result, rotated, scratch, start

HELP_CPU_S, LIST_CPU_S = 0.3, 0.7
HELPS = (
    "--help",
    "serve --help",
    "generate --help",
    "demo --help",
    "doctor --help",
    "connect --help",
    "jobs --help",
    "jobs list --help",
    "gallery search --help",
    "models list --help",
    "models plan --help",
    "loras list --help",
    "packs list --help",
)
LISTS = (
    "jobs list",
    "jobs list --all",
    "gallery search",
    "models list",
    "loras list",
    "packs list",
    "connect",
)
NOTHING = "python -c pass"


def measure(quick: bool) -> Result:
    """Measure every command in turn."""
    repetitions = 3 if quick else 20
    result = Result("commands", quick, {"runs": repetitions})
    with scratch() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = {NOTHING: [sys.executable, "-c", "pass"]}
        for words in (*HELPS, *LISTS):
            place = [] if words in HELPS else ["--data-dir", str(folder / "data")]
            commands[words] = [sys.executable, "-m", "flux_mcp", *words.split(), *place]
        for command in commands.values():
            _cpu_s(command, environment, folder)
        spent: dict[str, list[float]] = {words: [] for words in commands}
        for turn in range(repetitions):
            for words in rotated(tuple(commands), turn):
                spent[words].append(_cpu_s(commands[words], environment, folder))
    nothing_s = min(spent[NOTHING])
    for words, seconds in spent.items():
        least_s, median_s = min(seconds), statistics.median(seconds)
        result.absolute[words] = {
            "cpu_least_s": round(least_s, 3),
            "cpu_median_s": round(median_s, 3),
        }
        shown = f"cpu {least_s:.2f} s, median {median_s:.2f} s"
        if words == NOTHING:
            result.line(words, shown)
            continue
        goal_s = HELP_CPU_S if words in HELPS else LIST_CPU_S
        result.ratios[words] = round(least_s / goal_s, 3)
        result.line(
            f"flux-mcp {words}",
            f"{shown}, {least_s / nothing_s:.0f}x pass, {least_s / goal_s:.2f}x the goal",
            f"C7: <= {goal_s} s",
        )
    return result


def _cpu_s(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    """Run a command; return the processor seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    start(__doc__, measure)
