"""Changes: wakes whoever waits for a change of the jobs, made here or in another process.

Writes of this process `poke` it. Commits of other processes are seen through SQLite's
`data_version`, read ten times a second while anybody waits.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from flux_mcp.errors import StorageError

logger = logging.getLogger(__name__)

POLL_S = 0.1
TROUBLE_S = 5.0


class Changes:
    """A counter that can be waited on."""

    def __init__(self, data_version: Callable[[], Awaitable[int]]) -> None:
        self._data_version = data_version
        self._count = 0
        self._changed = asyncio.Event()
        self._waiters = 0

    def ticket(self) -> int:
        """Return a mark; take it before reading, then wait on it: no change is missed."""
        return self._count

    def poke(self) -> None:
        """Wake everybody who waits."""
        self._count += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, ticket: int, timeout_s: float) -> bool:
        """Wait until something changed since `ticket`; False when `timeout_s` passed first."""
        if self._count != ticket:
            return True
        self._waiters += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return self._count != ticket
        finally:
            self._waiters -= 1
        return True

    async def watch_other_processes(self) -> None:
        """Poll for commits of other connections, for ever; run as a task."""
        seen = -1
        while True:
            await asyncio.sleep(POLL_S)
            if self._waiters == 0:
                continue
            try:
                version = await self._data_version()
            except StorageError as error:
                # A disk may come back; without this task every watcher would be blind until then.
                logger.warning("changes of other processes cannot be seen: %s", error)
                await asyncio.sleep(TROUBLE_S)
                continue
            if version != seen:
                seen = version
                self.poke()
