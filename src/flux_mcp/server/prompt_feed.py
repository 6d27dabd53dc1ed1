"""PromptFeed: tells clients that the list of prompts has changed, when packs change on disk."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.subscriptions import PromptsListChanged, SubscriptionBus

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""How soon a changed pack is announced; a look costs a stat of each of its files."""
SEND_TIMEOUT_S = 5.0
"""A client that has not taken an announcement by then is not reading; this one is dropped."""
_LISTENS = ("prompts/list", "subscriptions/listen")


class PromptFeed:
    """Looks for changed packs and announces them; keeps which connections are open.

    Clients of protocol version 2026-07-28 listen on the server's bus; older ones are notified on
    their connection.

    Args:
        look: Reads the packs again and returns what changed since it did so last, in words; empty
            if nothing did.
        bus: Where clients listen.
    """

    def __init__(self, look: Callable[[], Awaitable[str]], bus: SubscriptionBus) -> None:
        self._look_again = look
        self._bus = bus
        self._connections: set[Connection] = set()
        self._first_look: asyncio.Task[str] | None = None

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Middleware: see who begins to listen, and remember clients of the older protocol."""
        if ctx.method in _LISTENS:
            await self._begin()
        result = await call_next(ctx)
        if ctx.method == "notifications/initialized":
            # The SDK shows middleware no other way to the connection, nor to its end: what is sent
            # to a client that is gone vanishes without an error.
            self._remember(ctx.session._connection)  # noqa: SLF001
        return result

    def _remember(self, connection: Connection) -> None:
        if connection not in self._connections:
            self._connections.add(connection)
            connection.exit_stack.callback(self._connections.discard, connection)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._begin()
            changes = await self._look()
            if changes:
                logger.info("prompt packs changed", extra={"packs": changes})
                await self._announce()

    async def _begin(self) -> None:
        """Look for the first time: changes are counted from what a client may have seen.

        Not before: the packs are some files, and a client that has just started the server waits.
        """
        if self._first_look is None:
            self._first_look = asyncio.create_task(self._look())
        await asyncio.shield(self._first_look)

    async def _look(self) -> str:
        try:
            return await self._look_again()
        except Exception:
            # An unexpected error about one pack must not end this for all of them.
            logger.exception("looking for changed prompt packs failed")
            return ""

    async def _announce(self) -> None:
        await self._bus.publish(PromptsListChanged())
        await asyncio.gather(*(_notify(connection) for connection in list(self._connections)))


async def _notify(connection: Connection) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send_prompt_list_changed()
