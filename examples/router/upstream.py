"""The router's connection to flux-mcp: over HTTP, or to a command over its stdin and stdout.

Start reading at `Upstream`; the two transports above it are what it opens.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client, types
from mcp.client import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.message import SessionMessage
from mcp.types.version import LATEST_MODERN_VERSION
from pydantic import BaseModel, ConfigDict

logger = logging.getLogger("router.upstream")

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 60.0
"""The SDK's servers send a ping every 15 s; four missing ones mean that the peer is gone."""
BEFORE_SENDING = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    OSError,  # the file of the token
    UnicodeError,  # what is in it
)
UNSENT = "unsent"
"""Marks a failure before flux-mcp received the request: repeating it is safe."""
MAX_REASON = 500
"""Characters of an HTTP error's text that are passed on."""

Streams = tuple[Any, Any]
Transport = Callable[[], AbstractAsyncContextManager[Streams]]


class UpstreamError(Exception):
    """flux-mcp did not answer. The text says whether it may have received the request."""


class Verbatim(BaseModel):
    """A result with any fields: nothing is parsed, and nothing is lost."""

    model_config = ConfigDict(extra="allow")


class PatientTransport(httpx2.AsyncHTTPTransport):
    """HTTP to flux-mcp, where a failure is the answer to the one request that met it.

    By default the SDK's client ends at the first refused connection, together with every other
    running call, and does not report a 401.

    Args:
        token: Read for each request, so a token that changes needs no restart.
    """

    def __init__(self, token: Callable[[], str | None]) -> None:
        # A waiting call holds its connection: a limit would be one on waiting calls.
        super().__init__(limits=httpx2.Limits(max_connections=None), trust_env=False)
        self._token = token

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; return flux-mcp's answer, or say in JSON-RPC why there is none."""
        try:
            if secret := self._token():
                request.headers["Authorization"] = f"Bearer {secret}"
            response = await super().handle_async_request(request)
        except BEFORE_SENDING as error:
            return failed(first_line_of(error), UNSENT)
        except httpx2.TransportError as error:
            return failed(first_line_of(error))
        if response.status_code < httpx2.codes.BAD_REQUEST:
            return response
        text = (await response.aread()).decode(errors="replace")
        if '"jsonrpc"' in text:
            return response  # an error of flux-mcp's own
        reason = f"{response.status_code} {text[:MAX_REASON]}".rstrip()
        return failed(reason, UNSENT if response.is_client_error else None)


def failed(reason: str, data: Any = None) -> httpx2.Response:
    """Return the JSON-RPC error that the SDK delivers to the waiting call."""
    error = types.ErrorData(code=types.CONNECTION_CLOSED, message=reason, data=data)
    body = types.JSONRPCError(jsonrpc="2.0", id=None, error=error)
    return httpx2.Response(httpx2.codes.BAD_GATEWAY, json=body.model_dump(mode="json"))


@asynccontextmanager
async def http_transport(url: str, token: Callable[[], str | None]) -> AsyncIterator[Streams]:
    """Talk to flux-mcp at `url`."""
    timeout = httpx2.Timeout(CONNECT_TIMEOUT_S, read=SILENCE_TIMEOUT_S)
    async with (
        # Without the environment: a proxy named there must not see the token.
        httpx2.AsyncClient(
            transport=PatientTransport(token), timeout=timeout, trust_env=False
        ) as http,
        # The SDK's limit of 1 MiB for an event is near the size of the largest results.
        streamable_http_client(url, http_client=http, max_sse_event_size=None) as streams,
    ):
        yield streams


@asynccontextmanager
async def command_transport(command: list[str]) -> AsyncIterator[Streams]:
    """Start flux-mcp and talk to it over stdin and stdout; it ends with the connection.

    When the command exits, this ends with an error. By itself the SDK would keep a connection on
    which every call fails.
    """
    # The SDK passes on only a few variables, which do not include flux-mcp's settings.
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with stdio_client(parameters) as (reads, writes), anyio.create_task_group() as tasks:
        sender, receiver = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def pump() -> None:
            async with sender:
                async for message in reads:
                    await sender.send(message)
            raise ConnectionError("the command has ended")

        tasks.start_soon(pump)
        yield receiver, writes
        tasks.cancel_scope.cancel()


class Upstream:
    """The one connection to flux-mcp: opened by the first call, and again after it was lost.

    The SDK's client must be left by the task that entered it. Calls come and go in tasks of their
    own: one more task holds the client for all of them.

    Args:
        name: The name of flux-mcp for users: its URL or its command.
        transport: Opens the streams to it.
    """

    def __init__(self, name: str, transport: Transport) -> None:
        self._name = name
        self._transport = transport
        self._holder: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[ClientSession] | None = None
        self._ending = asyncio.Event()

    async def send(
        self, method: str, params: dict[str, Any], progress: ProgressFnT | None = None
    ) -> Verbatim:
        """Send a request and return its result unchanged; cancelling this cancels the request.

        Raises:
            UpstreamError: flux-mcp cannot be reached, or its connection broke meanwhile.
            MCPError: flux-mcp's own answer.
        """
        session = await self._session()
        request = types.Request[dict[str, Any], str](method=method, params=params)
        try:
            return await session.send_request(request, Verbatim, progress_callback=progress)
        except MCPError as error:
            if error.code != types.CONNECTION_CLOSED:
                raise
            if error.data == UNSENT:
                raise self._unreachable(error.message) from error
            raise UpstreamError(
                f"[upstream_lost] flux-mcp did not answer ({error.message}). If this was a request "
                "for an image, the job may be in its queue: check with flux_get_job and "
                "flux_search_gallery before you call again."
            ) from error

    async def close(self) -> None:
        """Close the connection; waiting calls end with an UpstreamError."""
        self._ending.set()
        if self._holder is not None:
            await self._holder

    async def _session(self) -> ClientSession:
        if self._ending.is_set():
            raise UpstreamError("[router_ending] The router is being stopped. Call again later.")
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
            holding = self._hold(self._opened, self._holder)
            self._holder = asyncio.create_task(holding, name="upstream")
        # Shielded: others may wait for the same opening when this call is cancelled.
        return await asyncio.shield(self._opened)

    async def _hold(
        self, opened: asyncio.Future[ClientSession], before: asyncio.Task[None] | None
    ) -> None:
        """Keep a client open until `close`, or until its connection is lost."""
        if before is not None:
            await before  # a lost command may still be exiting
        try:
            # Fixed, not negotiated: in this revision, closing a request's stream cancels it.
            async with Client(
                self._transport(),
                mode=LATEST_MODERN_VERSION,
                cache=None,
                # Many programs have the SDK's name; who has it is sent what suits all of them.
                client_info=types.Implementation(name="router", version="1"),
            ) as client:
                opened.set_result(client.session)
                try:
                    await self._ending.wait()
                finally:
                    self._forget(opened)  # at once: leaving the client may take seconds
        except Exception as error:  # noqa: BLE001 - after any error the next call connects again
            self._forget(opened)
            logger.warning("lost flux-mcp (%s): %s", self._name, first_line_of(error))
            if not opened.done():
                opened.set_exception(self._unreachable(first_line_of(error)))

    def _forget(self, opened: asyncio.Future[ClientSession]) -> None:
        if self._opened is opened:
            self._opened = None

    def _unreachable(self, reason: str) -> UpstreamError:
        return UpstreamError(
            f"[upstream_unreachable] The request did not reach flux-mcp ({self._name}): {reason}. "
            "See that it runs there; for a 401 give the router its token with --token-file or in "
            "FLUX_MCP_TOKEN. Then call again."
        )


def first_line_of(error: BaseException) -> str:
    """Return the text of an error, without the exception groups around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
