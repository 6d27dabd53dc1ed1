"""A page on 127.0.0.1 on which the user gives one image: dropped, pasted, chosen, photographed.

It is there for one image, or until its time is up, under a path that nobody can guess. The same
guard stands in front of it as of the HTTP server: a page of another site can neither show it nor
send to it.
"""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from flux_mcp.errors import AddressError
from flux_mcp.server.transports.bodies import Bodies
from flux_mcp.server.transports.guard import LOOPBACK_NAMES, Admission, Guard
from flux_mcp.server.transports.images import FORM_BYTES, upload_route
from flux_mcp.server.transports.shares import Shares
from flux_mcp.server.transports.tokens import Tokens
from flux_mcp.service.answers import UploadAnswer
from flux_mcp.service.service import Service

OPEN_S = 600.0
"""How long a page waits for its image."""
_PAGE = Path(__file__).with_name("ask_page.html")
_HOST = "127.0.0.1"
_REQUESTS_PER_S = 20.0
_REQUESTS = 16
_DRAIN_S = 5
"""How long the answer about the image may take to be read."""
_POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class AskPage:
    """A page that listens; made by `open_page`.

    Args:
        service: Takes the image in.
        listener: On 127.0.0.1.
        open_s: How long it waits for the image.
    """

    def __init__(self, service: Service, listener: socket.socket, open_s: float) -> None:
        self.token = secrets.token_urlsafe(16)
        self.url = f"http://{_HOST}:{listener.getsockname()[1]}/{self.token}"
        self.arrived: asyncio.Future[UploadAnswer] = asyncio.get_running_loop().create_future()
        config = uvicorn.Config(
            self._guarded(service),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_S,
            ws="none",
        )
        self._server = _PageListener(config)
        self._serving = asyncio.create_task(self._serve(listener, open_s), name="flux-mcp-ask")

    def close(self) -> None:
        """End the page; what it has not got by now it does not get."""
        if not self.arrived.done():
            self.arrived.cancel()

    async def closed(self) -> None:
        """Return when nothing listens any more."""
        await asyncio.wait({self._serving})

    async def _serve(self, listener: socket.socket, open_s: float) -> None:
        serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        first: set[asyncio.Future[Any]] = {self.arrived, serving}
        await asyncio.wait(first, timeout=open_s, return_when=asyncio.FIRST_COMPLETED)
        self.close()
        self._server.should_exit = True
        await serving

    def _guarded(self, service: Service) -> Guard:
        path, settings = f"/{self.token}", service.settings
        most_bytes = settings.max_image_bytes + FORM_BYTES

        async def show(_: Request) -> Response:
            nonce = secrets.token_urlsafe(16)
            text = await asyncio.to_thread(_PAGE.read_text, encoding="utf-8")
            policy = {"content-security-policy": _POLICY.format(nonce=nonce)}
            return HTMLResponse(text.replace("NONCE", nonce), headers=policy)

        def answered(request: Request, answer: UploadAnswer) -> Response:
            # Two may come at once: the first is the image.
            if not self.arrived.done():
                self.arrived.set_result(answer)
            if "text/html" in request.headers.get("accept", ""):
                return HTMLResponse("<!doctype html><p>Thank you. This page can be closed.", 201)
            return JSONResponse(answer.model_dump(mode="json"), 201)

        return Guard(
            Starlette(
                routes=[
                    Route(path, endpoint=show, methods=["GET"]),
                    upload_route(path, service, "page", answered),
                ]
            ),
            # Who knows the path was given it.
            Admission(LOOPBACK_NAMES, frozenset(), Tokens({}), without_token=True),
            _REQUESTS_PER_S,
            Shares(_REQUESTS, _REQUESTS),
            Bodies(Shares(2 * most_bytes, most_bytes), most_bytes, settings.body_timeout_s),
            service.operations.traffic,
        )


class _PageListener(uvicorn.Server):
    """uvicorn, which leaves signals to the server that the page is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


async def open_page(service: Service, open_s: float = OPEN_S) -> AskPage:
    """Open a page for one image.

    Args:
        service: Takes the image in.
        open_s: How long it waits for the image.

    Raises:
        AddressError: no port of this machine can be listened on.
    """
    try:
        listener = socket.create_server((_HOST, 0))
    except OSError as error:
        raise AddressError(f"No page can be opened on {_HOST}: {error}.") from error
    return AskPage(service, listener, open_s)
