"""GpuExecutor: runs the queue's jobs on the GPU, one at a time, in one server process at a time.

Every server process has one. The one that holds the GPU lock (gpu_lock.py) leads: it has the fleet
and runs jobs; the others wait to take over. How a job is run is in attempt.py, how its images are
saved in saving.py, which job is next in scheduler.py.
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

from flux_mcp.errors import StorageError
from flux_mcp.jobs.attempt import AttemptRunner, lost_for_good
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.fleet import Fleet, WorkerInfo, WorkerLost
from flux_mcp.jobs.gpu_lock import GpuLock
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.journal import Journal
from flux_mcp.jobs.look_ahead import Choose, LookAhead
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.saving import ResultSink, Saver
from flux_mcp.jobs.scheduler import choose_next
from flux_mcp.settings.paths import Paths
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import DatabaseThread

logger = logging.getLogger(__name__)

TAKE_OVER_S = 0.5
"""How often a server that does not lead tries the lock."""
IDLE_WAIT_S = 5.0
HEARTBEAT_S = 5.0
MAX_BACKOFF_S = 30.0
SAVE_PATIENCE_S = 20.0
"""How long the end of this process waits for a database that does not answer."""


@dataclass(frozen=True)
class ExecutorState:
    """What this process does with the GPU; for health checks and metrics."""

    leads: bool = False
    """It holds the GPU lock."""
    other_leads: bool = False
    """Another process held the lock when this one last tried, at most `TAKE_OVER_S` ago."""
    is_dead: bool = False
    """Its task has ended or keeps failing: it will not draw."""
    trouble: str | None = None
    """The code of what went wrong with the last worker or job."""
    lock_error: str | None = None
    """Why the GPU lock cannot be tried; `None` where it can."""
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
        self._lock = GpuLock(settings.paths)
        self._lock_error: str | None = None
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._fleet: Fleet | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._other_leads = False
        self._failures = 0
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
        return (self._fleet.worker(),) if self._fleet is not None else ()

    def state(self) -> ExecutorState:
        """Return how it stands, without a read of lock or database."""
        return ExecutorState(
            leads=self._fleet is not None,
            other_leads=self._other_leads,
            is_dead=self._failures > 0 or (self._task is not None and self._task.done()),
            trouble=self._journal.trouble,
            lock_error=self._lock_error,
            workers=self.workers(),
        )

    def start(self) -> None:
        """Begin to lead, or to wait for the lock."""
        self._task = asyncio.create_task(self._run(), name="flux-mcp-executor")

    async def stop(self) -> None:
        """Give the running job back to the queue, end the worker, release the lock."""
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
            except Exception as error:
                # Nobody awaits this task: log the error, release the lock, try again.
                self._failures += 1
                wait_s = backoff_s(self._failures)
                if isinstance(error, StorageError):
                    logger.error("the executor waits %.0f s: %s", wait_s, error)  # noqa: TRY400
                else:
                    logger.exception("the executor failed; it starts again in %.0f s", wait_s)
                await asyncio.sleep(wait_s)

    def _try_lock(self) -> bool:
        try:
            has_lock = self._lock.acquire()
        except OSError as error:
            # It may be a matter of a moment, such as too many open files: try again, and say so.
            if self._lock_error != str(error):
                logger.error("the GPU lock cannot be taken; no job runs: %s", error)  # noqa: TRY400
            self._lock_error = str(error)
            self._other_leads = False
            return False
        if self._lock_error is not None:
            logger.info("the GPU lock can be tried again")
        self._lock_error = None
        self._other_leads = not has_lock
        return has_lock

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
        """End the worker, save what is drawn, give back what is not, release the lock."""
        try:
            await fleet.close()
            await self._saver.finish(SAVE_PATIENCE_S)
            # Also a job whose claim was under way when this task was cancelled.
            moved = await self._database.call(self._queue.give_back, self._owner)
            self._journal.given_back(moved)
        except StorageError as error:
            # The next leader takes back what this one leaves running.
            logger.error("jobs could not be given back: %s", error)  # noqa: TRY400
        finally:
            self._fleet = None
            self._lock.release()
            self._changes.poke()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            with suppress(StorageError):  # the next use of the database reports it
                await self._database.call(self._queue.heartbeat, self._owner)

    async def _warm(self, fleet: Fleet) -> None:
        try:
            await fleet.warm()
        except WorkerLost as error:
            self._journal.worker_failed(str(error))

    async def _consume(self, fleet: Fleet) -> None:
        """Run jobs one after another; end the worker when it has been idle for long."""
        idle_since, failed_starts = time.monotonic(), 0
        while not self._stopping:
            ticket = self._changes.ticket()
            job = await self._claim(fleet)
            self._failures = 0
            if job is not None:
                self._changes.poke()
                has_worker = await self._attempts.run(fleet, job)
                idle_since = time.monotonic()
                failed_starts = 0 if has_worker else failed_starts + 1
                if not has_worker:
                    # Not the job's fault, nor that of those behind it: they keep their places.
                    await asyncio.sleep(backoff_s(failed_starts))
                continue
            self._saver.start_waiting()
            await self._look_ahead.nothing_waits(fleet)
            idle_left = idle_since + self._settings.idle_unload_s - time.monotonic()
            if idle_left <= 0 and fleet.worker().is_running:
                logger.info("idle worker is released")
                await fleet.release()
            wait_s = min(IDLE_WAIT_S, idle_left) if idle_left > 0 else IDLE_WAIT_S
            await self._changes.wait(ticket, wait_s)

    async def _claim(self, fleet: Fleet) -> Job | None:
        return await self._database.insist(self._queue.claim, self._owner, self._choose(fleet))

    def _choose(self, fleet: Fleet) -> Choose:
        """Return how to choose the next job for a fleet as it is now."""
        worker = fleet.worker()
        device = worker.environment.device_name if worker.environment else None
        most = self._settings.max_overtakes
        read_costs = partial(self._measurements.costs, device)
        return lambda waiting: choose_next(waiting, worker.loaded_by_use, read_costs, most)


async def settle_if_unled(paths: Paths, queue: JobQueue, database: DatabaseThread) -> bool:
    """Return whether no process leads; what a dead leader left running is then put back.

    As the next leader would do it: a job that was asked to stop is cancelled, others wait again.

    Raises:
        OSError: the lock cannot be tried.
    """
    lock = GpuLock(paths)
    if not lock.acquire():
        return False
    try:
        for job in await database.call(queue.recover, lost_for_good()):
            Journal().taken_back(job)
    finally:
        lock.release()
    return True


def backoff_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row: 0.5, 1, 2, ... seconds."""
    return min(TAKE_OVER_S * 2.0 ** min(failures - 1, 16), MAX_BACKOFF_S)
