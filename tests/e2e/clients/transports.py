"""Real servers and clients of every transport and era, on one data folder.

What the servers draw does not matter here: their worker is a light one, see `light.py`.

A route is how a client comes in: the transport, and the era it opens with (`auto` is 2026-07-28,
`legacy` the handshake of 2025-11-25).
"""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx2
import psutil
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from flux_mcp.storage.database import open_database

DEADLINE_S = 60
TOKENS = {
    "local": "owner-0123456789abcdef",
    "ada": "ada-0123456789abcdef",
    "bob": "bob-0123456789abcdef",
}
SERVE = ("-P", str(Path(__file__).with_name("light.py")), "serve")
_LISTENING = re.compile(r"address=(http://[\w.\[\]:]+)")


class Route(NamedTuple):
    """How a client comes in."""

    transport: str
    era: str

    def __str__(self) -> str:
        return f"{self.transport}-{self.era}"


STDIO, LEGACY_STDIO = Route("stdio", "auto"), Route("stdio", "legacy")
HTTP, LEGACY_HTTP = Route("http", "auto"), Route("http", "legacy")
SSE, LEGACY_SSE = Route("sse", "auto"), Route("sse", "legacy")
OVER_HTTP = (HTTP, LEGACY_HTTP, SSE, LEGACY_SSE)
ROUTES = (STDIO, LEGACY_STDIO, *OVER_HTTP)


@dataclass
class Server:
    """A server process that listens."""

    url: str
    process: subprocess.Popen[str]
    data: Path
    said: list[str] = field(default_factory=list)
    """Lines of its stderr."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def as_process(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def errors(self) -> list[str]:
        return errors_in(self.said)

    def end(self) -> int:
        """Tell it to end; return its exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)


def errors_in(lines: Iterable[str]) -> list[str]:
    """Return what a server logged as its own error."""
    return [line for line in lines if "Traceback" in line or " ERROR " in line]


def environment(data: Path, **variables: str) -> dict[str, str]:
    """What every server process of these tests is started with."""
    tokens = data / "tokens"
    if not tokens.exists():
        data.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name} {token}\n" for name, token in TOKENS.items())
        tokens.touch(mode=0o600)
        tokens.write_text(lines, encoding="utf-8")
    return {
        **os.environ,
        "FLUX_MCP_DATA_DIR": str(data),
        "FLUX_MCP_TORCH_THREADS": "1",
        "FLUX_MCP_LOG_LEVEL": "info",
        **variables,
    }


@contextmanager
def listening(data: Path, **variables: str) -> Iterator[Server]:
    """Start a server of streamable HTTP and SSE; end it afterwards, killed if it must be."""
    command = [sys.executable, *SERVE, "--transport", "http", "--sse"]
    with subprocess.Popen(
        [*command, "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(data, **variables),
    ) as process:
        server = Server("", process, data)
        try:
            yield _reading(server)
            if process.poll() is None:
                server.end()
        finally:
            process.kill()


def _reading(server: Server) -> Server:
    """Wait until it listens, then keep reading what it says, so that it never has to wait."""
    stderr = server.process.stderr
    assert stderr is not None
    for line in stderr:
        server.said.append(line)
        if found := _LISTENING.search(line):
            server.url = found[1]
            break
    assert server.url, server.said
    threading.Thread(target=_hear, args=(server.said, stderr), daemon=True).start()
    return server


def _hear(said: list[str], stderr: IO[str]) -> None:
    for line in stderr:
        said.append(line)  # noqa: PERF402 - each is there as soon as it was said


def http_client(token: str = TOKENS["local"]) -> httpx2.AsyncClient:
    """Return a plain HTTP client that sends a token."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=300))


@asynccontextmanager
async def connected(
    server: Server, route: Route, token: str = TOKENS["local"], **variables: str
) -> AsyncIterator[Client]:
    """Connect a client of the SDK; over stdio it starts a server of its own on the same folder."""
    if route.transport == "stdio":
        started = StdioServerParameters(
            command=sys.executable,
            args=list(SERVE),
            env=environment(server.data, FLUX_MCP_LOG_LEVEL="warning", **variables),
        )
        async with Client(stdio_client(started), mode=route.era) as client:
            yield client
    elif route.transport == "sse":
        headers = {"Authorization": f"Bearer {token}"}
        opened = sse_client(f"{server.url}/sse", headers=headers)
        async with Client(opened, mode=route.era) as client:
            yield client
    else:
        async with http_client(token) as http:
            opened = streamable_http_client(f"{server.url}/mcp", http_client=http)
            async with Client(opened, mode=route.era) as client:
                yield client


def stored_jobs(data: Path) -> list[Mapping[str, Any]]:
    """Every job in the database of a data folder, oldest first."""
    database = open_database(data / "gallery.sqlite")
    try:
        return list(database.query("SELECT * FROM jobs ORDER BY seq"))
    finally:
        database.close()


async def job_of(data: Path, session: str) -> Mapping[str, Any]:
    """Wait for the one job of a session to be stored; return it."""
    await until(lambda: session in {stored["session"] for stored in stored_jobs(data)})
    (found,) = [stored for stored in stored_jobs(data) if stored["session"] == session]
    return found


async def until(is_so: Callable[[], bool]) -> None:
    """Look again and again at what another process does."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110 - another process rings no bell
            await asyncio.sleep(0.1)
