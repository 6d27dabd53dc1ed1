"""Clients that open connections and drop them, at every point a connection has."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable

from .raw import ACCEPT, modern, request
from .transports import TOKENS, Server

AUTHORIZED = f"Host: 127.0.0.1\r\nAuthorization: Bearer {TOKENS['local']}\r\n"
OPEN_SSE = f"GET /sse HTTP/1.1\r\n{AUTHORIZED}\r\n".encode()
HALF_A_HEAD = OPEN_SSE[: len(OPEN_SSE) // 2]
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing then resets the connection, as a lost machine's router does."""


async def _dial(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


async def _drop(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        line = writer.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def before_a_word(server: Server, *, reset: bool) -> None:
    _, writer = await _dial(server)
    await _drop(writer, reset=reset)


async def in_the_head(server: Server, *, reset: bool) -> None:
    _, writer = await _dial(server)
    writer.write(HALF_A_HEAD)
    await writer.drain()
    await _drop(writer, reset=reset)


async def after_the_endpoint(server: Server, *, reset: bool) -> None:
    reader, writer = await _dial(server)
    writer.write(OPEN_SSE)
    await reader.readuntil(b"session_id=")
    await _drop(writer, reset=reset)


async def in_the_middle_of_a_post(server: Server, *, reset: bool) -> None:
    reader, writer = await _dial(server)
    writer.write(OPEN_SSE)
    await reader.readuntil(b"data: ")
    path = (await reader.readuntil(b"\r\n")).decode().strip()
    _, posting = await _dial(server)
    posting.write(post(path, b'{"jsonrpc": ', length=5000))
    await posting.drain()
    await _drop(posting, reset=reset)
    await _drop(writer, reset=reset)


async def in_the_middle_of_a_handshake(server: Server, *, reset: bool) -> None:
    _, writer = await _dial(server)
    writer.write(post("/mcp", b'{"jsonrpc": ', length=5000, headers=ACCEPT))
    await writer.drain()
    await _drop(writer, reset=reset)


async def in_the_middle_of_a_listing(server: Server, *, reset: bool) -> None:
    reader, writer = await _dial(server)
    writer.write(OPEN_SSE)
    await reader.readuntil(b"data: ")
    path = (await reader.readuntil(b"\r\n")).decode().strip()
    body, _ = modern(request("tools/list"))
    _, posting = await _dial(server)
    posting.write(post(path, _json(body)))
    await posting.drain()
    await _drop(writer, reset=reset)
    await _drop(posting, reset=reset)


async def listening_for_changes(server: Server, *, reset: bool) -> None:
    """A stream of 2026-07-28 that announces changes, dropped once it is open."""
    body, headers = modern(
        request("subscriptions/listen", notifications={"promptsListChanged": True})
    )
    reader, writer = await _dial(server)
    writer.write(post("/mcp", _json(body), headers=headers))
    await reader.readuntil(b"notifications/subscriptions/acknowledged")
    await _drop(writer, reset=reset)


DROPS: tuple[Callable[..., Awaitable[None]], ...] = (
    before_a_word,
    in_the_head,
    after_the_endpoint,
    in_the_middle_of_a_post,
    in_the_middle_of_a_listing,
    in_the_middle_of_a_handshake,
)


async def drop_many(server: Server, ways: tuple[Callable[..., Awaitable[None]], ...]) -> None:
    """Open and drop a hundred connections, twenty at a time, half of them reset."""
    for number in range(5):
        await asyncio.gather(
            *(ways[(number + i) % len(ways)](server, reset=i % 2 == 0) for i in range(20))
        )


def _json(message: object) -> bytes:
    return json.dumps(message).encode()


def post(
    path: str, body: bytes, length: int | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """Return a POST as it stands on the wire; `length` is what it says it will send."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\n{AUTHORIZED}{extra}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body
