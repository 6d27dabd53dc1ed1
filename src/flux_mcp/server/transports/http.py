"""The HTTP server: streamable HTTP at /mcp, the older SSE transport, images, and the guard.

One service and one MCP server answer all clients, however many connect. Sessions are kept by the
SDK and by sessions.py.
"""

import asyncio
import ctypes
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType

import uvicorn
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from flux_mcp import __version__
from flux_mcp.errors import AddressError, StorageError
from flux_mcp.principals import LOCAL
from flux_mcp.server.app import FluxServer, build_server
from flux_mcp.server.transports.bodies import Bodies
from flux_mcp.server.transports.connections import (
    ConnectionLimits,
    Connections,
    allowed_descriptors,
    connection_limits,
)
from flux_mcp.server.transports.guard import Guard, RequestCounts, admission
from flux_mcp.server.transports.images import image_routes
from flux_mcp.server.transports.pace import paced
from flux_mcp.server.transports.posts import OnlyMessages
from flux_mcp.server.transports.sessions import Sessions
from flux_mcp.server.transports.shares import Shares
from flux_mcp.server.transports.stdio import DRAIN_S, ENDING_SIGNALS, end_at_once_next_time
from flux_mcp.server.transports.tokens import load_tokens, token_file
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

logger = logging.getLogger(__name__)

MCP_PATH, SSE_PATH, MESSAGES_PATH = "/mcp", "/sse", "/messages/"
HEALTH_PATH, METRICS_PATH = "/healthz", "/metrics"
SWITCH_INTERVAL_S = 0.0005
"""How long a thread keeps the interpreter while another wants it; Python's own default is 5 ms."""
FULL_COLLECTION_EVERY = 100
"""Collections of the middle generation before a full one; Python's own default is 10."""
_M_ARENA_MAX = -8  # malloc.h of glibc


# --- the application ---------------------------------------------------------------------------


def build_http_app(
    service: Service,
    server: FluxServer,
    tally: RequestCounts | None = None,
    sessions: Sessions | None = None,
    limits: ConnectionLimits | None = None,
) -> Guard:
    """Return the guarded application of a server.

    Args:
        service: Settings, health and metrics.
        server: Answers the clients.
        tally: Counts requests, instead of the service's own metrics.
        sessions: Those of streamable HTTP, instead of new ones with the usual limits.
        limits: How many connections there may be, which callers share.

    Raises:
        TokenFileError: there is no usable file of tokens, and none can be made.
    """
    settings = service.settings
    sessions = sessions or Sessions(
        server, settings.max_body_bytes, max_of_one=settings.max_sessions
    )
    limits = limits or connection_limits(settings.max_connections, allowed_descriptors())
    most_bytes = max(settings.max_bodies_bytes, settings.max_body_bytes)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        announcing = asyncio.create_task(server.announce_changes(), name="flux-mcp-announce")
        async with sessions.run():
            yield
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)

    routes: list[BaseRoute] = [*operations_routes(service), *image_routes(service)]
    if settings.transport != "sse":
        app = OnlyMessages(StreamableHTTPASGIApp(sessions), settings.max_body_bytes)
        routes.append(Route(MCP_PATH, endpoint=app))
    if settings.transport == "sse" or settings.sse:
        routes += _sse_routes(server, settings.max_body_bytes)
    return Guard(
        Starlette(routes=routes, lifespan=lifespan),
        admission(settings, load_tokens(settings)),
        settings.requests_per_s,
        Shares(limits.total, min(settings.max_requests, limits.total // 2), settings.max_requests),
        Bodies(
            Shares(most_bytes, max(most_bytes // 2, settings.max_body_bytes)),
            settings.max_body_bytes,
            settings.body_timeout_s,
        ),
        tally or service.operations.traffic,
    )


def _sse_routes(server: FluxServer, max_body_bytes: int) -> list[BaseRoute]:
    transport = SseServerTransport(
        MESSAGES_PATH,
        # The guard in front has checked Host and Origin.
        TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_body_bytes,
    )

    async def listen(request: Request) -> Response:
        # The SDK's transport writes the answer itself.
        client = transport.connect_sse(request.scope, request.receive, request._send)  # noqa: SLF001
        await server.serve_streams(paced(client))
        return Response()

    return [
        Route(SSE_PATH, endpoint=listen, methods=["GET"]),
        Mount(MESSAGES_PATH, app=OnlyMessages(transport.handle_post_message, max_body_bytes)),
    ]


def operations_routes(service: Service) -> list[BaseRoute]:
    """Return the routes; the guard stands in front of them as of every other."""

    async def healthz(_: Request) -> Response:
        answer = await service.operations.health()
        return JSONResponse(answer.model_dump(), status_code=answer.http_status)

    async def metrics(request: Request) -> Response:
        # A name sees its own jobs only, and this counts everybody's.
        if request.user.access_token.client_id != LOCAL:
            raise HTTPException(403, "/metrics is for a token without a name.")
        text, content_type = await service.operations.metrics()
        return Response(text, headers={"content-type": content_type})

    return [Route(HEALTH_PATH, endpoint=healthz), Route(METRICS_PATH, endpoint=metrics)]


# --- serving -----------------------------------------------------------------------------------


def serve_http(service: Service, server: FluxServer | None = None) -> None:
    """Listen and serve until a signal comes; then close the service.

    Args:
        service: Not yet open; closed at the end.
        server: Another server than the product's own, over the same service.

    Raises:
        AddressError: the address cannot be listened on.
        TokenFileError: there is no usable file of tokens.
    """
    settings = service.settings
    share_interpreter()
    share_heap()
    server = server or build_server(service)
    limits = connection_limits(settings.max_connections, allowed_descriptors())
    if limits.total < settings.max_connections:
        logger.warning(
            "few open files are allowed (ulimit -n), so few connections are",
            extra={"max_connections": limits.total},
        )
    app = build_http_app(service, server, limits=limits)
    listener = _listen(settings, limits.backlog)
    host, port = listener.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def announce() -> None:
        logger.info(
            "serving",
            extra={
                "transport": settings.transport,
                "address": where,
                "data_dir": str(settings.data_dir),
                "version": __version__,
            },
        )
        if not settings.loopback_without_token and settings.token is None:
            logger.info("callers send a token", extra={"token_file": str(token_file(settings))})

    asyncio.run(_serve(service, server, app, listener, Connections(limits), announce))


async def _serve(
    service: Service,
    server: FluxServer,
    app: Guard,
    listener: socket.socket,
    connections: Connections,
    announce: Callable[[], None],
) -> None:
    config = uvicorn.Config(
        app,
        # Called with what uvicorn gives a class of protocols.
        http=connections,  # type: ignore[arg-type]
        backlog=connections.limits.backlog,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
        ws="none",
    )
    settling = asyncio.create_task(_settle(service, server), name="flux-mcp-settle")
    watching = asyncio.create_task(connections.watch(), name="flux-mcp-connections")
    try:
        await _Listener(config, server, announce).serve(sockets=[listener])
    finally:
        settling.cancel()
        watching.cancel()
        await asyncio.gather(settling, watching, return_exceptions=True)
        await service.close()


async def _settle(service: Service, server: FluxServer) -> None:
    """Open the service and load what answers calls; then all that stays is there."""
    with suppress(StorageError):  # whoever calls first gets it as the answer
        await service.open()
    await server.load()
    settle()


class _Listener(uvicorn.Server):
    """uvicorn, which answers the calls that are open before it cuts anybody off.

    The first signal ends the server in order, the second at once.
    """

    def __init__(
        self, config: uvicorn.Config, server: FluxServer, announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._server = server
        self._announce = announce
        self._told: int | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as long as this serves. uvicorn's own raises them again afterwards."""
        for number in ENDING_SIGNALS:
            signal.signal(number, self.handle_exit)
        # Only now: whoever reads the line may send a signal at once.
        self._announce()
        yield
        end_at_once_next_time()

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        """Take a signal; what it asks for is done at the next tick."""
        if self._told is not None:
            end_at_once_next_time()
            signal.raise_signal(sig)
        self._told = sig

    async def on_tick(self, counter: int) -> bool:
        """Begin to end, if that was asked for; return whether to stop listening."""
        if self._told is not None:
            logger.info("received a signal, shutting down")
            await self._server.finish_calls(DRAIN_S)
            # Streams of events end with this: their library watches uvicorn's own handler.
            super().handle_exit(self._told, None)
        return await super().on_tick(counter)


def _listen(settings: Settings, backlog: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        listener = socket.create_server(address, family=family, backlog=backlog)
    except (OSError, OverflowError) as error:
        raise AddressError(
            f"{settings.host}, port {settings.port}, cannot be listened on: {error}.",
            "Another server may be there already; choose another port with --port.",
        ) from error
    # Connections inherit it. asyncio sets it itself only where it made the socket (`_set_nodelay`
    # asks for proto TCP); without it the second half of an answer waits 40 ms for the first to be
    # acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


# --- the process -------------------------------------------------------------------------------


def share_interpreter() -> None:
    """Let the database's thread have the interpreter soon, however busy the event loop is.

    SQLite gives the interpreter up and asks for it again for each row. With Python's default, a
    search of 20 rows waited up to twenty times 5 ms beside a loop that was never idle: the "convoy
    effect" of github.com/python/cpython/issues/52194.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def share_heap() -> None:
    """Have all threads allocate from one heap; call it before there are threads.

    glibc gives each thread a heap of its own, up to eight for each core (mallopt(3),
    `M_ARENA_MAX`), and keeps in each what its thread needed most: decoded images. Elsewhere
    nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Make full collections short and rare; call it when all is imported.

    The 200,000 objects of our modules and libraries stay for ever: they are left out from now on. A
    full collection that looked at each of them stopped every client for a tenth of a second, every
    few seconds. One of what remains, the connections of 200 clients, takes 50 ms; it found two
    thousand objects, so it can come ten times less often. Younger ones are collected as before.
    """
    gc.collect()
    gc.freeze()
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, FULL_COLLECTION_EVERY)
