"""One attempt of one job: the worker's events go to the queue, a cancel goes to the worker.

Whatever happens, the job is afterwards being saved, cancelled, failed, or back in the queue.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.errors import (
    DatabaseUnavailableError,
    FluxMcpError,
    StorageError,
    WorkerLostError,
)
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.fleet import Assignment, Fleet, Report, WorkerLost, WorkerNotStarted
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.journal import Journal
from flux_mcp.jobs.look_ahead import LookAhead
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.saving import Drawn, ResultSink, Saver
from flux_mcp.jobs.scheduler import LoadLevel, load_level
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import DatabaseThread
from flux_mcp.worker_protocol.messages import (
    Cancelled,
    Done,
    ErrorInfo,
    Failed,
    GeneratedImage,
    Preview,
    Progress,
    pipeline_key,
)

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 5.0
"""How long a cancel of another process may stay unseen if a change were ever missed."""
CANCEL_AGAIN_S = 0.5
"""A cancel that reaches the worker before its job stops nothing: it is sent again."""
MIN_REPORT_INTERVAL_S = 0.25
"""Progress is stored at most four times a second: clients are notified no more often."""

_INTERNAL = ErrorInfo(
    code="internal",
    message="Something broke inside flux-mcp while drawing this job.",
    hint="The server's log has the details; please report it.",
)


@dataclass(frozen=True)
class AttemptRunner:
    """Runs attempts, one after another."""

    settings: Settings
    queue: JobQueue
    database: DatabaseThread
    changes: Changes
    sink: ResultSink
    saver: Saver
    journal: Journal
    look_ahead: LookAhead

    async def run(self, fleet: Fleet, job: Job) -> bool:
        """Run a claimed job; return when the worker is free again.

        Returns:
            False where no worker could be started: the job is back in its place in the queue.
        """
        with self.journal.about(job):
            return await self._run(fleet, job)

    async def _run(self, fleet: Fleet, job: Job) -> bool:
        self.journal.started(job)
        canceller = asyncio.create_task(self._watch_for_cancel(fleet, job))
        is_drawn, has_worker = False, True
        try:
            inputs = await asyncio.to_thread(_read_inputs, self.settings.paths.uploads, job)
            assignment = Assignment(job.id, job.attempt, job.plan, inputs)
            is_drawn = await self._draw(fleet, job, assignment)
        except WorkerNotStarted as error:
            has_worker = False
            status = await self.database.insist(self.queue.not_started, job)
            self.journal.not_started(job, str(error), status)
        except WorkerLost as error:
            status = await self.database.insist(self.queue.lost, job, lost_for_good(str(error)))
            self.journal.lost(job, str(error), status)
        except FluxMcpError as error:
            await self._fail(job, ErrorInfo.of(error))
        except Exception:
            logger.exception("unexpected error while running a job")
            await fleet.kill()
            await self._fail(job, _INTERNAL)
        finally:
            canceller.cancel()
            await asyncio.gather(canceller, return_exceptions=True)
            if not is_drawn:
                self.saver.start_waiting()
                await self.sink.drop_preview(job.id)
            self.changes.poke()
        return has_worker

    async def _fail(self, job: Job, error: ErrorInfo) -> None:
        await self.database.insist(self.queue.fail, job, error)
        self.journal.failed(job, error)

    async def _draw(self, fleet: Fleet, job: Job, assignment: Assignment) -> bool:
        """Handle the events of a job to its end; True when its images were handed to the saver."""
        # Closed before the next job is claimed: the worker is taken until then.
        info = fleet.worker()
        load = load_level(pipeline_key(job.plan), info.loaded, info.used)
        async with (
            aclosing(fleet.run(assignment)) as stream,
            self.look_ahead.beside(fleet, job) as is_drawing,
        ):
            images: list[tuple[GeneratedImage, bytes]] = []
            writer = _ProgressWriter(self.database, self.queue, self.changes)
            while True:
                report = await self._next(fleet, stream)
                self.saver.start_waiting()
                match report.event:
                    case Progress() as progress:
                        if progress.phase == "denoising":
                            is_drawing.set()
                        self.journal.progress(progress)
                        await writer.write(progress)
                    case Preview():
                        await self._show(job, report.blobs["preview"])
                    case GeneratedImage() as image:
                        images.append((image, report.blobs["pixels"]))
                    case Done() as done:
                        await self._finish(fleet, job, tuple(images), done, load)
                        return True
                    case Failed(error=error):
                        await self._fail(job, error)
                        return False
                    case Cancelled():
                        await self.database.insist(self.queue.cancelled, job)
                        self.journal.cancelled(job)
                        return False

    async def _show(self, job: Job, preview: bytes) -> None:
        try:
            await self.sink.save_preview(job.id, preview)
        except FluxMcpError as error:
            # The image is drawn without its previews too.
            logger.warning("the preview could not be saved", extra={"code": error.code})

    async def _next(self, fleet: Fleet, stream: AsyncIterator[Report]) -> Report:
        try:
            async with asyncio.timeout(self.settings.stall_timeout_s):
                return await anext(stream)
        except TimeoutError:
            await fleet.kill()
            raise WorkerLost(
                f"it reported nothing for {self.settings.stall_timeout_s:.0f} s"
            ) from None
        except StopAsyncIteration:
            raise WorkerLost("its events ended before the job did") from None

    async def _finish(
        self,
        fleet: Fleet,
        job: Job,
        images: tuple[tuple[GeneratedImage, bytes], ...],
        done: Done,
        load: LoadLevel | None,
    ) -> None:
        """Hand the images to the saver: the next job does not wait for the disk."""
        environment = fleet.worker().environment
        if environment is None or len(images) != job.plan.images:
            raise WorkerLost("it reported a finished job without all of its images")
        saving = Progress(
            job_id=job.id,
            attempt=job.attempt,
            seq=done.seq,
            phase="saving",
            step=job.total_steps,
            total_steps=job.total_steps,
        )
        self.journal.drawn(job, done)
        await self.database.insist(self.queue.report, saving)
        await self.saver.put(Drawn(job, images, done, environment, load))

    async def _watch_for_cancel(self, fleet: Fleet, job: Job) -> None:
        """Send a cancel to the worker; end the worker if it does not stop within the grace time."""
        while True:
            ticket = self.changes.ticket()
            if await self.database.insist(self.queue.is_cancel_requested, job.id):
                break
            await self.changes.wait(ticket, LOOK_AGAIN_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.cancel_grace_s):
                while True:
                    await fleet.cancel(job.id)
                    await asyncio.sleep(CANCEL_AGAIN_S)
        logger.warning("job did not stop within the grace time; its worker is killed")
        await fleet.kill()


class _ProgressWriter:
    """Stores progress: each change of phase at once, steps at most four times a second."""

    def __init__(self, database: DatabaseThread, queue: JobQueue, changes: Changes) -> None:
        self._database = database
        self._queue = queue
        self._changes = changes
        self._last_s = float("-inf")
        self._phase: str | None = None

    async def write(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if progress.phase == self._phase and now_s - self._last_s < MIN_REPORT_INTERVAL_S:
            return
        self._phase, self._last_s = progress.phase, now_s
        try:
            await self._database.call(self._queue.report, progress)
        except DatabaseUnavailableError as error:
            # The image is drawn without anybody seeing how far it is.
            logger.warning("progress could not be stored: %s", error)
        self._changes.poke()


def _read_inputs(uploads: Path, job: Job) -> dict[str, bytes]:
    try:
        return {
            item.sha256: (uploads / f"{item.sha256}.png").read_bytes() for item in job.plan.inputs
        }
    except OSError as error:
        raise StorageError(
            "An image this job draws from is no longer in the uploads folder.",
            "Submit the request again.",
        ) from error


def lost_for_good(detail: str = "") -> ErrorInfo:
    """Return the error of a job that lost its last worker."""
    because = f" ({detail})" if detail else ""
    return ErrorInfo.of(
        WorkerLostError(
            f"The worker process died twice while drawing this job{because}.",
            "Try a smaller size or another model; what it said is in logs/worker.log of the data "
            "folder, and 'flux-mcp doctor --worker' tries a new one.",
        )
    )
