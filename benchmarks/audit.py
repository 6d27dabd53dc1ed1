"""What does the audit of a prompt cost? Ratio: against 20 forbidden patterns / against none.

Method: in this process, without packs. A prompt of 2000 characters with a negation in every second
sentence, and one of 50 characters, are audited in turn, against twenty words and against nothing.
Before that, in separate processes: importing the audit with its judge, and the first audit, which
reads the word tables. It is processor time, not elapsed time: nothing here waits.

Unit: medians of ratios of neighbours; milliseconds of processor time.
"""

import statistics
import subprocess
import sys
import time

from common import Result, median_ratio, ms, p50_p99_ms, start

from flux_mcp.compose.audit import Forbidden, audit_text

WORDS = (
    "people text logo watermark brand blood gun nudity child crowd car truck signature border blur "
    "grain smoke fire knife face"
)
SENTENCES = (
    "A wide, empty plaza at noon, shot on 35 mm film, without any people or cars, in harsh light. "
    'The word "OPEN" hangs above a door; there is no text, logo or caption elsewhere. '
)
PROMPTS = {
    "long": (SENTENCES * 20)[:2000],
    "short": "A lighthouse at dusk, no people, soft light, calm.",
}
NONE, TWENTY = "no patterns", "20 patterns"
FIRST = """
import re, dataclasses, enum, time, tomllib
import flux_mcp.errors, flux_mcp.compose.assemble
started = time.process_time()
from flux_mcp.compose.audit import Forbidden, audit_text, judge
imported = time.process_time()
audit_text("no people, a crowd", [Forbidden("people")])
print(imported - started, time.process_time() - imported)
"""


def measure(quick: bool) -> Result:
    """Audit both prompts in turn."""
    repetitions = 20 if quick else 500
    spawns = 2 if quick else 10
    result = Result("audit", quick, {"audits": repetitions, "spawns": spawns})
    patterns = {NONE: [], TWENTY: [Forbidden(word) for word in WORDS.split()]}
    firsts = [_first() for _ in range(spawns)]
    for name, values in zip(("import", "first"), zip(*firsts, strict=True), strict=True):
        result.absolute[f"{name}_ms"] = ms(statistics.median(values))
        result.line(f"{name}, in a separate process", f"{result.absolute[f'{name}_ms']:.1f} ms")
    for length, prompt in PROMPTS.items():
        spent: dict[str, list[float]] = {name: [] for name in patterns}
        for turn in range(-5, repetitions):
            for name, rows in patterns.items():
                started = time.process_time()
                audit_text(prompt, rows)
                if turn >= 0:
                    spent[name].append(time.process_time() - started)
        result.ratios[length] = median_ratio(spent[TWENTY], spent[NONE])
        result.absolute[length] = {name: p50_p99_ms(values) for name, values in spent.items()}
        numbers = result.absolute[length][TWENTY]
        result.line(
            f"{len(prompt)} characters",
            f"20 patterns/none {result.ratios[length]:.2f}x; 20 patterns p50 "
            f"{numbers['p50_ms']:.2f} ms, p99 {numbers['p99_ms']:.2f} ms",
            "a few ms" if length == "long" else "",
        )
    return result


def _first() -> tuple[float, float]:
    """Return the seconds of the import and of the first audit in a new process."""
    said = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True)
    imported, audited = map(float, said.stdout.split())
    return imported, audited


if __name__ == "__main__":
    start(__doc__, measure)
