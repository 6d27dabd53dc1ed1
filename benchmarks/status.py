"""What does a look at a job cost while one is drawn? Ratio: round trip / an SDK no-op's.

Method: `flux-mcp serve` over stdio with a gallery of 1000 images draws long jobs without a pause.
In turn, one call each:

  noop             a tool that does nothing, on a bare SDK server in a process of its own
  get_job          flux_get_job with wait_s=0, without an image
  get_job_preview  the same with the image of the moment
  queue            flux_get_job without an id: who runs, who waits
  search           flux_search_gallery for a common word, 20 rows, without an image
  same             a tool that returns what `search` returned at the start, on the bare SDK server,
                   published with the same output schema
  search_sheet     the search with its contact sheet

`search` is compared with `same`: what finding and describing the images costs beside sending them.
Everything else is compared with the no-op. Looks at a job that was not running at that moment are
not counted. All calls share the machine with the worker, the one that does nothing as well.

Unit: ratios of medians and of 99th percentiles; milliseconds.
"""

import json
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from common import (
    Result,
    bare_server,
    call,
    draw,
    flux_server,
    p50_p99_ms,
    quantile,
    ratio,
    rotated,
    scratch,
    start_async,
    wait_for,
)
from mcp import Client
from rows import COMMON_WORD, IMAGE, fill, records

ROWS = 1000
LONG_JOB = {
    "prompt": "a red circle in the middle of a blue background",
    "model": "micro",
    "width": 256,
    "height": 256,
    "steps": 64,
    "count": 8,
    "wait_s": 0,
}
WAITING = 2
"""Jobs in the queue behind the running one."""
NOOP = "noop"
SAME = "same"
TARGETS = {"get_job": "C8: <= 2.0x (best 1.3x)", "search/same": "<= 1.5x"}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    NOOP: ("noop_0", {}),
    SAME: (SAME, {"query": COMMON_WORD}),
    "get_job": ("flux_get_job", {"wait_s": 0, "preview": "none"}),
    "get_job_preview": ("flux_get_job", {"wait_s": 0}),
    "queue": ("flux_get_job", {"wait_s": 0}),
    "search": ("flux_search_gallery", {"query": COMMON_WORD, "preview": "none"}),
    "search_sheet": ("flux_search_gallery", {"query": COMMON_WORD}),
}


class Busy:
    """Keeps a server drawing, with jobs waiting behind the one that runs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids: list[str] = []

    async def running(self) -> str:
        """Return the job that is drawn now, after filling up the queue."""
        while True:
            while len(self._ids) <= WAITING:
                job = await call(self._client, "flux_generate", LONG_JOB)
                self._ids.append(job["job_id"])
            arguments = {"job_id": self._ids[0], "wait_s": 0, "preview": "none"}
            job = await call(self._client, "flux_get_job", arguments)
            if job["status"] in ("queued", "running"):
                return self._ids[0]
            self._ids.pop(0)

    async def stop(self) -> None:
        """Cancel what is left."""
        for job_id in self._ids:
            await call(self._client, "flux_cancel_job", {"job_id": job_id})
        for job_id in self._ids:
            await wait_for(self._client, job_id)


async def measure(quick: bool) -> Result:
    """Measure every call in turn."""
    calls = 20 if quick else 400
    result = Result("status", quick, {"calls": calls, "rows": ROWS, "waiting_jobs": WAITING})
    seconds: dict[str, list[float]] = {name: [] for name in CALLS}
    with scratch() as folder:
        fill(folder / "data", records(0, ROWS, image=IMAGE))
        async with AsyncExitStack() as servers:
            client = await servers.enter_async_context(flux_server(folder / "data"))
            await draw(client, "flux_generate", {**LONG_JOB, "count": 1, "wait_s": 60})
            answer_file = await _keep_answer(client, folder)
            bare = await servers.enter_async_context(bare_server(answer_file))
            busy = Busy(client)
            for turn in range(-2, calls):
                job_id = await busy.running()
                for name in rotated(tuple(CALLS), turn):
                    tool, arguments = CALLS[name]
                    if name.startswith("get_job"):
                        arguments = {**arguments, "job_id": job_id}
                    started = time.perf_counter()
                    answer = await call(bare if name in (NOOP, SAME) else client, tool, arguments)
                    spent = time.perf_counter() - started
                    looks_at_idle = answer.get("job_id") and answer["status"] != "running"
                    if turn >= 0 and not looks_at_idle:
                        seconds[name].append(spent)
            await busy.stop()
    base = seconds.pop(NOOP)
    result.absolute[NOOP] = p50_p99_ms(base)
    numbers = result.absolute[NOOP]
    result.line(NOOP, f"p50 {numbers['p50_ms']:.1f} ms, p99 {numbers['p99_ms']:.1f} ms")
    search, same = (statistics.median(seconds[name]) for name in ("search", SAME))
    result.ratios["search/same.p50"] = ratio(search, same)
    result.line("search / same", f"{ratio(search, same):.2f}x", TARGETS["search/same"])
    for name, found in seconds.items():
        numbers = result.absolute[name] = {**p50_p99_ms(found), "calls": len(found)}
        p50 = ratio(statistics.median(found), statistics.median(base))
        p99 = ratio(quantile(found, 0.99), quantile(base, 0.99))
        result.ratios |= {f"{name}.p50": p50, f"{name}.p99": p99}
        result.line(
            name,
            f"{p50:.2f}x (p99 {p99:.2f}x); p50 {numbers['p50_ms']:.1f} ms, "
            f"p99 {numbers['p99_ms']:.1f} ms",
            TARGETS.get(name, ""),
        )
    return result


async def _keep_answer(client: Client, folder: Path) -> Path:
    """Write what a search answers, and its output schema, to a file for the bare server."""
    tool, arguments = CALLS["search"]
    result = await client.call_tool(tool, arguments)
    tools = (await client.list_tools()).tools
    schema = next(one.output_schema for one in tools if one.name == tool)
    path = folder / "answer.json"
    kept = result.model_dump(mode="json", by_alias=True) | {"outputSchema": schema}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return path


if __name__ == "__main__":
    start_async(__doc__, measure)
