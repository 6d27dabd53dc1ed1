"""GpuExecutor: the asyncio guard of the card. One consumer, one job, one server at a time.

Owns the GPU lock and the fleet while it leads. Any number of server processes run one of these;
the one that holds `data/gpu.lock` runs jobs, the others wait to take over. It knows the queue, the
`Fleet` protocol and a `ResultSink`; it knows nothing of pictures, files or MCP.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from flux_mcp.config import Settings
from flux_mcp.database import DatabaseThread
from flux_mcp.errors import FluxMcpError, StorageError, WorkerLostError
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.fleet import Assignment, Fleet, Report, WorkerInfo, WorkerLost
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.scheduler import Costs, choose_next
from flux_mcp.requests.messages import (
    Cancelled,
    Done,
    Environment,
    ErrorInfo,
    Failed,
    Picture,
    Preview,
    Progress,
    pipeline_key,
)

logger = logging.getLogger(__name__)

TAKE_OVER_S = 0.5
"""How often a server that does not lead tries the lock."""
IDLE_WAIT_S = 5.0
HEARTBEAT_S = 5.0
MIN_REPORT_INTERVAL_S = 0.25
"""Progress is stored at most four times a second: as often as any client is told of it."""
MAX_UNSAVED_JOBS = 2
"""Finished jobs whose pictures may still be on their way to disk while the next one is drawn."""

_INTERNAL = ErrorInfo(
    code="internal",
    message="Something broke inside flux-mcp while drawing this job.",
    hint="The server's log has the details; please report it.",
)
_NOT_SAVED = ErrorInfo(
    code="storage",
    message="The pictures were drawn but could not be saved.",
    hint="The server's log has the reason; 'flux-mcp doctor' checks disk and database.",
)


@dataclass(frozen=True)
class Drawn:
    """A finished job's pictures, not yet saved."""

    job: Job
    pictures: tuple[tuple[Picture, bytes], ...]
    done: Done
    environment: Environment


class ResultSink(Protocol):
    """Where finished pictures go."""

    async def save(self, drawn: Drawn) -> None:
        """Make every picture durable: file first, then row.

        Raises:
            FluxMcpError: the disk or the database refused.
        """
        ...

    async def save_preview(self, job_id: str, preview: bytes) -> None:
        """Replace the preview of a running job."""
        ...

    async def drop_preview(self, job_id: str) -> None:
        """Remove the preview of a job that no longer runs."""
        ...


@dataclass
class _Measured:
    """Seconds learned from this leader's own jobs, for the scheduler."""

    load_s: dict[str, float] = field(default_factory=dict)
    draw_s: dict[str, float] = field(default_factory=dict)

    def learn(self, pipeline: str, done: Done) -> None:
        if done.load_s > 0:
            self.load_s[pipeline] = done.load_s
        self.draw_s[pipeline] = done.draw_s

    def costs(self) -> Costs:
        return Costs(self.load_s, self.draw_s)


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
        make_fleet: Callable[[], Fleet],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._database = database
        self._changes = changes
        self._sink = sink
        self._make_fleet = make_fleet
        self._lock = FileLock(settings.paths.gpu_lock)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._fleet: Fleet | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._measured = _Measured()
        self._saves: set[asyncio.Task[None]] = set()

    @property
    def leads(self) -> bool:
        """Whether this process holds the GPU lock."""
        return self._fleet is not None

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers of this process; empty when it does not lead."""
        return tuple(self._fleet.workers()) if self._fleet is not None else ()

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
                # The last line of defence of a background task: log it, let others lead, try again.
                logger.exception("the executor failed; it starts again")
                await asyncio.sleep(TAKE_OVER_S)

    def _try_lock(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    async def _lead(self) -> None:
        fleet = self._make_fleet()
        self._fleet = fleet
        background = [asyncio.create_task(self._beat(), name="flux-mcp-heartbeat")]
        try:
            orphans = await self._database.call(self._queue.recover, _lost_for_good())
            for job in orphans:
                logger.warning("job %s was left running by a server that is gone", job.id)
            self._changes.poke()
            if self._settings.preload:
                background.append(asyncio.create_task(self._warm(fleet), name="flux-mcp-warm"))
            await self._consume(fleet)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await fleet.close()
            await asyncio.gather(*self._saves, return_exceptions=True)
            # Also a job whose claim was under way when this task was cancelled.
            await self._database.call(self._queue.give_back, self._owner)
            self._fleet = None
            self._lock.release()
            self._changes.poke()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._database.call(self._queue.heartbeat, self._owner)

    async def _warm(self, fleet: Fleet) -> None:
        for worker in fleet.workers():
            with suppress(WorkerLost):
                await fleet.warm(worker.worker_id)

    async def _consume(self, fleet: Fleet) -> None:
        """Run jobs one after another; let the worker go when there was nothing to do for long."""
        worker = fleet.workers()[0].worker_id
        idle_since = time.monotonic()
        while True:
            ticket = self._changes.ticket()
            job = await self._claim(fleet)
            if job is not None:
                self._changes.poke()
                await self._run_job(fleet, worker, job)
                idle_since = time.monotonic()
                continue
            idle_left = idle_since + self._settings.idle_unload_s - time.monotonic()
            if idle_left <= 0 and fleet.workers()[0].is_running:
                logger.info("the worker was idle and is let go")
                await fleet.release(worker)
            wait_s = min(IDLE_WAIT_S, idle_left) if idle_left > 0 else IDLE_WAIT_S
            await self._changes.wait(ticket, wait_s)

    async def _claim(self, fleet: Fleet) -> Job | None:
        loaded = fleet.workers()[0].loaded
        costs = self._measured.costs()
        passes = self._settings.max_passes
        return await self._database.call(
            self._queue.claim,
            self._owner,
            lambda waiting: choose_next(waiting, loaded, costs, passes),
        )

    # --- one job -------------------------------------------------------------------------------

    async def _run_job(self, fleet: Fleet, worker: str, job: Job) -> None:
        logger.info("job %s starts (%s, attempt %d)", job.id, pipeline_key(job.plan), job.attempt)
        canceller = asyncio.create_task(self._watch_for_cancel(fleet, worker, job))
        try:
            inputs = await asyncio.to_thread(_read_inputs, self._settings.paths.uploads, job)
            await self._draw(fleet, worker, Assignment(job.id, job.attempt, job.plan, inputs))
        except WorkerLost as error:
            logger.warning("job %s lost its worker: %s", job.id, error)
            await self._database.call(self._queue.lost, job, _lost_for_good(str(error)))
        except FluxMcpError as error:
            await self._database.call(self._queue.fail, job, error_info(error))
        except Exception:
            logger.exception("job %s met a bug of ours", job.id)
            await fleet.kill(worker)
            await self._database.call(self._queue.fail, job, _INTERNAL)
        finally:
            canceller.cancel()
            await asyncio.gather(canceller, return_exceptions=True)
            await self._sink.drop_preview(job.id)
            self._changes.poke()

    async def _draw(self, fleet: Fleet, worker: str, assignment: Assignment) -> None:
        pictures: list[tuple[Picture, bytes]] = []
        reporter = _Reporter(self._database, self._queue, self._changes)
        stream = fleet.run(worker, assignment)
        while True:
            report = await self._next(fleet, worker, stream)
            match report.event:
                case Progress() as progress:
                    await reporter.report(progress)
                case Preview():
                    await self._sink.save_preview(assignment.job_id, report.blobs["preview"])
                case Picture() as picture:
                    pictures.append((picture, report.blobs["pixels"]))
                case Done() as done:
                    await self._finish(fleet, assignment, tuple(pictures), done)
                    return
                case Failed(error=error):
                    job = await self._database.call(self._queue.find, assignment.job_id)
                    await self._database.call(self._queue.fail, job, error)
                    return
                case Cancelled():
                    job = await self._database.call(self._queue.find, assignment.job_id)
                    await self._database.call(self._queue.cancelled, job)
                    return

    async def _next(self, fleet: Fleet, worker: str, stream: AsyncIterator[Report]) -> Report:
        try:
            async with asyncio.timeout(self._settings.stall_timeout_s):
                return await anext(stream)
        except TimeoutError:
            await fleet.kill(worker)
            raise WorkerLost(
                f"it reported nothing for {self._settings.stall_timeout_s:.0f} s"
            ) from None
        except StopAsyncIteration:
            raise WorkerLost("its events ended before the job did") from None

    async def _finish(
        self,
        fleet: Fleet,
        assignment: Assignment,
        pictures: tuple[tuple[Picture, bytes], ...],
        done: Done,
    ) -> None:
        """Hand the pictures to the sink in the background: the next job need not wait for disks."""
        self._measured.learn(pipeline_key(assignment.plan), done)
        environment = fleet.workers()[0].environment
        if environment is None or len(pictures) != len(assignment.plan.seeds):
            raise WorkerLost("it reported a finished job without all of its pictures")
        job = await self._database.call(self._queue.find, assignment.job_id)
        saving = Progress(
            job_id=job.id,
            attempt=job.attempt,
            seq=done.seq,
            phase="saving",
            step=job.total_steps,
            total_steps=job.total_steps,
        )
        await self._database.call(self._queue.report, saving)
        while len(self._saves) >= MAX_UNSAVED_JOBS:
            await asyncio.wait(self._saves, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._save(Drawn(job, pictures, done, environment)))
        self._saves.add(task)
        task.add_done_callback(self._saves.discard)

    async def _save(self, drawn: Drawn) -> None:
        job = drawn.job
        try:
            await self._sink.save(drawn)
            await self._database.call(
                self._queue.complete, job, drawn.done.load_s, drawn.done.draw_s
            )
        except FluxMcpError as error:
            await self._database.call(self._queue.fail, job, error_info(error))
        except Exception:
            logger.exception("the pictures of job %s could not be saved", job.id)
            await self._database.call(self._queue.fail, job, _NOT_SAVED)
        finally:
            self._changes.poke()

    async def _watch_for_cancel(self, fleet: Fleet, worker: str, job: Job) -> None:
        """Pass a cancel on to the worker; end the worker if it does not listen."""
        while True:
            ticket = self._changes.ticket()
            if (await self._database.call(self._queue.find, job.id)).cancel_requested:
                break
            await self._changes.wait(ticket, IDLE_WAIT_S)
        await fleet.cancel(worker, job.id)
        await asyncio.sleep(self._settings.cancel_grace_s)
        logger.warning("job %s did not stop; its worker is ended", job.id)
        await fleet.kill(worker)


class _Reporter:
    """Stores progress: each change of phase at once, steps at most four times a second."""

    def __init__(self, database: DatabaseThread, queue: JobQueue, changes: Changes) -> None:
        self._database = database
        self._queue = queue
        self._changes = changes
        self._last_s = float("-inf")
        self._phase: str | None = None

    async def report(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if progress.phase == self._phase and now_s - self._last_s < MIN_REPORT_INTERVAL_S:
            return
        self._phase, self._last_s = progress.phase, now_s
        await self._database.call(self._queue.report, progress)
        self._changes.poke()


def error_info(error: FluxMcpError) -> ErrorInfo:
    """Return an error of ours as it is stored with a job."""
    return ErrorInfo(code=error.code, message=error.message, hint=error.hint)


def _read_inputs(uploads: Path, job: Job) -> dict[str, bytes]:
    try:
        return {
            item.sha256: (uploads / f"{item.sha256}.png").read_bytes() for item in job.plan.inputs
        }
    except OSError as error:
        raise StorageError(
            "A picture this job draws from is no longer in the uploads folder.",
            "Submit the request again.",
        ) from error


def _lost_for_good(detail: str = "") -> ErrorInfo:
    because = f" ({detail})" if detail else ""
    return error_info(
        WorkerLostError(
            f"The worker process died twice while drawing this job{because}.",
            "Try a smaller size or another model; 'flux-mcp doctor' shows the worker's log.",
        )
    )
