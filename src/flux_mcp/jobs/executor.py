"""GpuExecutor: the asyncio guard of the GPU. One consumer, one job, one server at a time.

Owns the GPU lock and the fleet while it leads. Any number of server processes run one of these; the
one that holds `data/gpu.lock` runs jobs, the others wait to take over. It knows the queue, the
`Fleet` protocol and a `ResultSink`; it knows nothing of images, files or MCP.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from filelock import FileLock, Timeout

from flux_mcp.errors import StorageError
from flux_mcp.jobs.attempt import AttemptRunner, lost_for_good
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.fleet import Fleet, WorkerInfo, WorkerLost
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.journal import Journal
from flux_mcp.jobs.look_ahead import Choose, LookAhead
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.saving import ResultSink, Saver
from flux_mcp.jobs.scheduler import choose_next
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import DatabaseThread

logger = logging.getLogger(__name__)

TAKE_OVER_S = 0.5
"""How often a server that does not lead tries the lock."""
IDLE_WAIT_S = 5.0
HEARTBEAT_S = 5.0


@dataclass(frozen=True)
class ExecutorState:
    """How it stands with this process and the GPU; for health.py and metrics.py."""

    leads: bool = False
    """It holds the GPU lock."""
    other_leads: bool = False
    """Another process held the lock when this one last tried, at most `TAKE_OVER_S` ago."""
    is_dead: bool = False
    """Its task has ended, or fails again and again: it will not draw."""
    trouble: str | None = None
    """The code of what went wrong with the last worker or job."""
    workers: tuple[WorkerInfo, ...] = ()


class GpuExecutor:
    """Runs the queue's jobs on the fleet while it holds the GPU lock.

    Args:
        make_fleet: Called when this process becomes the leader.
    """

    def __init__(
        self,
        settings: Settings,
        queue: JobQueue,
        database: DatabaseThread,
        changes: Changes,
        sink: ResultSink,
        measurements: Measurements,
        make_fleet: Callable[[], Fleet],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._database = database
        self._changes = changes
        self._sink = sink
        self._measurements = measurements
        self._make_fleet = make_fleet
        self._lock = FileLock(settings.paths.gpu_lock)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._fleet: Fleet | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._other_leads = False
        self._has_failed = False
        self._journal = Journal()
        self._saver = Saver(queue, database, changes, sink, self._journal)
        self._look_ahead = LookAhead(queue, database, changes, self._choose, settings.prefetch)
        self._attempts = AttemptRunner(
            settings=settings,
            queue=queue,
            database=database,
            changes=changes,
            sink=sink,
            saver=self._saver,
            journal=self._journal,
            look_ahead=self._look_ahead,
        )

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers of this process; empty when it does not lead."""
        return tuple(self._fleet.workers()) if self._fleet is not None else ()

    def state(self) -> ExecutorState:
        """Return how it stands, without asking anybody."""
        return ExecutorState(
            leads=self._fleet is not None,
            other_leads=self._other_leads,
            is_dead=self._has_failed or (self._task is not None and self._task.done()),
            trouble=self._journal.trouble,
            workers=self.workers(),
        )

    def start(self) -> None:
        """Begin to lead, or to wait for the lead."""
        self._task = asyncio.create_task(self._run(), name="flux-mcp-executor")

    async def stop(self) -> None:
        """Give the running job back to the queue, end the worker, let go of the lock."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    # --- leading -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping:
            if not self._try_lock():
                await asyncio.sleep(TAKE_OVER_S)
                continue
            try:
                await self._lead()
            except Exception:
                self._has_failed = True
                # The last line of defence of a background task: log it, let others lead, try again.
                logger.exception("the executor failed; it starts again")
                await asyncio.sleep(TAKE_OVER_S)

    def _try_lock(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self._other_leads = True
            return False
        self._other_leads = False
        return True

    async def _lead(self) -> None:
        fleet = self._make_fleet()
        self._fleet = fleet
        background = [asyncio.create_task(self._heartbeat(), name="flux-mcp-heartbeat")]
        try:
            orphans = await self._database.call(self._queue.recover, lost_for_good())
            for job in orphans:
                self._journal.taken_back(job)
                await self._sink.drop_preview(job.id)
            self._changes.poke()
            if self._settings.preload:
                background.append(asyncio.create_task(self._warm(fleet), name="flux-mcp-warm"))
            await self._consume(fleet)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._release_leadership(fleet)

    async def _release_leadership(self, fleet: Fleet) -> None:
        """End the worker, save what is drawn, give back what is not, let go of the lock."""
        try:
            await fleet.close()
            await self._saver.finish()
            # Also a job whose claim was under way when this task was cancelled.
            moved = await self._database.call(self._queue.give_back, self._owner)
            self._journal.given_back(moved)
        finally:
            self._fleet = None
            self._lock.release()
            self._changes.poke()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            with suppress(StorageError):  # whoever needs the database next says so
                await self._database.call(self._queue.heartbeat, self._owner)

    async def _warm(self, fleet: Fleet) -> None:
        for worker in fleet.workers():
            try:
                await fleet.warm(worker.worker_id)
            except WorkerLost as error:
                self._journal.worker_failed(str(error))

    async def _consume(self, fleet: Fleet) -> None:
        """Run jobs one after another; let the worker go when there was nothing to do for long."""
        worker = fleet.workers()[0].worker_id
        idle_since = time.monotonic()
        while True:
            ticket = self._changes.ticket()
            job = await self._claim(fleet)
            self._has_failed = False
            if job is not None:
                self._changes.poke()
                await self._attempts.run(fleet, worker, job)
                idle_since = time.monotonic()
                continue
            self._saver.start_waiting()
            await self._look_ahead.nothing_waits(fleet, worker)
            idle_left = idle_since + self._settings.idle_unload_s - time.monotonic()
            if idle_left <= 0 and fleet.workers()[0].is_running:
                logger.info("worker was idle and is let go")
                await fleet.release(worker)
            wait_s = min(IDLE_WAIT_S, idle_left) if idle_left > 0 else IDLE_WAIT_S
            await self._changes.wait(ticket, wait_s)

    async def _claim(self, fleet: Fleet) -> Job | None:
        return await self._database.call(self._queue.claim, self._owner, self._choose(fleet))

    def _choose(self, fleet: Fleet) -> Choose:
        """Return how to choose the next job for a fleet as it is now."""
        worker = fleet.workers()[0]
        device = worker.environment.device_name if worker.environment else None
        passes = self._settings.max_overtakes
        read_costs = partial(self._measurements.costs, device)
        return lambda waiting: choose_next(waiting, worker.loaded_by_use, read_costs, passes)
