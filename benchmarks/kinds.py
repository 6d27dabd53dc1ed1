"""How long does a new user wait for each kind? Unit: seconds; ratio to a warm text2img image.

Method: a server on an empty data folder, its worker with a torch thread for each core, generates
one image of each kind with micro at 128 px and 8 steps, then again. The very first call starts the
worker, which imports torch and diffusers; the first call of each other kind loads that kind.
Loading times are those of the worker (`load_s` of the job), the others those the client waited.
Several servers, one after another; kinds take turns at being first.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import (
    Result,
    draw,
    flux_server,
    median_ratio,
    rotated,
    run_facts,
    scratch,
    start_async,
)
from drawings import calls
from finished_jobs import read_jobs
from mcp import Client

SIDE_PX, STEPS = 128, 8
WARM = 5


async def measure(quick: bool) -> Result:
    """Start servers, and generate every kind for the first time on each."""
    starts = 1 if quick else 5
    kinds = list(calls(SIDE_PX))
    cores = run_facts()["machine"]["cores"]
    result = Result("kinds", quick, {"starts": starts, "warm_images": WARM, "threads": cores})
    load_s: dict[str, list[float]] = {kind: [] for kind in kinds}
    warm_s: dict[str, list[float]] = {kind: [] for kind in kinds}
    first_s: list[float] = []
    for turn in range(starts):
        with scratch() as folder:
            async with flux_server(folder, torch_threads=cores) as client:
                ids = {}
                for number, kind in enumerate(rotated(kinds, turn)):
                    ids[kind], waited = await _timed(client, kind)
                    if number == 0:
                        first_s.append(waited)
                for _ in range(WARM):
                    for kind in kinds:
                        warm_s[kind].append((await _timed(client, kind))[1])
            for kind, seconds in zip(kinds, _load_s(folder, [ids[k] for k in kinds]), strict=True):
                load_s[kind].append(seconds)
    _report(result, first_s, load_s, warm_s)
    return result


async def _timed(client: Client, kind: str) -> tuple[str, float]:
    """Generate an image; return its job and the seconds until the answer arrived."""
    tool, arguments = calls(SIDE_PX)[kind]
    size = {"model": "micro", "width": SIDE_PX, "height": SIDE_PX, "steps": STEPS, "seed": 1}
    started = time.perf_counter()
    job: dict[str, Any] = await draw(client, tool, {**arguments, **size})
    return job["job_id"], time.perf_counter() - started


def _load_s(data_dir: Path, job_ids: Sequence[str]) -> list[float]:
    jobs = read_jobs(data_dir)
    return [jobs[job_id].load_s or 0.0 for job_id in job_ids]


def _report(
    result: Result,
    first_s: Sequence[float],
    load_s: dict[str, list[float]],
    warm_s: dict[str, list[float]],
) -> None:
    first = statistics.median(first_s)
    all_load = statistics.median(sum(loads) for loads in zip(*load_s.values(), strict=True))
    result.absolute |= {"first_answer_s": round(first, 3), "load_all_kinds_s": round(all_load, 3)}
    result.line("the very first image, from its call", f"{first:.1f} s")
    result.line("loading all five kinds, together", f"{all_load:.2f} s", "a few seconds")
    for kind, seconds in warm_s.items():
        warm = statistics.median(seconds)
        load = statistics.median(load_s[kind])
        result.ratios[kind] = median_ratio(seconds, warm_s["text2img"])
        result.absolute[kind] = {"load_s": round(load, 3), "warm_answer_s": round(warm, 3)}
        result.line(
            f"{kind}, 128 px, 8 steps",
            f"{warm:.2f} s warm ({result.ratios[kind]:.2f}x text2img), loaded in {load:.2f} s",
            "about 1 s" if kind == "text2img" else "",
        )


if __name__ == "__main__":
    start_async(__doc__, measure)
