"""Pace: over the older SSE transport, requests are read no faster than their answers are taken.

Such a client posts its requests and gets answers on a stream of its own. Over streamable HTTP a
request stays open until it is answered, and open requests are limited; here a client that never
reads its stream could have any number of answers waiting for it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Self

from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCRequest, JSONRPCResponse

MAX_UNANSWERED = 64
"""Requests of one stream; lists of tools that waited to be sent took 1 GB for 2,221 of them."""
THROTTLED_S = 1.0
"""With more of them, one message is read in this time: it may be a cancellation."""


@asynccontextmanager
async def paced(
    streams: AbstractAsyncContextManager[tuple[Any, Any]], most: int = MAX_UNANSWERED
) -> AsyncIterator[tuple[Any, Any]]:
    """Give the streams of a client, of which no more is read while much is unanswered.

    Args:
        streams: As the SDK's transport gives them.
        most: Requests that may be unanswered.
    """
    async with streams as (received, sent):
        pace = _Unanswered(most)
        yield _Received(received, pace), _Sent(sent, pace)


class _Unanswered:
    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: set[str] = set()
        self._answered = asyncio.Event()

    async def room(self) -> None:
        if len(self._ids) >= self._most:
            self._answered.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(THROTTLED_S):
                    await self._answered.wait()

    def begin(self, item: Any) -> None:
        if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest):
            self._ids.add(str(item.message.id))

    def end(self, item: SessionMessage) -> None:
        if isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._ids.discard(str(item.message.id))
            self._answered.set()


class _Stream:
    """What the SDK's streams are beside reading and writing."""

    def __init__(self, inner: Any, pace: _Unanswered) -> None:
        self._inner = inner
        self._pace = pace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> Any:
        return await self._inner.__aexit__(*error)


class _Received(_Stream):
    def __aiter__(self) -> "_Received":
        return self

    async def __anext__(self) -> Any:
        await self._pace.room()
        item = await self._inner.__anext__()
        self._pace.begin(item)
        return item

    async def receive(self) -> Any:
        await self._pace.room()
        item = await self._inner.receive()
        self._pace.begin(item)
        return item


class _Sent(_Stream):
    async def send(self, item: SessionMessage) -> None:
        await self._inner.send(item)
        self._pace.end(item)
