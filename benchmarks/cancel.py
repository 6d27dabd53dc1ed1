"""How soon does a cancel stop a job? Unit: steps drawn after it was sent; milliseconds.

Method: for each of the five kinds a long job (8 images of 256 px, 64 steps each) over MCP; when
its first step beyond number 8 is reported to the client, flux_cancel_job is called. The server is
the product with a log of when each event of the worker arrived (watched_server.py); one machine has
one monotonic clock, so the log says how many steps ended after the cancel was sent. The waiting
call itself answers that the job is cancelled. Kinds take turns.

Steps while the cancel travels are counted too, so a step of 5 ms (micro) is harder than one of
100 ms (a large GPU); milliseconds are beside it. The ratio is the time from the cancel until the
worker is free / the time of one step of the same job.
"""

import asyncio
import json
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import (
    Result,
    call,
    draw,
    ms,
    quantile,
    ratio,
    scratch,
    script_command,
    start_async,
    stdio_parameters,
)
from drawings import calls
from mcp import Client
from mcp.client.stdio import stdio_client

SIDE_PX, STEPS, COUNT = 256, 64, 8
CANCEL_FROM_STEP = 8
WAIT_S = 230


@dataclass(frozen=True)
class Stop:
    """One cancelled job."""

    steps_after: int
    """Steps that ended after the cancel was sent."""
    step_s: float
    """Median of the job's own steps before that."""
    call_s: float
    """Of flux_cancel_job itself."""
    answer_to_cancelled_s: float
    """From its answer until the waiting client is answered; below 0: before."""
    sent_to_free_s: float
    """From sending until the worker said that it is free."""


async def measure(quick: bool) -> Result:
    """Cancel every kind several times."""
    repetitions = 1 if quick else 10
    result = Result("cancel", quick, {"cancels_per_kind": repetitions})
    stops: dict[str, list[Stop]] = {kind: [] for kind in calls(SIDE_PX)}
    with scratch() as folder:
        log = folder / "events.jsonl"
        command = [*script_command("watched_server.py"), str(log)]
        parameters = stdio_parameters(command, data_dir=folder / "data")
        async with Client(stdio_client(parameters)) as client:
            common = {"model": "micro", "width": SIDE_PX, "height": SIDE_PX, "preview": "none"}
            for tool, arguments in calls(SIDE_PX).values():
                await draw(client, tool, {**arguments, **common, "steps": 4})
            long_job = {**common, "steps": STEPS, "count": COUNT, "wait_s": WAIT_S}
            for _ in range(repetitions):
                for kind, (tool, arguments) in calls(SIDE_PX).items():
                    stops[kind].append(await _stop(client, log, tool, {**arguments, **long_job}))
                    # The pipeline is as good as before.
                    await draw(client, tool, {**arguments, **common, "steps": 4})
    for kind, found in stops.items():
        _report(result, kind, found)
    everything = [stop for found in stops.values() for stop in found]
    _report(result, "all", everything)
    return result


async def _stop(client: Client, log: Path, tool: str, arguments: dict[str, Any]) -> Stop:
    """Start a job, cancel it at the first report beyond a step, and see what happened when.

    Raises:
        RuntimeError: it ended in another way.
    """
    reported = asyncio.Event()

    async def progress(value: float, _total: float | None, _message: str | None) -> None:
        if value >= CANCEL_FROM_STEP:
            reported.set()

    waiting_answered_at = 0.0

    async def wait() -> dict[str, Any]:
        nonlocal waiting_answered_at
        job = await call(client, tool, arguments, progress)
        waiting_answered_at = time.monotonic()
        return job

    waiting = asyncio.create_task(wait())
    seen = asyncio.create_task(reported.wait())
    await asyncio.wait({waiting, seen}, return_when=asyncio.FIRST_COMPLETED)
    seen.cancel()
    with suppress(asyncio.CancelledError):
        await seen
    if waiting.done():
        raise RuntimeError(f"{tool} ended before it could be cancelled: {waiting.result()}")
    job_id = _running(log)
    sent_at = time.monotonic()
    await call(client, "flux_cancel_job", {"job_id": job_id})
    answered_at = time.monotonic()
    job = await waiting
    if job["job_id"] != job_id or job["status"] != "cancelled":
        raise RuntimeError(f"{tool}: job {job['job_id']} is {job['status']}, not cancelled")
    events = [event for event in _events(log) if event["job_id"] == job_id]
    steps = [event for event in events if event["event"] == "progress" and event["step"]]
    before = [event["at"] for event in steps if event["at"] <= sent_at]
    freed_at = next(event["at"] for event in events if event["event"] == "cancelled")
    return Stop(
        steps_after=sum(event["at"] > sent_at for event in steps),
        step_s=statistics.median(b - a for a, b in pairwise(before)),
        call_s=answered_at - sent_at,
        answer_to_cancelled_s=waiting_answered_at - answered_at,
        sent_to_free_s=freed_at - sent_at,
    )


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _running(log: Path) -> str:
    """Return the id of the job that is drawn: the call that waits for it has not answered yet."""
    job_id: str = _events(log)[-1]["job_id"]
    return job_id


def _report(result: Result, kind: str, stops: list[Stop]) -> None:
    steps = [stop.steps_after for stop in stops]
    free = [stop.sent_to_free_s for stop in stops]
    waited = [stop.answer_to_cancelled_s for stop in stops]
    step_s = statistics.median(stop.step_s for stop in stops)
    result.ratios[f"{kind}.free_in_step_times"] = ratio(statistics.median(free), step_s)
    result.absolute[kind] = {
        "steps_after_median": statistics.median(steps),
        "steps_after_most": max(steps),
        "step_ms": ms(step_s),
        "cancel_call_ms": ms(statistics.median(stop.call_s for stop in stops)),
        "answer_to_cancelled_median_ms": ms(statistics.median(waited)),
        "answer_to_cancelled_p95_ms": ms(quantile(waited, 0.95)),
        "sent_to_free_median_ms": ms(statistics.median(free)),
        "sent_to_free_p95_ms": ms(quantile(free, 0.95)),
    }
    numbers = result.absolute[kind]
    result.line(
        f"{kind} (a step takes {numbers['step_ms']:.1f} ms)",
        f"steps after: {numbers['steps_after_median']:g}, most {max(steps)}; "
        f"worker free in {numbers['sent_to_free_median_ms']:.0f} ms; "
        f"waiting call answered {numbers['answer_to_cancelled_median_ms']:+.0f} ms from the answer",
        "C11: <= 1 step + 100 ms" if kind == "all" else "",
    )


if __name__ == "__main__":
    start_async(__doc__, measure)
