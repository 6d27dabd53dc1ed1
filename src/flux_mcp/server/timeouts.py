"""Time-outs of clients: how the end of a call is known to be one, and what it says of a client.

A client that ends a call because it took too long has not changed its mind, and mostly calls
again. Newer SDKs say so in the reason of their cancellation; older ones say nothing, and are known
by the same call coming again while the first is still open. How long a client waited then bounds
how long later calls of its session wait (docs/decisions/0037-time-outs-of-clients-keep-jobs.md).
"""

import asyncio
import re
from collections import OrderedDict
from typing import Any, NamedTuple

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context

from flux_mcp.principals import acting

SESSION_HEADER = "mcp-session-id"  # Streamable HTTP, up to 2025-11-25
SSE_SESSION = "session_id"
"""Query parameter of the address that a client of SSE posts to."""
MAX_SESSIONS = 1000
"""Sessions whose clients are remembered."""
MAX_REASON_CHARACTERS = 500

REPEAT_S = 4.0
"""The same call again, after this long, is a second try: the shortest time-out of a client that is
known is 5 s (openai-agents, autogen, google-adk). Calls that are meant come together, or after the
answer."""
WAIT_SHARE = 0.7
"""Of the time after which a client ended a call: later calls are answered by then."""
SHORT_WAIT_S = 4.0
"""For clients that say nothing, and are known by a second try only."""


# --- reasons -----------------------------------------------------------------------------------


class TimeoutReason(NamedTuple):
    """How a client says that a call reached its time-out."""

    pattern: str
    """What the whole reason matches, in any case."""
    source: str


TIMEOUT_REASONS = (
    TimeoutReason(r"timed out after \S+", "Python SDK 2.3, mcp/shared/jsonrpc_dispatcher.py"),
    TimeoutReason(
        r"(McpError: )?MCP error -32001: .+",
        "TypeScript SDK 1.12 and 1.32, shared/protocol.js: the error RequestTimeout as text",
    ),
    TimeoutReason(
        r"SdkError: Request timed out", "TypeScript SDK 2.4, @modelcontextprotocol/client"
    ),
    TimeoutReason(r"TimeoutError: .+", "DOM standard: the reason of AbortSignal.timeout()"),
    TimeoutReason(r"context deadline exceeded", "Go SDK, mcp/transport.go: the text of ctx.Err()"),
    TimeoutReason(r"request timeout", "Rust SDK (rmcp), RequestHandle::REQUEST_TIMEOUT_REASON"),
    TimeoutReason(
        r"(?!.*\buser\b).*(?<![a-z])(timed?[ _-]?out|deadline (was )?exceeded)\b.*",
        "clients of their own: they say so, and do not speak of a person",
    ),
)
"""The Python SDKs 1.9 and 1.30 send no cancellation at a time-out. What a person stopped is
"caller cancelled" (Python), "AbortError: ..." (TypeScript), "context canceled" (Go)."""


def says_timeout(reason: str | None) -> bool:
    """Return whether the reason of a cancellation is the client's own time-out."""
    said = (reason or "").strip()[:MAX_REASON_CHARACTERS]
    flags = re.IGNORECASE | re.DOTALL
    return any(re.fullmatch(row.pattern, said, flags) for row in TIMEOUT_REASONS)


# --- sessions ----------------------------------------------------------------------------------

Session = tuple[str, str]
"""The caller, and the session's id where the transport has one; empty over stdio."""


def session_of(context: ServerRequestContext[Any, Any] | Context[Any, Any]) -> Session | None:
    """Return the session that a message belongs to.

    `None` where the transport has none: each request of 2026-07-28 over HTTP stands alone.
    """
    request = _request_context(context)
    sent = None if request is None else request.request
    if sent is None:
        return acting(), ""
    session_id = sent.headers.get(SESSION_HEADER) or sent.query_params.get(SSE_SESSION)
    return None if session_id is None else (acting(), session_id)


def _request_context(
    context: ServerRequestContext[Any, Any] | Context[Any, Any],
) -> ServerRequestContext[Any, Any] | None:
    if isinstance(context, ServerRequestContext):
        return context
    try:
        return context.request_context
    except ValueError:  # what the SDK raises for a context without a request
        return None


class CancelReasons:
    """What clients said when they cancelled tool calls that are still open.

    The SDK interrupts a cancelled call and drops the reason; only middleware sees the notification.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[Session, str], str | None] = {}

    async def listen(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Middleware: keep the reason of a cancellation for as long as the call is open."""
        session = session_of(ctx)
        if session is None:  # it cancels by closing its stream, and says nothing
            return await call_next(ctx)
        if ctx.method == "notifications/cancelled":
            params = ctx.params or {}
            call, reason = (session, str(params.get("requestId"))), params.get("reason")
            if call in self._said and isinstance(reason, str):
                self._said[call] = reason
        if ctx.method != "tools/call":
            return await call_next(ctx)
        call = session, str(ctx.request_id)
        self._said[call] = None
        try:
            return await call_next(ctx)
        finally:
            self._said.pop(call, None)

    async def of(self, context: Context[Any, Any]) -> str | None:
        """Return the reason with which a call, interrupted just now, was cancelled, if any."""
        session, request = session_of(context), _request_context(context)
        if session is None or request is None:
            return None
        # The SDK interrupts the call first, and then starts the task that brings the notification
        # here: that has run once this task has let others run. More often costs nothing.
        for _ in range(5):
            await asyncio.sleep(0)
        return self._said.get((session, str(request.request_id)))


# --- what is remembered ------------------------------------------------------------------------


class ClientTimeouts:
    """How long calls may wait, by session, as far as their clients have shown it."""

    def __init__(self) -> None:
        self._most_s: OrderedDict[Session, float] = OrderedDict()

    def most_s(self, session: Session | None) -> float | None:
        """Return how long after its begin a call of this session is to be answered at the latest.

        `None` while nothing is known.
        """
        return None if session is None else self._most_s.get(session)

    def timed_out(self, session: Session | None, after_s: float) -> None:
        """Remember that a client ended a call after this many seconds."""
        self._remember(session, WAIT_SHARE * after_s)

    def gave_up(self, session: Session | None) -> None:
        """Remember that a client made a call again while it was still open."""
        self._remember(session, SHORT_WAIT_S)

    def _remember(self, session: Session | None, most_s: float) -> None:
        if session is None:
            return
        self._most_s[session] = min(most_s, self._most_s.get(session, most_s))
        self._most_s.move_to_end(session)
        if len(self._most_s) > MAX_SESSIONS:
            self._most_s.popitem(last=False)
