"""Two kinds of MCP client over HTTP for the load benchmark: the SDK's own, and a lean one.

The SDK's client spends more of a core on a call than the server does; two hundred of them would
measure themselves. Most callers are lean: one connection each, requests as the SDK's client of
2026-07-28 writes them (recorded from it), HTTP by h11, and no checking of the answer's schema.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from urllib.parse import urlsplit

import h11
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import BlobResourceContents

MODERN = "2026-07-28"
LEGACY = "legacy"
LEAN = "lean"
ERAS = {"sdk 2026-07-28": MODERN, "sdk 2025-11-25": LEGACY}
"""The SDK's clients by name, with the mode each connects in."""
IDLE_S = 4.0
"""A connection that was not used for longer is opened again: the server closes it after 5 s, the
default of uvicorn (0.54, `timeout_keep_alive`)."""
_CHUNK_BYTES = 65536
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "flux-mcp-load", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_CODE = re.compile(r"\[([a-z_]+)\]")


class RefusedError(Exception):
    """The server answered with an error of its own: `code` and the whole text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        found = _CODE.search(text)
        self.code = found.group(1) if found else "no_code"


class Caller(Protocol):
    """One client of the server."""

    async def tool(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool and return its structured content.

        Raises:
            RefusedError: it answered with an error.
        """
        ...

    async def resource(self, uri: str) -> bytes:
        """Return the bytes of a resource.

        Raises:
            RefusedError: it answered with an error.
        """
        ...


@dataclass(frozen=True)
class SdkCaller:
    """The SDK's client."""

    client: Client

    async def tool(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool and return its structured content."""
        result = await self.client.call_tool(name, arguments)
        if result.is_error or result.structured_content is None:
            raise RefusedError(" ".join(getattr(block, "text", "") for block in result.content))
        return result.structured_content

    async def resource(self, uri: str) -> bytes:
        """Return the bytes of a resource."""
        try:
            result = await self.client.read_resource(uri)
        except MCPError as error:
            raise RefusedError(str(error)) from error
        (found,) = result.contents
        if not isinstance(found, BlobResourceContents):
            raise TypeError(f"{uri} is text")
        return base64.b64decode(found.blob)


class LeanCaller:
    """One connection, one request at a time."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._address = (parts.hostname or "", parts.port or 80)
        self._headers = [
            ("Host", parts.netloc),
            ("Authorization", f"Bearer {token}"),
            ("Accept", "application/json, text/event-stream"),
            ("Content-Type", "application/json"),
            ("MCP-Protocol-Version", MODERN),
        ]
        self._ids = count(1)

    async def connect(self) -> None:
        """Open the connection."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._http = h11.Connection(h11.CLIENT)
        self._used_s = time.perf_counter()

    def close(self) -> None:
        """Close it."""
        self._writer.close()

    async def tool(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool and return its structured content."""
        asked = {"name": name, "arguments": arguments}
        result = await self._request("tools/call", name, asked)
        if result.get("isError") or "structuredContent" not in result:
            raise RefusedError(" ".join(block.get("text", "") for block in result["content"]))
        found: dict[str, Any] = result["structuredContent"]
        return found

    async def resource(self, uri: str) -> bytes:
        """Return the bytes of a resource."""
        result = await self._request("resources/read", uri, {"uri": uri})
        (found,) = result["contents"]
        return base64.b64decode(found["blob"])

    async def _request(self, method: str, name: str, params: dict[str, Any]) -> dict[str, Any]:
        if time.perf_counter() - self._used_s > IDLE_S:
            self.close()
            await self.connect()
        params = {**params, "_meta": _META}
        asked = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        body = json.dumps(asked).encode()
        headers = [
            *self._headers,
            ("Mcp-Method", method),
            ("Mcp-Name", name),
            ("Content-Length", str(len(body))),
        ]
        http = self._http
        request = h11.Request(method="POST", target=self._path, headers=headers)
        self._writer.write(
            (http.send(request) or b"")
            + (http.send(h11.Data(body)) or b"")
            + (http.send(h11.EndOfMessage()) or b"")
        )
        status, content = await self._response()
        http.start_next_cycle()
        self._used_s = time.perf_counter()
        answer = json.loads(content)
        if "result" not in answer:
            raise RefusedError(f"HTTP {status}: {answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result

    async def _response(self) -> tuple[int, bytes]:
        status, content = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_CHUNK_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
                kind = dict(event.headers.raw_items()).get(b"content-type", b"")
                if not kind.startswith(b"application/json"):
                    raise ConnectionError(f"HTTP {status} with {kind!r}, not JSON")
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, bytes(content)
            else:
                raise ConnectionError(f"the connection ended in the middle of an answer: {event!r}")


@asynccontextmanager
async def connected(kind: str, url: str, token: str) -> AsyncIterator[Caller]:
    """Give a connected client of a kind: `lean`, or one of `ERAS`."""
    if kind == LEAN:
        lean = LeanCaller(url, token)
        await lean.connect()
        try:
            yield lean
        finally:
            lean.close()
        return
    async with (
        httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token}"}, timeout=60, verify=False
        ) as http,
        Client(streamable_http_client(url, http_client=http), mode=ERAS[kind]) as client,
    ):
        await client.list_tools()  # the SDK reads it before a first call, to check answers
        yield SdkCaller(client)
