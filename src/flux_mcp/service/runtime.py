"""Runtime: what a process keeps open on a data folder: database, queue, gallery, executor.

It opens them, in the background or for the first use case, and closes them in order. There is one
for each process, whatever the transport. The use cases are in service.py.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from flux_mcp.errors import FluxMcpError, InternalError, StorageError
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.store import Gallery
from flux_mcp.gallery.store import migrate as migrate_gallery
from flux_mcp.gallery.uploads import Uploads
from flux_mcp.gallery.uploads import migrate as migrate_uploads
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.downloads import DownloadStore
from flux_mcp.jobs.downloads import migrate as migrate_downloads
from flux_mcp.jobs.estimates import Estimates
from flux_mcp.jobs.executor import ExecutorState, GpuExecutor, settle_if_unled
from flux_mcp.jobs.fleet import Fleet, WorkerInfo
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.measurements import migrate as migrate_measurements
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.queue import migrate as migrate_jobs
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.registry import Registry
from flux_mcp.service.views import Views
from flux_mcp.settings.file_systems import network_file_system
from flux_mcp.settings.installation import own_command
from flux_mcp.settings.paths import ensure_dirs
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import DatabaseThread

if TYPE_CHECKING:
    from flux_mcp.models.planning.candidates import Machine
    from flux_mcp.models.planning.device import Torch
    from flux_mcp.models.planning.machine import GpuReader

logger = logging.getLogger(__name__)

_MIGRATIONS = (
    migrate_jobs,
    migrate_downloads,
    migrate_gallery,
    migrate_uploads,
    migrate_measurements,
)


class _Ends(Protocol):
    """What can be followed: a job, a download."""

    @property
    def is_final(self) -> bool: ...


T = TypeVar("T", bound=_Ends)


@dataclass(frozen=True)
class Rooms:
    """What there is once the database is open; each is used on its thread only."""

    queue: JobQueue
    gallery: Gallery
    uploads: Uploads
    views: Views
    downloads: DownloadStore
    measurements: Measurements


class Runtime:
    """Opens and closes what the use cases work with.

    Args:
        settings: Read once by the caller.
        registry: The models there are.
        executes: Whether this process may run jobs; a process that only looks does not.
        make_fleet: Makes the workers when this process leads; else each is a process of its own.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        executes: bool,
        make_fleet: Callable[[Settings], Fleet] | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.files = ImageFiles(settings.paths)
        self.database = DatabaseThread(settings.paths.database, *_MIGRATIONS)
        self.changes = Changes(self.database.data_version)
        self.executor: GpuExecutor | None = None
        self.is_ending = False
        """Whether the server ends: open calls are answered with the job as it is."""
        self._executes = executes
        self._make_fleet = make_fleet
        self._background: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._rooms: Rooms | None = None
        self._is_unled = False
        """Whether no process led when `look_for_leader` last looked."""

    @property
    def rooms(self) -> Rooms:
        """What there is once it is open.

        Raises:
            InternalError: it is not.
        """
        if self._rooms is None:
            raise InternalError("A use case ran before the service was open.")
        return self._rooms

    def open_in_background(self) -> None:
        """Begin to open; the first use case waits for it."""
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
        self.open_in_background()
        if self._opening is not None:
            try:
                await asyncio.shield(self._opening)
            except StorageError:
                # The next call tries again: a disk may come back.
                self._opening = None
                raise

    async def _open(self) -> None:
        await asyncio.to_thread(ensure_dirs, self.settings.paths)
        is_lost = await asyncio.to_thread(self._lost_its_database)
        network = await asyncio.to_thread(network_file_system, self.settings.data_dir)
        if network is not None:
            logger.warning(
                "the data folder is on a network file system, where the database may be damaged "
                "and two machines may generate at once",
                extra={"data_dir": str(self.settings.data_dir), "file_system": network},
            )
        database = await self.database.open()
        if is_lost:
            logger.error(
                "the database was missing or empty beside images: a new one was made, and the "
                "images are taken back from their files; jobs and ratings are lost",
                extra={"database": str(self.settings.paths.database)},
            )
        queue = JobQueue(database, self.settings.queue_limit)
        gallery = Gallery(database)
        limit = self.settings.queue_limit
        downloads, measurements = DownloadStore(database), Measurements(database)
        views = Views(
            queue,
            Estimates(queue),
            gallery,
            self.files,
            downloads,
            limit,
            self._why_nothing_runs,
        )
        uploads = Uploads(database)
        self._rooms = Rooms(queue, gallery, uploads, views, downloads, measurements)
        self._background.append(
            asyncio.create_task(self.changes.watch_other_processes(), name="flux-mcp-changes")
        )
        if self._executes:
            from flux_mcp.jobs.process_fleet import ProcessFleet
            from flux_mcp.service.outputs import GallerySink

            make_fleet = self._make_fleet or ProcessFleet
            sink = GallerySink(
                gallery,
                self.files,
                self.settings.paths.uploads,
                self.database,
                self.registry,
                measurements,
            )
            self.executor = GpuExecutor(
                self.settings,
                queue,
                self.database,
                self.changes,
                sink,
                measurements,
                lambda: make_fleet(self.settings),
            )
            self.executor.start()
            self._background.append(
                asyncio.create_task(self._recover(self._rooms), name="flux-mcp-recovery")
            )

    def _lost_its_database(self) -> bool:
        path = self.settings.paths.database
        is_there = path.exists() and path.stat().st_size > 0
        return not is_there and self.files.has_images()

    async def _recover(self, rooms: Rooms) -> None:
        from flux_mcp.service.recovery import Recovery

        recovery = Recovery(self.files, rooms.gallery, rooms.queue, self.database)
        try:
            await recovery.run()
        except FluxMcpError as error:
            logger.warning("the data folder was not looked through to its end: %s", error)
        except Exception:
            # Nobody awaits this task.
            logger.exception("looking through the data folder failed")

    def begin_shutdown(self) -> None:
        """End every wait because the server ends: calls are answered with the job as it is.

        Jobs of calls that are cut off all the same are kept for later.
        """
        self.is_ending = True
        self.changes.poke()

    async def close(self) -> None:
        """Stop running jobs (a running one goes back to the queue) and close the database."""
        if self._opening is not None:
            with suppress(Exception):
                await self._opening
        if self.executor is not None:
            await self.executor.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.database.close()

    # --- waiting for changes -------------------------------------------------------------------

    async def follow(
        self, find: Callable[[], Awaitable[T]], timeout_s: float, look_again_s: float = math.inf
    ) -> AsyncIterator[T]:
        """Yield what `find` finds now, and again after each change, until it is final.

        Or until the time is up, or this process ends.

        Args:
            find: Looks it up; what it raises ends this.
            timeout_s: How long.
            look_again_s: Looks after so long even if nothing seems to have changed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        seen: T | None = None
        while True:
            ticket = self.changes.ticket()
            found = await find()
            if found != seen:
                seen = found
                yield found
            left_s = deadline - loop.time()
            if found.is_final or left_s <= 0 or self.is_ending:
                return
            await self.changes.wait(ticket, min(left_s, look_again_s))

    # --- the GPU ------------------------------------------------------------------------------

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers of this process; empty when another process leads."""
        return self.executor.workers() if self.executor is not None else ()

    def executor_state(self) -> ExecutorState:
        """Return how the executor of this process stands."""
        return ExecutorState() if self.executor is None else self.executor.state()

    async def look_for_leader(self) -> bool:
        """Return whether some process runs the jobs of this data folder.

        For a process that runs none itself. Where there is none, jobs that a killed process left
        running are put back into the queue, and every answer about unfinished jobs says what to do.
        """
        await self.open()
        if self.executor is None:
            with suppress(OSError):
                self._is_unled = await settle_if_unled(
                    self.settings.paths, self.rooms.queue, self.database
                )
        return not self._is_unled

    def _why_nothing_runs(self) -> str | None:
        if self._is_unled:
            serve = own_command("serve", self.settings.data_dir)
            return (
                "No process runs the jobs of this data folder: they wait until one starts. "
                f"{serve} is one, and so is the server of every connected MCP client."
            )
        state = self.executor_state()
        if state.lock_error is not None:
            why = f"this server cannot take the GPU lock ({state.lock_error})"
            return f"No job runs at present: {why}."
        if state.is_dead:
            return "No job runs at present: this server's executor fails; its log says why."
        return None

    @cached_property
    def _gpus(self) -> "GpuReader":
        from flux_mcp.models.planning.machine import GpuReader, nvidia_tool

        return GpuReader(self.settings.data_dir, nvidia_tool())

    def find_machine(self) -> "Machine | None":
        """Return the GPU that generates, and the machine; `None` without a known GPU."""
        workers = self.workers()
        environment = workers[0].environment if workers else None
        draws_elsewhere = environment is not None and not environment.device.startswith("cuda")
        if self.settings.device in ("cpu", "mps") or draws_elsewhere:
            return None
        if environment is None and not self._expects_gpu():
            return None
        return self._gpus.read(None if environment is None else environment.device_name)

    def _expects_gpu(self) -> bool:
        from flux_mcp.models.planning.device import expected_device

        device = expected_device(self.settings.device, self._torch, self._gpus.ask())
        return device.kind == "cuda"

    @cached_property
    def _torch(self) -> "Torch":
        """Read once: every call asks, and it does not change under a running server."""
        from flux_mcp.models.planning.device import installed_torch

        return installed_torch()

    async def learned(self, gpu: str) -> tuple[Figure, ...]:
        """Return what finished jobs took on a GPU, newest first."""
        return await self.database.call(self.rooms.measurements.of_device, gpu)
