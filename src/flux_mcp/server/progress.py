"""Progress notifications of a waiting call, and the words for how far a job is.

At most four notifications a second, at least one every ten seconds. MCP requires each value to be
larger than the one before (basic/utilities/progress), also while a job makes no step: such a
notification adds a thousandth of a step.
"""

import asyncio
from collections.abc import Awaitable, Callable

from flux_mcp.jobs.downloads import Download
from flux_mcp.jobs.job import Job
from flux_mcp.service.answers import JobAnswer

MIN_INTERVAL_S = 0.25
MAX_INTERVAL_S = 8.0
"""Below ten seconds with room for a slow client."""
_NUDGE = 0.001

Send = Callable[[float, float, str], Awaitable[None]]


class ProgressFeed:
    """Turns the states of a job or download into progress notifications.

    Args:
        send: Takes progress, total and message.
        max_interval_s: A notification goes out after this long even if nothing changed.
    """

    def __init__(self, send: Send, max_interval_s: float = MAX_INTERVAL_S) -> None:
        self._send = send
        self._max_interval_s = max_interval_s
        self._job: Job | Download | None = None
        self._position: int | None = None
        self._fresh = asyncio.Event()
        self._sent = 0.0

    def show(self, job: Job | Download, position: int | None) -> None:
        """Take the newest state; it is sent at the next opportunity."""
        self._job, self._position = job, position
        self._fresh.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._max_interval_s):
                    await self._fresh.wait()
            except TimeoutError:
                pass
            self._fresh.clear()
            if self._job is not None:
                self._sent = next_value(self._sent, self._job.step)
                message = describe(self._job, self._position)
                await self._send(self._sent, float(self._job.total_steps), message)
            await asyncio.sleep(MIN_INTERVAL_S)


def next_value(last: float, step: int) -> float:
    """Return a value above `last`: the step, or a little more than `last` if that is larger."""
    return float(step) if step > last else last + _NUDGE


def describe(job: Job | Download, position: int | None) -> str:
    """Return in a few words how far a job or a download is."""
    if isinstance(job, Download):
        return job.message
    if job.status == "queued":
        place = "" if position is None else f", number {position} in the queue"
        return f"waiting{place}{f' ({job.message})' if job.message else ''}"
    if job.is_stopping:
        return "stopping at the next step"
    if job.phase == "denoising":
        return f"denoising, step {job.step} of {job.total_steps}{_left(job.eta_s)}"
    if job.phase is None:
        return "starting the worker"
    return f"{job.phase}{f': {job.message}' if job.message else ''}"


def describe_answer(answer: JobAnswer) -> str:
    """Return in a few words how far the job of an answer is."""
    if answer.status == "queued":
        place = "" if answer.position is None else f" as number {answer.position}"
        return f"it waits{place} in the queue{_left(answer.eta_s)}"
    phase = f"{answer.phase}, " if answer.phase else ""
    return f"{phase}step {answer.step} of {answer.total_steps}{_left(answer.eta_s)}"


def _left(eta_s: float | None) -> str:
    return "" if eta_s is None else f", about {eta_s:.0f} s left"
