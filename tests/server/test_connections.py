"""Connections that do nothing make room, and the log does not grow with them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from flux_mcp.server.transports.connections import (
    HEADER_S,
    UNREAD_S,
    ConnectionLimits,
    Connections,
    connection_limits,
)

pytestmark = pytest.mark.anyio

LIMITS = ConnectionLimits(total=6, per_address=4, backlog=16)
ASK = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Server:
    """A listening server."""

    port: int
    connections: Connections
    release: asyncio.Event
    opened: list[Stream] = field(default_factory=list)

    async def connect(self, *sent: bytes) -> Stream:
        stream = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        self.opened.append(stream)
        for piece in sent:
            stream[1].write(piece)
        await stream[1].drain()
        return stream

    async def until(self, number: int) -> None:
        """Wait until so many connections are open and wait for a request, or are answered."""
        async with asyncio.timeout(30):
            while len(self.connections) != number:  # noqa: ASYNC110 - a socket rings no bell
                await asyncio.sleep(0.01)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    release = asyncio.Event()

    async def wait(_: Request) -> Response:
        await release.wait()
        return PlainTextResponse("done")

    async def endless(_: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    connections = Connections(LIMITS)
    config = uvicorn.Config(
        Starlette(routes=[Route("/wait", wait), Route("/endless", endless)]),
        http=connections,  # type: ignore[arg-type]
        port=0,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    listener = uvicorn.Server(config)
    serving = asyncio.create_task(listener.serve())
    while not listener.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    port = listener.servers[0].sockets[0].getsockname()[1]
    running = Server(port, connections, release)
    yield running
    for _, writer in running.opened:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
    release.set()
    listener.should_exit = True
    await serving


async def answer(stream: Stream) -> tuple[int, bytes]:
    """Return status and body of an answer, and close the connection."""
    head = await stream[0].readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"-length" in line), 0
    )
    body = await stream[0].readexactly(length)
    stream[1].close()
    return int(head.split()[1]), body


async def is_over(stream: Stream) -> bool:
    try:
        return await asyncio.wait_for(stream[0].read(), 30) == b""
    except ConnectionResetError:
        return True


async def test_connections_without_a_request_make_room_the_oldest_first(server: Server) -> None:
    silent = [await server.connect() for _ in range(2)]
    silent += [await server.connect(b"GET /wa") for _ in range(2)]
    await server.until(4)
    busy = [await server.connect(ASK % b"wait") for _ in range(4)]
    assert [await is_over(each) for each in silent] == [True] * 4
    server.release.set()
    assert [await answer(each) for each in busy] == [(200, b"done")] * 4


async def test_when_all_are_busy_a_new_one_is_refused_and_there_is_room_again(
    server: Server,
) -> None:
    busy = [await server.connect(ASK % b"wait") for _ in range(4)]
    await server.until(4)
    async with asyncio.timeout(30):
        while any(each.is_waiting for each in server.connections._open):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    status, body = await answer(await server.connect())
    assert (status, json.loads(body)["error"]["code"]) == (503, "too_many_open")
    server.release.set()
    assert [(await answer(each))[0] for each in busy] == [200] * 4
    await server.until(0)
    assert (await answer(await server.connect(ASK % b"nothing")))[0] == 404


async def test_a_request_must_come_in_time_and_an_idle_connection_is_closed(server: Server) -> None:
    silent, half = await server.connect(), await server.connect(b"GET /wa")
    busy = await server.connect(ASK % b"wait")
    await server.until(3)
    begin_s = time.monotonic()
    server.connections.close_due(begin_s + HEADER_S - 5)
    assert len(server.connections) == 3
    async with asyncio.timeout(30):
        while sum(each._has_part for each in server.connections._open) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    server.connections.close_due(begin_s + HEADER_S + 1)
    assert await is_over(silent)
    status, body = await answer(half)
    assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
    server.release.set()
    assert (await answer(busy))[0] == 200


async def test_who_takes_nothing_of_an_answer_is_cut_off_and_who_reads_slowly_is_not(
    server: Server,
) -> None:
    stuck, slow = [await server.connect(ASK % b"endless") for _ in range(2)]
    await server.until(2)
    now_s = time.monotonic()
    for step in range(1, 5):
        # Until the buffers between them are full, which takes a moment.
        for _ in range(40):
            await asyncio.sleep(0.005)
            await slow[0].read(1 << 20)
        for each in server.connections._open:
            # As where what a client took between two looks was filled up again, and with more.
            each._unread_bytes = 1
        server.connections.close_due(now_s + step * UNREAD_S / 2)
    assert len(server.connections) == 1
    async with asyncio.timeout(30):
        with suppress(ConnectionResetError):
            await stuck[0].read()
    slow[1].close()


@pytest.mark.parametrize(
    ("setting", "descriptors", "total"),
    [(1000, None, 1000), (1000, 1 << 20, 1000), (1000, 1024, 672), (1000, 256, 96), (50, 256, 50)],
)
def test_connections_leave_descriptors_for_everything_else(
    setting: int, descriptors: int | None, total: int
) -> None:
    limits = connection_limits(setting, descriptors)
    assert limits.total == total
    assert limits.per_address < total
    if descriptors is not None:
        assert limits.total + 2 * limits.backlog + 90 < descriptors
