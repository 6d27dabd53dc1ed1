"""Requests of the older SSE transport are read while their answers are taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.shared._context_streams import create_context_streams
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCRequest, JSONRPCResponse

from flux_mcp.server.transports import pace

pytestmark = pytest.mark.anyio

MOST = 3


async def test_no_more_is_read_while_answers_are_not_taken_but_for_one_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "THROTTLED_S", 0.05)
    requests, received = create_context_streams[SessionMessage](100)
    sent, answers = create_context_streams[SessionMessage](100)

    @asynccontextmanager
    async def streams() -> AsyncIterator[tuple[Any, Any]]:
        yield received, sent

    for number in range(20):
        message = JSONRPCRequest(jsonrpc="2.0", id=number, method="ping")
        await requests.send(SessionMessage(message))
    async with pace.paced(streams(), MOST) as (read, write):
        for _ in range(MOST):
            await anext(read)
        assert (await anext(read)).message.id == MOST  # after a while: nothing was answered
        for number in range(2):
            answer = JSONRPCResponse(jsonrpc="2.0", id=number, result={})
            await write.send(SessionMessage(answer))
        monkeypatch.setattr(pace, "THROTTLED_S", 1000.0)
        assert (await anext(read)).message.id == MOST + 1
        # Full again: it waits until one more is answered.
        waiting = asyncio.create_task(anext(read))
        await asyncio.sleep(0)
        assert not waiting.done()
        await write.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=2, result={})))
        assert (await waiting).message.id == MOST + 2
    for end in (requests, received, sent, answers):
        end.close()
