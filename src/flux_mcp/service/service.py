"""Service: everything the MCP server and the command line can ask for; one per process.

Jobs are here: submit, watch, look up, cancel. `service.gallery` has finished images,
`service.intake` brings others in, `service.downloads` has downloads of weights,
`service.operations` health and counts. Database, files and executor belong to `runtime.py`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_mcp.errors import StorageError, UnknownImageError
from flux_mcp.jobs.downloads import is_download_id
from flux_mcp.jobs.fleet import Fleet, WorkerInfo
from flux_mcp.jobs.job import Job, PreviewSize, new_job_id, utc_now
from flux_mcp.jobs.journal import current_traceparent, job_attributes, job_fields, submit_span
from flux_mcp.jobs.queue import JobQueue, QueueLoad
from flux_mcp.models.registry import Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.principals import acting, only
from flux_mcp.service.answers import CancelAnswer, DryRunAnswer, JobAnswer, QueueAnswer
from flux_mcp.service.downloads import Downloads
from flux_mcp.service.gallery import GalleryReader
from flux_mcp.service.health import Operations
from flux_mcp.service.intake import Intake
from flux_mcp.service.runtime import Runtime
from flux_mcp.service.views import Views
from flux_mcp.settings.settings import Settings

if TYPE_CHECKING:
    from flux_mcp.compose.library import PackLibrary
    from flux_mcp.images.references import StoredReference
    from flux_mcp.models.loras.library import LoraLibrary
    from flux_mcp.requests.schemas import DrawRequest, JobRequest
    from flux_mcp.service.captions import Captions
    from flux_mcp.service.image_models import ImageModels
    from flux_mcp.service.inputs import InputReader, OverlayLimits
    from flux_mcp.service.planner import Decision, Planner, StoredFacts

logger = logging.getLogger(__name__)


class Service:
    """The use cases of one data folder.

    Args:
        settings: Read once by the caller.
        executes: Whether this process may run jobs; a command that only looks things up does not.
        make_fleet: Makes the workers when this process leads; else each is a process of its own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        executes: bool = True,
        make_fleet: Callable[[Settings], Fleet] | None = None,
    ) -> None:
        self.settings = settings
        self.registry: Registry = open_registry(settings)
        for notice in self.registry.notices:
            logger.warning("%s", notice)
        self.runtime = Runtime(settings, self.registry, executes=executes, make_fleet=make_fleet)
        self.operations = Operations(self.runtime)
        self.downloads = Downloads(self.runtime)
        self.gallery = GalleryReader(self.runtime, lambda: self._inputs)
        self.intake = Intake(self.runtime, lambda: self._inputs)
        self._database = self.runtime.database
        self._changes = self.runtime.changes
        self._files = self.runtime.files
        if executes:
            self._planner  # noqa: B018 - now, not while the first caller waits

    # What decides about requests is imported when it is used: a command that lists jobs or images
    # would spend most of its time on it.

    @cached_property
    def packs(self) -> "PackLibrary":
        """The prompt packs there are."""
        from flux_mcp.compose.library import open_library

        return open_library(self.settings, self.registry)

    @property
    def loras(self) -> "LoraLibrary":
        """The LoRAs there are."""
        return self._planner.loras

    @cached_property
    def _inputs(self) -> "InputReader":
        from flux_mcp.service.inputs import InputReader

        return InputReader(self.settings, self._files, self._image_models)

    @cached_property
    def _image_models(self) -> "ImageModels":
        from flux_mcp.service.image_models import ImageModels

        return ImageModels(self.settings, self.registry)

    @cached_property
    def _captions(self) -> "Captions":
        from flux_mcp.service.captions import Captions

        return Captions(self._image_models)

    @cached_property
    def _planner(self) -> "Planner":
        from flux_mcp.service.planner import Planner

        return Planner(
            self.settings,
            self.registry,
            self._inputs,
            self.packs,
            self.runtime.find_machine,
            self._read_stored,
        )

    # --- lifetime ------------------------------------------------------------------------------

    def open_in_background(self) -> None:
        """Begin to open; the first use case waits for it. A server can answer the handshake now."""
        self.runtime.open_in_background()

    async def open(self) -> None:
        """Open database and gallery and, if this process may, start the executor.

        Raises:
            StorageError: the data folder cannot be used.
        """
        await self.runtime.open()

    def begin_shutdown(self) -> None:
        """Let every `watch` end with the newest state of its job, because the server ends."""
        self.runtime.begin_shutdown()

    async def close(self) -> None:
        """Stop running jobs (a running one goes back to the queue) and close the database."""
        if "_captions" in vars(self):  # else nothing of it has been made
            self._captions.close()
        if "_image_models" in vars(self):
            await asyncio.to_thread(self._image_models.close)
        await self.runtime.close()

    @property
    def _queue(self) -> JobQueue:
        return self.runtime.rooms.queue

    @property
    def _views(self) -> Views:
        return self.runtime.rooms.views

    # --- submit --------------------------------------------------------------------------------

    async def submit(
        self,
        request: "JobRequest",
        is_waited_for: Callable[[str], bool] = lambda _: False,
    ) -> Job:
        """Store a job for a request, or return the one its idempotency key names.

        A job that is returned again is marked as known to a caller, so that the end of the first
        call does not cancel it for the second.

        Args:
            request: What is asked for.
            is_waited_for: Returns whether calls of this caller wait for a job. It may then still be
                cancelled, by the caller, when the last of them goes away.

        Raises:
            RequestError: something about the request is wrong.
            QueueFullError: too many jobs wait.
            WeightsMissingError: no model for it is on this disk.
        """
        with submit_span() as span:
            job, is_repeated = await self._submit(request)
            span.set_attributes(job_attributes(job))
            if is_repeated and not is_waited_for(job.id):
                await self.mark_id_given(job.id)
                return await self.find_job(job.id)
            return job

    async def _submit(self, request: "JobRequest") -> tuple[Job, bool]:
        """Return the job, and whether it existed before."""
        from flux_mcp.requests.plan import as_asked

        await self.open()
        key, asked, principal = request.idempotency_key, as_asked(request), acting()
        # First: a stored decision stands, even if its pack or its weights have changed since.
        same = await self._database.call(self._queue.find_same, principal, key, asked)
        if same is not None:
            return same, True
        await self._database.call(self._queue.refuse_if_full)
        decision = await self._planner.decide(request)
        job = _new_job(request, asked, decision, principal)
        if decision.incoming:
            await asyncio.to_thread(self._inputs.store, decision.incoming)
        stored = await self._database.call(self._queue.submit, job)
        if stored.id == job.id:
            logger.info("job submitted", extra=job_fields(job))
        self._changes.poke()
        return stored, stored.id != job.id

    async def take_unanswered(self, request: "DrawRequest") -> Job | None:
        """Return the job of the same request that no caller was answered about, if there is one.

        The next call that makes this request gets another one, or none, until the call that it is
        given to has ended without an answer as well. A request with an idempotency key has its own
        way to its job.
        """
        from flux_mcp.requests.plan import as_asked

        if request.idempotency_key is not None:
            return None
        await self.open()
        job = await self._database.call(self._queue.take_unanswered, acting(), as_asked(request))
        if job is not None:
            logger.info("job given to a repeated call", extra=job_fields(job))
        return job

    async def _read_stored(
        self, references: "Collection[StoredReference]", request: "JobRequest"
    ) -> "StoredFacts":
        """Return what the database holds for a decision: one visit to its thread.

        Raises:
            UnknownImageError: one of the references stands for no image.
            InvalidRequestError: one stands for several.
        """
        from flux_mcp.requests.plan import as_asked
        from flux_mcp.service.planner import StoredFacts
        from flux_mcp.service.resolving import Asking, StoredImages, resolve

        by, rooms = Asking(acting(), only(), cache(lambda: as_asked(request))), self.runtime.rooms

        def read() -> StoredFacts:
            stored = StoredImages(rooms.gallery, rooms.uploads, rooms.queue)
            images = resolve(references, stored, by)
            return StoredFacts(rooms.measurements.by_device(), images)

        try:
            return await self._database.call(read)
        except UnknownImageError as error:
            hint = f"{error.hint} {self._inputs.access().bring_in}"
            raise UnknownImageError(error.message, hint) from error

    async def dry_run(
        self, request: "JobRequest", overlay: "OverlayLimits | None" = None
    ) -> DryRunAnswer:
        """Return the prompts with their audit, the plan and the estimates; store nothing.

        Args:
            request: What is asked for.
            overlay: Also lay the mask over its image, or show the structure, so large.

        Raises:
            RequestError: something about the request is wrong.
            WeightsMissingError: no model for it is on this disk.
        """
        from flux_mcp.service.dry_runs import dry_run_answer

        await self.open()
        decision = await self._planner.decide(request, refuse=False)
        answer = await self._database.call(dry_run_answer, decision, self._views.estimates)
        if overlay is None or not decision.incoming:
            return answer
        drawn = await asyncio.to_thread(self._inputs.overlay, decision.incoming, overlay)
        return answer.model_copy(update={"overlay": drawn})

    def overlay(self, answer: JobAnswer, limits: "OverlayLimits") -> bytes | None:
        """Return the mask of a job shown over its image, or the structure it was drawn along.

        A WebP; `None` without either. Blocks.
        """
        try:
            if answer.masked is not None:
                return self._inputs.stored_overlay(*answer.masked, limits)
            if answer.structure is not None:
                return self._inputs.stored_structure(answer.structure.stem, limits)
        except StorageError:
            pass  # an input that is gone is no reason to say nothing of the job
        return None

    async def captioned(self, answer: JobAnswer, wait_s: float) -> JobAnswer:
        """Return the answer about a job with what its images show, where a model here can say it.

        Args:
            answer: The job.
            wait_s: How long to wait for captions that are not made yet.
        """
        images = await self._captions.added(answer.images, wait_s)
        return answer if images is answer.images else answer.model_copy(update={"images": images})

    # --- watch ---------------------------------------------------------------------------------

    def watch(self, job_id: str, timeout_s: float) -> AsyncIterator[Job]:
        """Yield a job now, and again after each change, until it ends or `timeout_s` has passed.

        Ends early when this process shuts down.

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
        """Return the answer about a job, and record that a caller now knows its id.

        One visit to the database thread: this is the most frequent request of clients.

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
        """Record that a caller now knows the id: the end of its call no longer cancels the job.

        Args:
            job_id: The job.
            preview: The size of preview that caller asked for, if it did.
        """
        await self._database.call(self._queue.mark_id_given, job_id, preview)

    async def position(self, job: Job) -> int | None:
        """Return a waiting job's place in the queue, 1 for the next."""
        if job.status != "queued":
            return None
        return await self._database.call(self._queue.position, job)

    async def describe_job(self, job: Job) -> JobAnswer:
        """Return the answer about a job; with its images once it is completed."""
        return await self._database.call(self._views.job, job)

    async def describe_queue(self) -> QueueAnswer:
        """Return which job runs, which wait, and how long."""
        await self.open()
        return await self._database.call(self._views.queue, only())

    async def queue_load(self) -> QueueLoad:
        """Return how many jobs are unfinished, of everybody."""
        await self.open()
        return await self._database.call(self._queue.load)

    def preview_path(self, job_id: str) -> Path:
        """Return the file of a running job's preview, which need not exist yet."""
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

    async def let_go(self, job_id: str, *, keep: bool = False) -> None:
        """Deal with a job whose call ended before it was answered: nobody may know its id.

        Args:
            job_id: The job. It goes on if a caller has its id.
            keep: Let it go on in any case, as the setting `on_disconnect` may too: a call with the
                same request is then given this job.
        """
        if keep or self.settings.on_disconnect == "keep" or self.runtime.is_ending:
            await self._database.call(self._queue.mark_unanswered, job_id)
            logger.info("job kept", extra={"job_id": job_id})
            return
        job = await self._database.call(self._queue.cancel_unclaimed, job_id)
        if job.cancel_requested and not job.id_given:
            reason = "its caller disconnected before it knew the id"
            logger.info("cancel requested", extra={"job_id": job_id, "reason": reason})
            if job.is_final:
                logger.info("job cancelled", extra=job_fields(job))
            self._changes.poke()


def _new_job(
    request: "JobRequest",
    asked: dict[str, Any],
    decision: "Decision",
    principal: str,
) -> Job:
    plan = decision.plan
    return Job(
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
        composed=() if decision.wording is None else decision.wording.reports(),
        idempotency_key=request.idempotency_key,
        traceparent=current_traceparent(),
        created_at=utc_now(),
    )
