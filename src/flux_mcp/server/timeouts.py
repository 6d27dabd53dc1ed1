"""Time-outs of clients: how a cancellation is known to be one, and whose call it ends.

A client that ends a call because it took too long has not changed its mind, and mostly calls
again. Newer SDKs say so in the reason of their cancellation
(docs/decisions/0037-time-outs-of-clients-keep-jobs.md).
"""

import asyncio
import re
from typing import Any, NamedTuple

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context

from flux_mcp.principals import acting

SESSION_HEADER = "mcp-session-id"  # Streamable HTTP, up to 2025-11-25
SSE_SESSION = "session_id"
"""Query parameter of the address that a client of SSE posts to."""
MAX_REASON_CHARACTERS = 500


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
