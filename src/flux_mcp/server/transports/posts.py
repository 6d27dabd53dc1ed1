"""POST requests of the MCP routes: a body that is no message is answered here, before the SDK.

The SDK reads a body in three ways, one for each transport. It takes a request whose id is none for
a notification and accepts it without an answer, sends back an account of its own models, or writes
the body into the log.
"""

import logging
from collections import deque
from collections.abc import Iterable

from mcp.types import PARSE_ERROR
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux_mcp.server.transports.messages import BOM, Refused, read_message

logger = logging.getLogger(__name__)

_EMPTY = Refused(PARSE_ERROR, "[invalid_request] The body is empty.", "unknown", None)


class OnlyMessages:
    """ASGI application: passes on what is a message, and all that is no POST.

    Args:
        app: Reads the messages.
        max_body_bytes: A longer body is passed on, for the application to refuse.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        come = [await receive()]
        size_bytes = _size(come[-1])
        while come[-1].get("more_body") and size_bytes <= self._max_bytes:
            come.append(await receive())
            size_bytes += _size(come[-1])
        if size_bytes <= self._max_bytes and not come[-1].get("more_body"):
            body = b"".join(message.get("body", b"") for message in come)
            found = read_message(body) or _EMPTY
            if isinstance(found, Refused):
                await _refused(found)(scope, receive, send)
                return
            del found  # a large image is not kept twice
            come = [{"type": "http.request", "body": body.removeprefix(BOM), "more_body": False}]
        await self._app(scope, _after(come, receive), send)


def _size(message: Message) -> int:
    return len(message.get("body", b""))


def _after(come: Iterable[Message], receive: Receive) -> Receive:
    """Return what reads the messages that have come already, and then the others."""
    waiting = deque(come)

    async def read() -> Message:
        return waiting.popleft() if waiting else await receive()

    return read


def _refused(refused: Refused) -> Response:
    logger.info("a body that is no message was refused", extra={"code": refused.code})
    content = refused.error.model_dump_json(by_alias=True, exclude_unset=True)
    return Response(content, 400, media_type="application/json")
