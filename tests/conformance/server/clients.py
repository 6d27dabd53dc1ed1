"""What clients of 2025-11-25 have asked of their connection: a log level, resources to watch.

`Watchers` owns who watches which resource; a log level stays with its connection, in the scratch
space the SDK gives it. Clients of 2026-07-28 say both in each request, and the SDK obeys.
"""

from collections.abc import Mapping
from typing import Any, get_args

from mcp.server.connection import allowed_log_levels
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.session import ServerSession
from mcp.types import (
    EmptyResult,
    LoggingLevel,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)

_LEVEL = "flux_mcp.log_level"
_LEVELS: tuple[LoggingLevel, ...] = get_args(LoggingLevel)
"""From the least severe to the most, as the specification lists them."""


async def set_level(
    ctx: ServerRequestContext[Any, Any], asked: SetLevelRequestParams
) -> EmptyResult:
    """Remember from which level on a client wants the log (`logging/setLevel`)."""
    _notes(ctx.session)[_LEVEL] = asked.level
    return EmptyResult()


async def log(ctx: Context[Any, Any], level: LoggingLevel, words: str) -> None:
    """Send a line of the log, on the stream of the request, to a client that wants it."""
    least = _notes(ctx.session).get(_LEVEL, "debug")
    asked = ctx.request_context
    allowed = allowed_log_levels(asked.protocol_version, _plain(asked.meta))
    if level not in allowed or _LEVELS.index(level) < _LEVELS.index(least):
        return
    line = LoggingMessageNotificationParams(level=level, data=words)
    await ctx.session.send_notification(LoggingMessageNotification(params=line), ctx.request_id)


def _plain(meta: Any) -> Mapping[str, Any] | None:
    return None if meta is None else dict(meta)


def _notes(session: ServerSession) -> dict[str, Any]:
    # The scratch space of a connection; ServerSession, one for each request, has no door to it.
    return session._connection.state  # noqa: SLF001


class Watchers:
    """Tells subscribed clients that a resource has changed."""

    def __init__(self) -> None:
        self._sessions: list[tuple[str, ServerSession]] = []

    async def subscribe(
        self, ctx: ServerRequestContext[Any, Any], asked: SubscribeRequestParams
    ) -> EmptyResult:
        """Answer `resources/subscribe`; a second time changes nothing."""
        self._forget(asked.uri, ctx.session)
        self._sessions.append((asked.uri, ctx.session))
        return EmptyResult()

    async def unsubscribe(
        self, ctx: ServerRequestContext[Any, Any], asked: UnsubscribeRequestParams
    ) -> EmptyResult:
        """Answer `resources/unsubscribe`."""
        self._forget(asked.uri, ctx.session)
        return EmptyResult()

    async def announce(self, uri: str) -> None:
        """Tell everybody who watches this resource."""
        for watched, session in list(self._sessions):
            if watched == uri:
                await session.send_resource_updated(uri)

    def _forget(self, uri: str, session: ServerSession) -> None:
        notes = _notes(session)
        self._sessions = [
            (watched, one)
            for watched, one in self._sessions
            if not (watched == uri and _notes(one) is notes)
        ]
