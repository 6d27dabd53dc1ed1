"""Downloads: download weights, watch and cancel downloads. Only for the owner of this machine."""

from collections.abc import AsyncIterator, Sequence

from flux_mcp.errors import UnknownJobError
from flux_mcp.jobs.downloads import STALE_S, Download, Downloader, Show
from flux_mcp.models.hub.messages import PullOrder
from flux_mcp.principals import only
from flux_mcp.service.answers import CancelAnswer
from flux_mcp.service.runtime import Runtime


class Downloads:
    """Downloads of one data folder; the process that runs `pull` downloads, all can watch."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def pull(self, orders: Sequence[PullOrder], show: Show) -> Download:
        """Download weights and return the download as it ended; others can watch it by its id."""
        await self._runtime.open()
        downloader = Downloader(
            self._runtime.settings,
            self._runtime.rooms.downloads,
            self._runtime.database,
            self._runtime.changes,
        )
        return await downloader.run(orders, show)

    def watch(self, download_id: str, timeout_s: float) -> AsyncIterator[Download]:
        """Yield a download now, and again after each change, until it ends or time is up.

        Raises:
            UnknownJobError: there is none with that id.
        """
        return self._runtime.follow(lambda: self.find(download_id), timeout_s, STALE_S)

    async def find(self, download_id: str) -> Download:
        """Return one download.

        Raises:
            UnknownJobError: there is none with that id, or the caller is a named token.
        """
        await self._runtime.open()
        if only() is not None:
            raise UnknownJobError(
                f"There is no download '{download_id[:60]}'.",
                "Only programs of the server's own machine see its downloads.",
            )
        return await self._runtime.database.call(self._runtime.rooms.downloads.find, download_id)

    async def cancel(self, download_id: str) -> CancelAnswer:
        """Ask a download to stop; what was received is kept.

        Raises:
            UnknownJobError: there is none with that id, for this caller.
        """
        download = await self.find(download_id)
        if download.is_final:
            return CancelAnswer(cancelled=(), stopping=(), already_final=(download.id,))
        await self._runtime.database.call(self._runtime.rooms.downloads.request_cancel, download.id)
        self._runtime.changes.poke()
        return CancelAnswer(cancelled=(), stopping=(download.id,), already_final=())
