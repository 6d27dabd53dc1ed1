"""The default fleet: one child process, started when needed, replaced when lost.

Owns which process is the current one and who may use it. Knows nothing of queues, of pipes
(child.py) or of what the worker imports.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence

from flux_mcp.config import Settings
from flux_mcp.jobs.child import Child
from flux_mcp.jobs.fleet import Assignment, Report, WorkerInfo, WorkerLost
from flux_mcp.requests.messages import FINAL_EVENTS, Environment, RunMessage, Weights

WORKER_ID = "worker-0"
# -P: the folder the server was started in must not shadow torch or the standard library.
WORKER_COMMAND = (sys.executable, "-P", "-m", "flux_mcp.pipelines.worker")


class ProcessFleet:
    """One worker, started when it is first needed. Implements `fleet.Fleet`."""

    def __init__(self, settings: Settings, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._child: Child | None = None
        self._environment: Environment | None = None
        self._starts = 0
        self._starting = asyncio.Lock()
        self._slot = asyncio.Lock()
        self._is_closed = False

    def workers(self) -> Sequence[WorkerInfo]:
        """Return the one slot."""
        child = self._live_child()
        return (
            WorkerInfo(
                worker_id=WORKER_ID,
                is_running=child is not None,
                loaded=() if child is None else child.loaded,
                waiting=() if child is None else child.waiting,
                environment=self._environment,
                pid=None if child is None else child.pid,
                memory=None if child is None else child.memory,
                starts=self._starts,
                used=() if child is None else child.used,
            ),
        )

    async def warm(self, worker_id: str) -> None:
        """Start the worker and wait until it is ready.

        Raises:
            WorkerLost: it died while starting.
        """
        child = await self._started(worker_id)
        await child.ready()

    async def run(self, worker_id: str, assignment: Assignment) -> AsyncGenerator[Report, None]:
        """Draw, yielding every event of this job and attempt; the last is a final one.

        A consumer that stops early cancels the job; the next run waits until the worker has
        stopped, or ends it.

        Raises:
            WorkerLost: the worker died before a final event.
        """
        async with self._slot:
            child = await self._started(worker_id)
            if not await child.is_idle_within(self._settings.cancel_grace_s):
                await child.end()
            if child.is_lost:
                child = await self._started(worker_id)
            events = child.begin(assignment)
            try:
                await child.send(
                    RunMessage(
                        job_id=assignment.job_id,
                        attempt=assignment.attempt,
                        plan=assignment.plan,
                        preview_every_steps=self._settings.preview_every_steps,
                        preview_interval_s=self._settings.preview_interval_s,
                    ),
                    assignment.inputs,
                )
                while True:
                    report = await events.get()
                    if report is None:
                        raise child.lost()
                    yield report
                    if isinstance(report.event, FINAL_EVENTS):
                        return
            finally:
                child.abandon(assignment)

    async def cancel(self, worker_id: str, job_id: str) -> None:
        """Ask for the job to stop at the next step; harmless for a job that is not running."""
        _check(worker_id)
        child = self._live_child()
        if child is not None:
            child.cancel(job_id)

    async def prefetch(self, worker_id: str, weights: Weights | None) -> None:
        """Have the worker read weights into its memory while it draws; `None` for no more."""
        _check(worker_id)
        child = self._live_child()
        if child is not None:
            child.prefetch(weights)

    async def kill(self, worker_id: str) -> None:
        """End the worker at once; a job running on it raises `WorkerLost`."""
        _check(worker_id)
        async with self._starting:
            if self._child is not None:
                await self._child.end()

    async def release(self, worker_id: str) -> None:
        """Let an idle worker exit. One that is drawing is left alone."""
        _check(worker_id)
        async with self._starting:
            if self._child is not None and not self._slot.locked():
                await self._child.release()

    async def close(self) -> None:
        """End the worker and wait until it is gone; a job running on it raises `WorkerLost`."""
        self._is_closed = True
        async with self._starting:
            if self._child is not None:
                await self._child.release()

    def _live_child(self) -> Child | None:
        return None if self._child is None or self._child.is_lost else self._child

    async def _started(self, worker_id: str) -> Child:
        _check(worker_id)
        async with self._starting:
            if self._is_closed:
                raise WorkerLost("The fleet is closed.")
            child = self._live_child()
            if child is None:
                if self._child is not None:
                    await self._child.end()
                child = self._child = await Child.start(
                    self._settings, self._command, self._remember
                )
                self._starts += 1
            return child

    def _remember(self, environment: Environment | None) -> None:
        self._environment = environment


def _check(worker_id: str) -> None:
    if worker_id != WORKER_ID:
        raise ValueError(f"there is no worker '{worker_id}' in this fleet, only '{WORKER_ID}'")
