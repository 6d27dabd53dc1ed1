"""The HTTP server inside the test's own process, on a real socket, to be looked into."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from flux_mcp.server.app import FluxServer, build_server
from flux_mcp.server.transports.http import build_http_app
from flux_mcp.server.transports.sessions import Sessions
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

from .transports import HTTP, LEGACY_SSE, TOKENS, Server, connected

FEW_SESSIONS = 20


class Observed(Sessions):
    """Sessions of our server: few, perhaps forgotten soon, and counted."""

    def __init__(self, server: FluxServer, max_body_bytes: int, idle_timeout_s: float) -> None:
        super().__init__(
            server, max_body_bytes, max_sessions=FEW_SESSIONS, idle_timeout_s=idle_timeout_s
        )
        self.feed = server._feed

    @property
    def session_count(self) -> int:
        return len(self._server_instances)


@asynccontextmanager
async def served(
    tmp_path: Path, idle_timeout_s: float = 1800, **settings: Any
) -> AsyncIterator[tuple[Server, Observed]]:
    """Serve HTTP and SSE; nothing draws."""
    chosen = Settings(
        data_dir=tmp_path / "data", transport="http", sse=True, token=TOKENS["local"], **settings
    )
    service = Service(chosen, executes=False)
    mcp_server = build_server(service)
    observed = Observed(mcp_server, chosen.max_body_bytes, idle_timeout_s)
    app = build_http_app(service, mcp_server, sessions=observed)
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    listener = uvicorn.Server(config)
    sockets = [config.bind_socket()]
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    await service.open()
    serving = asyncio.create_task(listener.serve(sockets))
    server = Server(url, None, chosen.data_dir)  # type: ignore[arg-type] - it is this process
    try:
        # One of each, so that what is made once has been made.
        for route in (HTTP, LEGACY_SSE):
            async with connected(server, route) as client:
                await client.list_tools()
        yield server, observed
    finally:
        listener.should_exit = True
        await serving
        await service.close()
