"""Callers below the SDK's client: a session of 2025-11-25 by hand, and a line that can be cut."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from .transports import TOKENS, Server, http_client

LEGACY, MODERN = "2025-11-25", "2026-07-28"
ACCEPT = {"Accept": "application/json, text/event-stream"}
_META = "io.modelcontextprotocol"


def request(method: str, number: int | str = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def tool_call(number: int, tool: str, **arguments: Any) -> dict[str, Any]:
    """A tool call that asks for progress."""
    meta = {"progressToken": number}
    return request("tools/call", number, name=tool, arguments=arguments, _meta=meta)


def hello() -> dict[str, Any]:
    client = {"name": "raw", "version": "1"}
    return request("initialize", 0, protocolVersion=LEGACY, capabilities={}, clientInfo=client)


def modern(message: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a message and the headers with which 2026-07-28 wants it."""
    version, capabilities = f"{_META}/protocolVersion", f"{_META}/clientCapabilities"
    params = {**message["params"], "_meta": {version: MODERN, capabilities: {}}}
    named = {"Mcp-Name": params["name"]} if "name" in params else {}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"], **named, **ACCEPT}
    return {**message, "params": params}, headers


@dataclass(frozen=True)
class Event:
    """One event of a stream: its id, and the message, if it has one."""

    id: str
    message: dict[str, Any]

    @property
    def is_answer(self) -> bool:
        return "result" in self.message or "error" in self.message


@dataclass
class Session:
    """A session of the older protocol."""

    url: str
    http: httpx2.AsyncClient
    id: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Mcp-Session-Id": self.id, "MCP-Protocol-Version": LEGACY, **ACCEPT}

    @asynccontextmanager
    async def post(self, message: dict[str, Any]) -> AsyncIterator[AsyncIterator[Event]]:
        """Send a request; the block gets the events of its answer, and closing it cuts the line."""
        async with self.http.stream(
            "POST", self.url, json=message, headers=self.headers
        ) as response:
            assert response.status_code == 200, await response.aread()
            yield events(response)

    @asynccontextmanager
    async def resume(self, last_event_id: str) -> AsyncIterator[AsyncIterator[Event]]:
        """Come back with the id of the last event."""
        headers = {**self.headers, "Last-Event-ID": last_event_id}
        async with self.http.stream("GET", self.url, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            yield events(response)

    async def call(self, number: int, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its result."""
        async with self.post(tool_call(number, tool, **arguments)) as stream:
            return (await answer(stream)).message["result"]


async def events(response: httpx2.Response) -> AsyncIterator[Event]:
    """Yield the events of a stream; an empty one, which only names a place, has no message."""
    async for event in httpx2.EventSource(response):
        yield Event(event.id, json.loads(event.data) if event.data else {})


async def answer(stream: AsyncIterator[Event]) -> Event:
    """Return the event with the answer."""
    async for event in stream:
        if event.is_answer:
            return event
    raise AssertionError("the stream ended without an answer")


async def progress(stream: AsyncIterator[Event]) -> Event:
    """Return the next event with progress."""
    async for event in stream:
        if event.message.get("method") == "notifications/progress":
            return event
    raise AssertionError("the stream ended without progress")


@asynccontextmanager
async def opened(server: Server, token: str = TOKENS["local"]) -> AsyncIterator[Session]:
    """Open a session, and leave it as a client does that is switched off."""
    async with http_client(token) as http:
        url = f"{server.url}/mcp"
        response = await http.post(url, json=hello(), headers=ACCEPT)
        session = Session(url, http, response.headers["mcp-session-id"])
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        accepted = await http.post(url, json=ready, headers=session.headers)
        assert accepted.status_code == 202
        yield session


@dataclass
class Line:
    """A line between a client and a server that can be cut."""

    port: int
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    connections: int = 0

    def cut(self) -> None:
        """Break every connection that is open now; new ones may be made."""
        for writer in self._open:
            writer.transport.abort()

    async def carry(self, inner: asyncio.StreamReader, inner_out: asyncio.StreamWriter) -> None:
        """Carry one connection, both ways, until either side closes."""
        self.connections += 1
        outer, outer_out = await asyncio.open_connection("127.0.0.1", self.port)
        mine = {inner_out, outer_out}
        self._open |= mine
        try:
            await asyncio.gather(_copy(inner, outer_out), _copy(outer, inner_out))
        finally:
            self._open -= mine


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await source.read(65536):
            target.write(chunk)
            await target.drain()
    target.close()


@asynccontextmanager
async def line_to(server: Server) -> AsyncIterator[tuple[Server, Line]]:
    """Lay a line to a server; return the server as it is reached over it."""
    line = Line(server.port)
    relay = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    port = relay.sockets[0].getsockname()[1]
    async with relay:
        yield Server(f"http://127.0.0.1:{port}", server.process, server.data), line
        line.cut()
