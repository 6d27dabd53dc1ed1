"""Service: the use cases. The MCP server and the CLI call these and nothing below.

Composes database, queue, gallery, intake and executor; each of those owns its own state, and this
module owns only their lifetimes. One per process, whatever the transport.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flux_mcp.answers import CancelAnswer, HealthAnswer, JobAnswer, QueueAnswer, SearchAnswer
from flux_mcp.compose.library import open_library
from flux_mcp.config import Settings
from flux_mcp.database import DatabaseThread
from flux_mcp.errors import InternalError, StorageError, UnknownJobError
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.migrations import migrate as migrate_gallery
from flux_mcp.gallery.search import SearchFilter
from flux_mcp.gallery.store import Gallery, ImageRecord
from flux_mcp.health import Health
from flux_mcp.intake import Intake
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.download import STALE_S, Download, is_download_id
from flux_mcp.jobs.downloader import Downloader, Show
from flux_mcp.jobs.downloads import DownloadStore
from flux_mcp.jobs.downloads import migrate as migrate_downloads
from flux_mcp.jobs.executor import ExecutorState, GpuExecutor
from flux_mcp.jobs.fleet import Fleet, WorkerInfo
from flux_mcp.jobs.job import Job, PreviewSize, new_job_id, utc_now
from flux_mcp.jobs.journal import job_fields
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.measurements import migrate as migrate_measurements
from flux_mcp.jobs.outlook import Outlook
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.rows import migrate as migrate_jobs
from flux_mcp.jobs.tally import Ended, JobTally, Standing
from flux_mcp.jobs.tracing import current_traceparent, job_attributes, submit_span
from flux_mcp.jobs.worker_process import ProcessFleet
from flux_mcp.models.candidates import Machine
from flux_mcp.models.cards import CardReader, nvidia_tool
from flux_mcp.models.figures import Figure
from flux_mcp.models.hub_messages import PullOrder
from flux_mcp.models.own_rows import open_registry
from flux_mcp.models.registry import Registry
from flux_mcp.paths import ensure_dirs
from flux_mcp.planner import Planner, as_asked
from flux_mcp.principals import acting, only
from flux_mcp.requests.schemas import DrawRequest, SearchRequest
from flux_mcp.sink import GallerySink
from flux_mcp.traffic import Traffic
from flux_mcp.views import Views, image_answer

if TYPE_CHECKING:
    from sqlite_utils import Database

    from flux_mcp.metrics import Metrics


logger = logging.getLogger(__name__)

SWEEP_AGE_S = 3600.0
"""Files without a row are removed once they are this old: younger ones may be on their way."""


class Service:
    """Submit, wait, look up, cancel, search.

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
        self._executes = executes
        self._make_fleet = make_fleet
        self._files = ImageFiles(settings.paths)
        self._database = DatabaseThread(settings.paths.database, _migrate)
        self._changes = Changes(self._database.data_version)
        self._intake = Intake(settings, self.read_image)
        self.packs = open_library(settings, self.registry)
        self._cards = CardReader(settings.data_dir, nvidia_tool())
        self._planner = Planner(
            settings, self.registry, self._intake, self.packs, self._find_machine, self._learned
        )
        self.loras = self._planner.loras
        self._executor: GpuExecutor | None = None
        self._background: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._rooms: _Opened | None = None
        self._is_ending = False
        self.traffic = Traffic()
        self._health = Health(self._depth, self._executor_state)
        self._metrics: Metrics | None = None
        self._started_at = utc_now()

    # --- lifetime ------------------------------------------------------------------------------

    def open_soon(self) -> None:
        """Begin to open; the first use case waits for it. Lets a server answer before the disk."""
        if self._opening is None:
            # In a context of its own: what runs in the background acts for no caller.
            self._opening = asyncio.create_task(
                self._open(), name="flux-mcp-open", context=Context()
            )

    async def open(self) -> None:
        """Open database and gallery and, if this process may, start the executor.

        Raises:
            StorageError: the data folder cannot be used.
        """
        self.open_soon()
        if self._opening is not None:
            try:
                await asyncio.shield(self._opening)
            except StorageError:
                # The next call tries again: a disk may come back.
                self._opening = None
                raise

    async def _open(self) -> None:
        await asyncio.to_thread(ensure_dirs, self.settings.paths)
        database = await self._database.open()
        queue = JobQueue(database, self.settings.queue_limit)
        gallery = Gallery(database)
        limit = self.settings.queue_limit
        downloads, measurements = DownloadStore(database), Measurements(database)
        views = Views(queue, Outlook(database), gallery, self._files, downloads, limit)
        self._rooms = _Opened(queue, gallery, views, downloads, measurements, JobTally(database))
        self._background.append(
            asyncio.create_task(self._changes.watch_other_processes(), name="flux-mcp-changes")
        )
        if self._executes:
            sink = GallerySink(gallery, self._files, self._database, self.registry, measurements)
            self._executor = GpuExecutor(
                self.settings,
                queue,
                self._database,
                self._changes,
                sink,
                lambda: self._make_fleet(self.settings),
            )
            self._executor.start()
            self._background.append(asyncio.create_task(self._sweep(), name="flux-mcp-sweep"))

    async def _sweep(self) -> None:
        removed = 0
        for month in await asyncio.to_thread(self._files.months):
            known = await self._database.call(self._gallery.known_files, month)
            removed += await asyncio.to_thread(self._files.sweep, month, known, SWEEP_AGE_S)
        if removed:
            logger.info("files that no gallery row names were removed", extra={"files": removed})

    def begin_to_end(self) -> None:
        """Stop waiting because the server ends: whoever watches a job is told how far it is.

        Jobs of calls that are cut off all the same are kept for later.
        """
        self._is_ending = True
        self._changes.poke()

    async def close(self) -> None:
        """Stop running jobs (a running one goes back to the queue) and close the database."""
        if self._opening is not None:
            with suppress(Exception):
                await self._opening
        if self._executor is not None:
            await self._executor.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._database.close()

    @property
    def _queue(self) -> JobQueue:
        return self._opened.queue

    @property
    def _gallery(self) -> Gallery:
        return self._opened.gallery

    @property
    def _views(self) -> Views:
        return self._opened.views

    @property
    def _opened(self) -> "_Opened":
        if self._rooms is None:
            raise InternalError("A use case ran before the service was open.")
        return self._rooms

    def _find_machine(self) -> Machine | None:
        """Return the card that will draw and the machine; `None` where no card is known."""
        workers = self.workers()
        environment = workers[0].environment if workers else None
        draws_elsewhere = environment is not None and not environment.device.startswith("cuda")
        if self.settings.device in ("cpu", "mps") or draws_elsewhere:
            return None
        return self._cards.read(None if environment is None else environment.device_name)

    async def _learned(self, card: str) -> tuple[Figure, ...]:
        return await self._database.call(self._opened.measurements.of_device, card)

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
        await self._intake.store(decision.incoming)
        stored = await self._database.call(self._queue.submit, job)
        if stored.id == job.id:
            logger.info("job submitted", extra=job_fields(job))
        self._changes.poke()
        return stored, stored.id != job.id

    async def dry_run(self, request: DrawRequest) -> JobAnswer:
        """Return the prompts with their audit, the plan and the estimates; write nothing."""
        await self.open()
        decision = await self._planner.decide(request, refuse=False)
        return await self._database.call(self._views.dry_run, request, decision)

    # --- watch ---------------------------------------------------------------------------------

    async def watch(self, job_id: str, timeout_s: float) -> AsyncIterator[Job]:
        """Yield a job now, and again after each change, until it is final or the time is up.

        The time is up as well when this process ends.

        Raises:
            UnknownJobError: there is none with that id.
        """
        await self.open()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        seen: Job | None = None
        while True:
            ticket = self._changes.ticket()
            job = await self._database.call(self._queue.find, job_id, only())
            if job != seen:
                seen = job
                yield job
            left_s = deadline - loop.time()
            if job.is_final or left_s <= 0 or self._is_ending:
                return
            await self._changes.wait(ticket, left_s)

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
        return self._executor.workers() if self._executor is not None else ()

    # --- operations ----------------------------------------------------------------------------

    async def health(self) -> HealthAnswer:
        """Return whether pictures can be drawn; for probes: at once, and at most a second old."""
        return await self._health()

    async def metrics(self) -> tuple[bytes, str]:
        """Return what Prometheus scrapes, and its content type."""
        if self._metrics is None:
            # Imported by the first scrape: most processes never see one.
            from flux_mcp.metrics import Metrics, Sources  # noqa: PLC0415

            self._metrics = Metrics(
                Sources(
                    jobs=self._count_jobs,
                    state=self._executor_state,
                    traffic=self.traffic,
                    since=self._started_at,
                )
            )
        return await self._metrics.scrape()

    async def _count_jobs(self, since: str) -> tuple[tuple[Ended, ...], tuple[Standing, ...]]:
        await self.open()
        tally = self._opened.tally
        return await self._database.call(lambda: (tally.ended_since(since), tally.standing()))

    def _executor_state(self) -> ExecutorState:
        return ExecutorState() if self._executor is None else self._executor.state()

    async def _depth(self) -> int:
        await self.open()
        return await self._database.call(self._queue.depth)

    # --- downloads -----------------------------------------------------------------------------

    async def pull(self, orders: Sequence[PullOrder], show: Show) -> Download:
        """Download weights until the end, whatever it is; others can watch it by its id."""
        await self.open()
        downloader = Downloader(
            self.settings, self._opened.downloads, self._database, self._changes
        )
        return await downloader.run(orders, show)

    async def watch_download(self, download_id: str, timeout_s: float) -> AsyncIterator[Download]:
        """Yield a download now, and again after each change, until it ended or the time is up.

        Raises:
            UnknownJobError: there is none with that id.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        seen: Download | None = None
        while True:
            ticket = self._changes.ticket()
            download = await self.find_download(download_id)
            if download != seen:
                seen = download
                yield download
            left_s = deadline - loop.time()
            if download.is_final or left_s <= 0 or self._is_ending:
                return
            await self._changes.wait(ticket, min(left_s, STALE_S))

    async def find_download(self, download_id: str) -> Download:
        """Return one download. They belong to whoever starts programs on this machine.

        Raises:
            UnknownJobError: there is none with that id, for this caller.
        """
        await self.open()
        if only() is not None:
            raise UnknownJobError(
                f"There is no download '{download_id[:60]}'.",
                "Only programs of the server's own machine see its downloads.",
            )
        return await self._database.call(self._opened.downloads.find, download_id)

    # --- cancel --------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Cancel one job or download. A second cancel of the same changes nothing.

        Raises:
            UnknownJobError: there is none with that id.
        """
        if is_download_id(job_id):
            return await self._cancel_download(await self.find_download(job_id))
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

    async def _cancel_download(self, download: Download) -> CancelAnswer:
        if download.is_final:
            return CancelAnswer(cancelled=(), stopping=(), already_final=(download.id,))
        await self._database.call(self._opened.downloads.request_cancel, download.id)
        self._changes.poke()
        return CancelAnswer(cancelled=(), stopping=(download.id,), already_final=())

    async def cancel_if_unclaimed(self, job_id: str) -> None:
        """Cancel a job whose caller went away before it was told the id, if settings say so."""
        if self.settings.on_disconnect == "keep" or self._is_ending:
            return
        job = await self._database.call(self._queue.cancel_unclaimed, job_id)
        if job.cancel_requested and not job.id_given:
            reason = "its caller is gone and never had the id"
            logger.info("job is to be cancelled", extra={"job_id": job_id, "reason": reason})
            if job.is_final:
                logger.info("job cancelled", extra=job_fields(job))
            self._changes.poke()

    # --- gallery -------------------------------------------------------------------------------

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Return a page of finished pictures, newest first.

        Raises:
            InvalidCursorError: the cursor is not one of ours, or belongs to another search.
            InvalidRequestError: a date cannot be read.
        """
        await self.open()
        wanted = SearchFilter(principal=only(), **request.model_dump(exclude={"preview"}))
        page = await self._database.call(self._gallery.search, wanted)
        return SearchAnswer(
            images=tuple(image_answer(record, self._files) for record in page.images),
            next_cursor=page.next_cursor,
        )

    async def find_image(self, image_id: str) -> ImageRecord:
        """Return one gallery row.

        Raises:
            UnknownImageError: there is none with that id.
        """
        await self.open()
        return await self._database.call(self._gallery.find, image_id, only())

    async def image_path(self, image_id: str) -> Path:
        """Return the PNG file of a gallery image."""
        return self._files.path_of((await self.find_image(image_id)).file)

    async def read_image(self, image_id: str) -> bytes:
        """Return the PNG of a gallery image.

        Raises:
            UnknownImageError: there is none with that id.
            StorageError: its file is gone.
        """
        record = await self.find_image(image_id)
        return await asyncio.to_thread(self._files.read, record.file)

    async def read_thumbnail(self, image_id: str) -> bytes:
        """Return the WebP thumbnail of a gallery image.

        Raises:
            UnknownImageError: there is none with that id.
            StorageError: its file is gone.
        """
        record = await self.find_image(image_id)
        return await asyncio.to_thread(self._files.read, record.thumbnail)


@dataclass(frozen=True)
class _Opened:
    """What there is once the database is open; each is used on its thread only."""

    queue: JobQueue
    gallery: Gallery
    views: Views
    downloads: DownloadStore
    measurements: Measurements
    tally: JobTally


def _migrate(database: "Database") -> None:
    migrate_jobs(database)
    migrate_downloads(database)
    migrate_gallery(database)
    migrate_measurements(database)
