"""Log levels and resource subscriptions of clients of 2025-11-25.

`Watchers` keeps the subscriptions; a log level is kept in the connection's own state dictionary,
which the SDK provides. Clients of 2026-07-28 send both in each request, and the SDK handles them.
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
    """Set the lowest level of log messages a client receives (`logging/setLevel`)."""
    _notes(ctx.session)[_LEVEL] = asked.level
    return EmptyResult()


async def log(ctx: Context[Any, Any], level: LoggingLevel, words: str) -> None:
    """Send a log message on the request's stream, if the client asked for its level."""
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
    # The SDK has no public access from ServerSession (one per request) to its connection's state.
    return session._connection.state


class Watchers:
    """Notifies subscribed clients that a resource has changed."""

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
        """Notify every client that is subscribed to this resource."""
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
