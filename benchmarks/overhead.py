"""What does the server add to bare diffusers? Ratio: wall time of jobs / bare `pipe()` calls.

Method: the same plans with the same micro weights, one torch thread and a fresh generator each, all
four ways in turn within every repetition, each in processes that are warm:

  bare     `pipe()` in a process with diffusers only; the sum of the calls' seconds
  single   flux_generate over MCP (stdio, `flux-mcp serve`), one call after another, until the
           answer with its preview arrives
  queued   the same jobs submitted with wait_s=0 as fast as the client can, then waited for: the
           throughput of the queue
  quiet    the same on a server without previews

The servers encode every prompt, as the bare pipeline does: their embedding cache is off.

The images must be identical, or there is no result. Micro jobs are 20 to 200 times shorter than
real ones: the milliseconds per job apply to a large GPU too, the ratios do not. The ratio at 64
steps is the one to compare with target C1 (jobs of 500 ms).

The worker's idle gap: a job's row has the time when it was claimed and the seconds that the worker
measured. claim(n+1) - claim(n) - load_s(n) - draw_s(n) is the time in which the worker had no job;
it counts only if job n+1 was waiting already when job n was claimed.

Progress: one server with previews off, one with a preview every second step, and the bare pipeline,
in turn; the seconds are those the worker measured for generating.

Unit: ratios, and milliseconds per job.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bare_client import BarePipe
from common import (
    Result,
    call,
    draw,
    flux_server,
    median_ratio,
    ms,
    pixels_of,
    quantile,
    rotated,
    scratch,
    start_async,
    wait_for,
)
from finished_jobs import idle_gaps_s, read_jobs, worker_s
from mcp import Client

from flux_mcp.jobs.job import Job

PROMPT = "a red circle in the middle of a blue background"
WAYS = ("bare", "single", "queued", "quiet")
QUEUED = ("queued", "quiet")
NO_CACHE = {"embedding_cache_mb": 0, "embedding_cache_disk_mb": 0}


@dataclass(frozen=True)
class Case:
    """A size of job."""

    side_px: int
    steps: int
    jobs: int

    @property
    def name(self) -> str:
        """Its key in the result."""
        return f"{self.side_px}px_{self.steps}steps"


@dataclass
class Seconds:
    """Of every repetition, for the whole batch of jobs."""

    wall: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    submit: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in QUEUED})
    ids: dict[str, list[list[str]]] = field(default_factory=lambda: {way: [] for way in QUEUED})


async def measure(quick: bool) -> Result:
    """Measure all sizes, then the share of progress and previews."""
    repetitions = 2 if quick else 7
    cases = (
        Case(128, 8, 6 if quick else 30),
        Case(256, 8, 6 if quick else 30),
        Case(256, 64, 3 if quick else 10),
    )
    rounds = 3 if quick else 40
    counts = {"repetitions": repetitions, "progress_rounds": rounds}
    result = Result("overhead", quick, counts | {case.name: case.jobs for case in cases})
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(scratch()))
        bare = await stack.enter_async_context(BarePipe.started())
        clients = {
            "queued": await stack.enter_async_context(flux_server(folder / "queued", **NO_CACHE)),
            "quiet": await stack.enter_async_context(
                flux_server(folder / "quiet", preview_every_steps=0, **NO_CACHE)
            ),
        }
        for case in cases:
            seconds = await _measure_case(case, repetitions, bare, clients)
            rows = read_jobs(folder / "queued") | read_jobs(folder / "quiet")
            _report_case(result, case, seconds, rows)
        await _measure_progress(result, folder, bare, rounds)
    return result


def _arguments(case: Case, seed: int) -> dict[str, Any]:
    return {
        "prompt": PROMPT,
        "model": "micro",
        "width": case.side_px,
        "height": case.side_px,
        "steps": case.steps,
        "seed": seed,
    }


async def _plan(client: Client, case: Case, seed: int) -> dict[str, Any]:
    found = await call(
        client, "flux_generate", {**_arguments(case, seed), "dry_run": True, "wait_s": 0}
    )
    plan: dict[str, Any] = found["plan"]
    return plan


async def _measure_case(
    case: Case, repetitions: int, bare: BarePipe, clients: Mapping[str, Client]
) -> Seconds:
    plans = [await _plan(clients["queued"], case, seed) for seed in range(case.jobs)]
    await bare.draw(plans[:2])
    for client in clients.values():
        for seed in range(2):
            await draw(client, "flux_generate", _arguments(case, seed))
    seconds = Seconds()
    for turn in range(repetitions):
        hashes = {}
        for way in rotated(WAYS, turn):
            if way == "bare":
                drawn = await bare.draw(plans)
                seconds.wall[way].append(sum(image["seconds"] for image in drawn))
                hashes[way] = [image["pixels_sha256"] for image in drawn]
            elif way == "single":
                hashes[way] = await _one_by_one(case, clients["queued"], seconds)
            else:
                hashes[way] = await _all_at_once(case, way, clients[way], seconds)
        if len({tuple(found) for found in hashes.values()}) != 1:
            raise RuntimeError(f"{case.name}: the server's images are not bare diffusers'")
    return seconds


async def _one_by_one(case: Case, client: Client, seconds: Seconds) -> list[str]:
    started = time.perf_counter()
    jobs = [await draw(client, "flux_generate", _arguments(case, n)) for n in range(case.jobs)]
    seconds.wall["single"].append(time.perf_counter() - started)
    return [await pixels_of(client, job) for job in jobs]


async def _all_at_once(case: Case, way: str, client: Client, seconds: Seconds) -> list[str]:
    started = time.perf_counter()
    submitted = [
        await call(client, "flux_generate", {**_arguments(case, n), "wait_s": 0})
        for n in range(case.jobs)
    ]
    seconds.submit[way].append(time.perf_counter() - started)
    ids = [job["job_id"] for job in submitted]
    # First in, first out: after the last, at most two others are still being written to disk.
    await wait_for(client, ids[-1])
    for job_id in ids[-3:]:
        await wait_for(client, job_id)
    seconds.wall[way].append(time.perf_counter() - started)
    seconds.ids[way].append(ids)
    jobs = [await wait_for(client, job_id) for job_id in ids]
    return [await pixels_of(client, job) for job in jobs]


def _report_case(result: Result, case: Case, seconds: Seconds, rows: dict[str, Job]) -> None:
    bare = seconds.wall["bare"]
    bare_ms = ms(statistics.median(bare) / case.jobs)
    absolute: dict[str, Any] = {"bare_ms_per_job": bare_ms}
    result.line(f"{case.name}: bare", f"{bare_ms:.1f} ms/job")
    for way in WAYS[1:]:
        wall = seconds.wall[way]
        overhead = result.ratios[f"{case.name}.{way}"] = median_ratio(wall, bare)
        added = [(ours - base) / case.jobs for ours, base in zip(wall, bare, strict=True)]
        added_ms = absolute[f"{way}_added_ms_per_job"] = ms(statistics.median(added))
        result.line(
            f"{case.name}: {way}",
            f"{overhead:.3f}x, {added_ms:+.1f} ms/job",
            "C1: <= 1.02x with 500 ms jobs" if way in QUEUED and case.steps == 64 else "",
        )
        if way in QUEUED:
            submit = statistics.median(seconds.submit[way])
            absolute[f"{way}_submit_ms_per_job"] = ms(submit / case.jobs)
            batches = [[rows[job_id] for job_id in ids] for ids in seconds.ids[way]]
            absolute |= _report_worker(result, f"{case.name}.{way}", batches, bare)
    result.absolute[case.name] = absolute


def _report_worker(
    result: Result, name: str, batches: Sequence[Sequence[Job]], bare: Sequence[float]
) -> dict[str, float]:
    """Report how long the worker generated, and how long it was idle in between."""
    worker = [sum(worker_s(job) for job in batch) for batch in batches]
    share = result.ratios[f"{name}.worker"] = median_ratio(worker, bare)
    result.line("  the worker's own seconds", f"{share:.3f}x")
    gaps = [gap for batch in batches for gap in idle_gaps_s(batch)]
    if not gaps:
        return {}
    way = name.rpartition(".")[2]
    median_ms, p95_ms = ms(statistics.median(gaps)), ms(quantile(gaps, 0.95))
    result.line(
        "  the worker idle between jobs",
        f"median {median_ms:.1f} ms, p95 {p95_ms:.1f} ms",
        "C2: <= 10 ms",
    )
    return {
        f"{way}_gap_median_ms": median_ms,
        f"{way}_gap_p95_ms": p95_ms,
        f"{way}_gaps": len(gaps),
    }


async def _measure_progress(result: Result, folder: Path, bare: BarePipe, rounds: int) -> None:
    """Compare the worker's seconds with and without previews, and with bare `pipe()`."""
    case = Case(256, 28, 1)
    ways = {"previews_off": 0, "previews_on": 2}
    drawn_s: dict[str, list[float]] = {"bare": []}
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                flux_server(folder / name, preview_every_steps=every, **NO_CACHE)
            )
            for name, every in ways.items()
        }
        plan = await _plan(clients["previews_off"], case, 7)
        arguments = {**_arguments(case, 7), "preview": "none"}
        await bare.draw([plan] * 2)
        for client in clients.values():
            for _ in range(2):
                await draw(client, "flux_generate", arguments)
        ids: dict[str, list[str]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name in rotated(("bare", *ways), turn):
                if name == "bare":
                    drawn_s["bare"].append((await bare.draw([plan]))[0]["seconds"])
                else:
                    job = await draw(clients[name], "flux_generate", arguments)
                    ids[name].append(job["job_id"])
        for name, job_ids in ids.items():
            rows = read_jobs(folder / name)
            drawn_s[name] = [rows[job_id].draw_s or 0.0 for job_id in job_ids]
    middle = {name: statistics.median(values) for name, values in drawn_s.items()}
    result.ratios |= {
        "progress.reports": median_ratio(drawn_s["previews_off"], drawn_s["bare"]),
        "progress.previews": median_ratio(drawn_s["previews_on"], drawn_s["previews_off"]),
    }
    per_step = (middle["previews_off"] - middle["bare"]) / case.steps
    per_preview = (middle["previews_on"] - middle["previews_off"]) / (case.steps // 2)
    result.absolute["progress"] = {
        **{f"{name}_ms": ms(value) for name, value in middle.items()},
        "report_ms_per_step": ms(per_step),
        "preview_ms_each": ms(per_preview),
    }
    result.line(
        "progress reports, 256px 28 steps",
        f"{result.ratios['progress.reports']:.3f}x of bare, {ms(per_step):.2f} ms/step",
        "C4: <= 1.005x at 28 steps of 100 ms",
    )
    result.line(
        "previews every 2 steps",
        f"{result.ratios['progress.previews']:.3f}x of none, {ms(per_preview):.2f} ms each",
    )


if __name__ == "__main__":
    start_async(__doc__, measure)
