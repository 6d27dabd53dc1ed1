"""Saver: saves the images of finished jobs while the GPU already draws the next one.

What saving means is the `ResultSink`'s: the service makes files and gallery rows of the images.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from flux_mcp.errors import FluxMcpError
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.journal import Journal
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.scheduler import LoadLevel
from flux_mcp.storage.database import DatabaseThread
from flux_mcp.worker_protocol.messages import Done, Environment, ErrorInfo, GeneratedImage

logger = logging.getLogger(__name__)

MAX_UNSAVED_JOBS = 2
"""Finished jobs whose images may still be unsaved while the next one is drawn."""

_NOT_SAVED = ErrorInfo(
    code="storage",
    message="The images were drawn but could not be saved.",
    hint="The server's log has the reason; 'flux-mcp doctor' shows how much disk is free.",
)


@dataclass(frozen=True)
class Drawn:
    """A finished job's images, not yet saved."""

    job: Job
    images: tuple[tuple[GeneratedImage, bytes], ...]
    done: Done
    environment: Environment
    load: LoadLevel | None
    """What had to be loaded for it; `None` for nothing."""


class ResultSink(Protocol):
    """Where finished images go."""

    async def save(self, drawn: Drawn) -> None:
        """Make every image durable: file first, then row.

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


class Saver:
    """Saves the images of finished jobs in the background, a few jobs at a time.

    A save waits until the next job is on the GPU (`start_waiting`): begun at once, its own work in
    this process would delay handing that job over.
    """

    def __init__(
        self,
        queue: JobQueue,
        database: DatabaseThread,
        changes: Changes,
        sink: ResultSink,
        journal: Journal,
    ) -> None:
        self._queue = queue
        self._journal = journal
        self._database = database
        self._changes = changes
        self._sink = sink
        self._waiting: list[Drawn] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, drawn: Drawn) -> None:
        """Take a finished job; waits only while too many are unsaved."""
        while len(self._tasks) >= MAX_UNSAVED_JOBS:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._waiting.append(drawn)

    def start_waiting(self) -> None:
        """Begin to save what waits: the GPU is busy again, or has nothing to do."""
        for drawn in self._waiting:
            task = asyncio.create_task(self._save(drawn), name=f"flux-mcp-save {drawn.job.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._waiting.clear()

    async def finish(self, timeout_s: float) -> None:
        """Wait until everything is saved, or the time is up.

        Images that have their files by then are taken back into the gallery at the next start.
        """
        self.start_waiting()
        if not self._tasks:
            return
        _, unsaved = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in unsaved:
            task.cancel()
        if unsaved:
            logger.error("the images of finished jobs are not saved", extra={"jobs": len(unsaved)})
            await asyncio.wait(unsaved)

    async def _save(self, drawn: Drawn) -> None:
        # Fields of its own: this task may have been started while another job is on the GPU.
        with self._journal.about(drawn.job):
            try:
                await self._store(drawn)
            finally:
                self._changes.poke()
                await self._sink.drop_preview(drawn.job.id)

    async def _store(self, drawn: Drawn) -> None:
        job, done = drawn.job, drawn.done
        self._journal.saving(job)
        try:
            await self._sink.save(drawn)
            await self._database.insist(self._queue.complete, job, done.load_s, done.draw_s)
        except FluxMcpError as error:
            await self._fail(job, ErrorInfo.of(error))
        except Exception:
            logger.exception("unexpected error while saving the images of a job")
            await self._fail(job, _NOT_SAVED)
        else:
            self._journal.completed(job, done)

    async def _fail(self, job: Job, error: ErrorInfo) -> None:
        await self._database.insist(self._queue.fail, job, error)
        self._journal.failed(job, error)
