"""Service: the use cases. The MCP server and the CLI call these and nothing below.

Jobs here, finished images in gallery_reader.py, weights on their way in downloads.py, health and
counts in operations.py. Owns nothing: what is open is the runtime's. One per process, whatever the
transport.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

from flux_mcp.compose.library import open_library
from flux_mcp.jobs.downloads import is_download_id
from flux_mcp.jobs.fleet import Fleet, WorkerInfo
from flux_mcp.jobs.job import Job, PreviewSize, new_job_id, utc_now
from flux_mcp.jobs.journal import current_traceparent, job_attributes, job_fields, submit_span
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.models.registry import Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.principals import acting, only
from flux_mcp.requests.plan import as_asked
from flux_mcp.requests.schemas import DrawRequest
from flux_mcp.service.answers import CancelAnswer, DryRunAnswer, JobAnswer, QueueAnswer
from flux_mcp.service.downloads import Downloads
from flux_mcp.service.gallery import GalleryReader
from flux_mcp.service.health import Operations
from flux_mcp.service.inputs import InputReader
from flux_mcp.service.planner import Planner, StoredFacts
from flux_mcp.service.runtime import Runtime
from flux_mcp.service.views import Views
from flux_mcp.settings.settings import Settings

logger = logging.getLogger(__name__)


class Service:
    """Submit, wait, look up, cancel.

    Args:
        settings: Read once by the caller.
        executes: Whether this process may run jobs; a process that only looks does not.
        make_fleet: Makes the workers when this process leads.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        executes: bool = True,
        make_fleet: Callable[[Settings], Fleet] = ProcessFleet,
    ) -> None:
        self.settings = settings
        self.registry: Registry = open_registry(settings)
        for notice in self.registry.notices:
            logger.warning("%s", notice)
        self.runtime = Runtime(settings, self.registry, executes=executes, make_fleet=make_fleet)
        self.operations = Operations(self.runtime)
        self.downloads = Downloads(self.runtime)
        self.gallery = GalleryReader(self.runtime)
        self.packs = open_library(settings, self.registry)
        self._database = self.runtime.database
        self._changes = self.runtime.changes
        self._files = self.runtime.files
        self._inputs = InputReader(settings, self._files)
        self._planner = Planner(
            settings,
            self.registry,
            self._inputs,
            self.packs,
            self.runtime.find_machine,
            self._read_stored,
        )
        self.loras = self._planner.loras

    # --- lifetime ------------------------------------------------------------------------------

    def open_in_background(self) -> None:
        """Begin to open; the first use case waits for it. Lets a server answer before the disk."""
        self.runtime.open_in_background()

    async def open(self) -> None:
        """Open database and gallery and, if this process may, start the executor.

        Raises:
            StorageError: the data folder cannot be used.
        """
        await self.runtime.open()

    def begin_shutdown(self) -> None:
        """Stop waiting because the server ends: whoever watches a job is told how far it is."""
        self.runtime.begin_shutdown()

    async def close(self) -> None:
        """Stop running jobs (a running one goes back to the queue) and close the database."""
        await self.runtime.close()

    @property
    def _queue(self) -> JobQueue:
        return self.runtime.rooms.queue

    @property
    def _views(self) -> Views:
        return self.runtime.rooms.views

    # --- submit --------------------------------------------------------------------------------

    async def submit(
        self, request: DrawRequest, is_ours: Callable[[str], bool] = lambda _: False
    ) -> Job:
        """Store a job for a request, or return the one its idempotency key names.

        A job that is returned a second time is claimed: a call somewhere else that goes away takes
        it from nobody.

        Args:
            request: What is asked for.
            is_ours: Says of a job that this caller keeps account of everybody who waits for it, so
                that it can still be let go when the last of them goes away.

        Raises:
            RequestError: something about the request is wrong.
            QueueFullError: too many jobs wait.
            WeightsMissingError: no model for it is on this disk.
        """
        with submit_span() as span:
            job, is_repeated = await self._submit(request)
            span.set_attributes(job_attributes(job))
            if is_repeated and not is_ours(job.id):
                await self.mark_id_given(job.id)
                return await self.find_job(job.id)
            return job

    async def _submit(self, request: DrawRequest) -> tuple[Job, bool]:
        """Return the job, and whether it was there before."""
        await self.open()
        key, asked, principal = request.idempotency_key, as_asked(request), acting()
        # First: what has been decided once stands, whatever became of its pack or its weights.
        same = await self._database.call(self._queue.find_same, principal, key, asked)
        if same is not None:
            return same, True
        await self._database.call(self._queue.refuse_if_full)
        decision = await self._planner.decide(request)
        plan = decision.plan
        job = Job(
            id=new_job_id(),
            kind=plan.kind,
            model=plan.model,
            total_steps=plan.total_steps,
            principal=principal,
            session=request.session,
            parents=plan.parents,
            request=asked,
            plan=plan,
            notices=decision.notices,
            composed=decision.wording.reports(),
            idempotency_key=key,
            traceparent=current_traceparent(),
            created_at=utc_now(),
        )
        if decision.incoming:
            await asyncio.to_thread(self._inputs.store, decision.incoming)
        stored = await self._database.call(self._queue.submit, job)
        if stored.id == job.id:
            logger.info("job submitted", extra=job_fields(job))
        self._changes.poke()
        return stored, stored.id != job.id

    async def _read_stored(self, image_ids: Collection[str]) -> StoredFacts:
        """Return what the database holds for a decision: one visit to its thread.

        Raises:
            UnknownImageError: there is no gallery image with one of these ids.
        """
        principal, rooms = only(), self.runtime.rooms

        def read() -> StoredFacts:
            files = {one: rooms.gallery.find(one, principal).file for one in image_ids}
            return StoredFacts(rooms.measurements.by_device(), files)

        return await self._database.call(read)

    async def dry_run(self, request: DrawRequest) -> DryRunAnswer:
        """Return the prompts with their audit, the plan and the estimates; write nothing."""
        await self.open()
        decision = await self._planner.decide(request, refuse=False)
        return await self._database.call(self._views.dry_run, decision)

    # --- watch ---------------------------------------------------------------------------------

    def watch(self, job_id: str, timeout_s: float) -> AsyncIterator[Job]:
        """Yield a job now, and again after each change, until it is final or the time is up.

        The time is up as well when this process ends.

        Raises:
            UnknownJobError: there is none with that id.
        """
        return self.runtime.follow(lambda: self.find_job(job_id), timeout_s)

    async def find_job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            UnknownJobError: there is none with that id.
        """
        await self.open()
        return await self._database.call(self._queue.find, job_id, only())

    async def look(self, job_id: str) -> JobAnswer:
        """Return what a caller is told of a job, who from now on holds its id.

        One visit to the database thread: this is what clients ask most often.

        Raises:
            UnknownJobError: there is none with that id.
        """
        await self.open()
        return await self._database.call(self._look, job_id, only())

    def _look(self, job_id: str, principal: str | None) -> JobAnswer:
        job = self._queue.find(job_id, principal)
        if not job.id_given:
            self._queue.mark_id_given(job_id)
        return self._views.job(job)

    async def recent_jobs(self, limit: int) -> list[Job]:
        """Return the newest jobs, newest first."""
        await self.open()
        return await self._database.call(self._queue.recent, limit)

    async def mark_id_given(self, job_id: str, preview: PreviewSize | None = None) -> None:
        """Record that a caller now holds the id: its call can no longer cancel the job.

        Args:
            job_id: The job.
            preview: How large a preview that caller wants to see when it is finished, if it said.
        """
        await self._database.call(self._queue.mark_id_given, job_id, preview)

    async def position(self, job: Job) -> int | None:
        """Return a waiting job's place in the queue, 1 for the next."""
        if job.status != "queued":
            return None
        return await self._database.call(self._queue.position, job)

    async def describe_job(self, job: Job) -> JobAnswer:
        """Return what a caller is told of a job."""
        return await self._database.call(self._views.job, job)

    async def describe_queue(self) -> QueueAnswer:
        """Return who runs, who waits, how long."""
        await self.open()
        return await self._database.call(self._views.queue, only())

    def preview_path(self, job_id: str) -> Path:
        """Return where the preview of a running job is, if there is one yet."""
        return self._files.preview_path(job_id)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers of this process; empty when another process leads."""
        return self.runtime.workers()

    # --- cancel --------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Cancel one job or download. A second cancel of the same changes nothing.

        Raises:
            UnknownJobError: there is none with that id.
        """
        if is_download_id(job_id):
            return await self.downloads.cancel(job_id)
        return await self._cancel([await self.find_job(job_id)])

    async def cancel_session(self, session: str) -> CancelAnswer:
        """Cancel every unfinished job of a session."""
        await self.open()
        return await self._cancel(
            await self._database.call(self._queue.unfinished_of_session, session, only())
        )

    async def _cancel(self, jobs: list[Job]) -> CancelAnswer:
        cancelled, stopping, final = [], [], []
        for before in jobs:
            after = await self._database.call(self._queue.request_cancel, before.id)
            if before.is_final or after.status in ("completed", "failed"):
                final.append(before.id)
            elif after.status == "cancelled":
                cancelled.append(before.id)
                logger.info("job cancelled", extra=job_fields(after))
            else:
                stopping.append(before.id)
        self._changes.poke()
        return CancelAnswer(
            cancelled=tuple(cancelled), stopping=tuple(stopping), already_final=tuple(final)
        )

    async def cancel_if_unclaimed(self, job_id: str) -> None:
        """Cancel a job whose caller went away before it was told the id, if settings say so."""
        if self.settings.on_disconnect == "keep" or self.runtime.is_ending:
            return
        job = await self._database.call(self._queue.cancel_unclaimed, job_id)
        if job.cancel_requested and not job.id_given:
            reason = "its caller is gone and never had the id"
            logger.info("job is to be cancelled", extra={"job_id": job_id, "reason": reason})
            if job.is_final:
                logger.info("job cancelled", extra=job_fields(job))
            self._changes.poke()
