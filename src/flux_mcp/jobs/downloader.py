"""Downloader: runs one downloading process and keeps its record up to date.

Owns the process for as long as `run` lasts. The process itself holds the lock and does the work
(models/hub.py); here its words become rows that every server and command can watch.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import assert_never

from pydantic import ValidationError

from flux_mcp.config import Settings
from flux_mcp.database import DatabaseThread
from flux_mcp.errors import StorageError
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.download import Download, DownloadStatus, lost, new_download_id
from flux_mcp.jobs.downloads import DownloadStore
from flux_mcp.jobs.environments import hub_environment
from flux_mcp.jobs.job import utc_now
from flux_mcp.models.hub_messages import (
    Listed,
    Pulled,
    PullEvent,
    PullFailed,
    PullFinished,
    PullOrder,
    PullProgress,
    PullRequest,
    parse_pull_event,
)
from flux_mcp.models.pulling import GIB
from flux_mcp.requests.messages import ErrorInfo

# -P: the folder the command was started in must not shadow the hub's libraries.
HUB_COMMAND = (sys.executable, "-P", "-m", "flux_mcp.models.hub")
END_PATIENCE_S = 5.0

Show = Callable[[Download, PullEvent | None], None]


class Downloader:
    """Runs downloads, one at a time for each data folder."""

    def __init__(
        self,
        settings: Settings,
        store: DownloadStore,
        database: DatabaseThread,
        changes: Changes,
    ) -> None:
        self._settings = settings
        self._store = store
        self._database = database
        self._changes = changes

    async def run(self, orders: Sequence[PullOrder], show: Show) -> Download:
        """Download until the end, whatever it is; a cancelled caller leaves it cancelled.

        Args:
            orders: What to have on disk.
            show: Is called with the record at its beginning and after each word of the process.
        """
        now = utc_now()
        models = tuple(dict.fromkeys(order.model for order in orders))
        download = Download(id=new_download_id(), models=models, heartbeat_at=now, created_at=now)
        await self._database.call(self._store.begin, download)
        self._changes.poke()
        show(download, None)
        request = PullRequest(
            orders=tuple(orders), reserve_bytes=int(self._settings.disk_reserve_gib * GIB)
        )
        try:
            await self._follow(download.id, request, show)
            return await self._end(download.id, "failed", lost())
        except asyncio.CancelledError:
            await asyncio.shield(self._end(download.id, "cancelled"))
            raise
        except StorageError as error:
            told = ErrorInfo(code=error.code, message=error.message, hint=error.hint)
            with contextlib.suppress(StorageError):  # it may be the database that cannot be used
                await self._end(download.id, "failed", told)
            raise

    async def _follow(self, download_id: str, request: PullRequest, show: Show) -> None:
        """Run the process until its last word, or until somebody asks it to stop."""
        process = await self._start()
        holds_lock = False
        try:
            stdin, stdout = process.stdin, process.stdout
            if stdin is None or stdout is None:
                raise ValueError("the process was started without pipes")
            with contextlib.suppress(ConnectionError):
                stdin.write(request.model_dump_json().encode() + b"\n")
                await stdin.drain()
            async for line in stdout:
                try:
                    event = parse_pull_event(line)
                except ValidationError:
                    return  # not a word of ours: it is broken, and ended
                download = await self._take(download_id, event)
                if not holds_lock and not isinstance(event, PullFailed):
                    holds_lock = True
                    await self._database.call(self._store.recover, download_id)
                show(download, event)
                if download.is_final:
                    return
                if download.cancel_requested:
                    show(await self._end(download_id, "cancelled"), None)
                    return
        finally:
            await asyncio.shield(_end_process(process))

    async def _start(self) -> asyncio.subprocess.Process:
        log = self._settings.paths.download_log
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as errors:
                return await asyncio.create_subprocess_exec(
                    *HUB_COMMAND,
                    str(self._settings.data_dir),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    env=hub_environment(self._settings),
                    # Ctrl-C is for the command: it ends the process in order.
                    start_new_session=True,
                )
        except OSError as error:
            raise StorageError(
                f"The downloading process cannot be started: {error.strerror}.",
                "Look at the permissions of the data folder.",
            ) from error

    async def _take(self, download_id: str, event: PullEvent) -> Download:
        match event:
            case PullProgress():
                download = await self._database.call(self._store.report, download_id, event)
            case PullFailed():
                error = ErrorInfo(code=event.code, message=event.message, hint=event.hint)
                return await self._end(download_id, "failed", error)
            case PullFinished():
                return await self._end(download_id, "completed")
            case Listed() | Pulled():
                download = await self._database.call(self._store.find, download_id)
            case _:
                assert_never(event)
        self._changes.poke()
        return download

    async def _end(
        self, download_id: str, status: DownloadStatus, error: ErrorInfo | None = None
    ) -> Download:
        download = await self._database.call(self._store.end, download_id, status, error)
        self._changes.poke()
        return download


async def _end_process(process: asyncio.subprocess.Process) -> None:
    """Close its stdin, which ends it at once; kill it if that does not."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_PATIENCE_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
