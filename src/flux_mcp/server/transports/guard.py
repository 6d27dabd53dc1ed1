"""Guard: the ASGI application in front of every route of the HTTP server.

`Admission` decides from the headers whom a request comes from: the Host must be a name of this
server, an Origin a page that may call it, and the bearer token one that it knows. `Guard` applies
that, limits how many requests a caller sends and has open, and answers what it refuses.
"""

import ipaddress
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux_mcp.errors import (
    AccessError,
    HostRefusedError,
    OriginRefusedError,
    RateLimitedError,
    TooManyOpenError,
    UnauthorizedError,
)
from flux_mcp.principals import LOCAL
from flux_mcp.server.transports.bodies import Bodies
from flux_mcp.server.transports.shares import Shares
from flux_mcp.server.transports.tokens import Tokens
from flux_mcp.settings.settings import Settings

logger = logging.getLogger(__name__)

MINUTE_S = 60
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    # What we answer is read by programs: no browser has to guess, frame, load, keep or refer to it.
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_GONE = (
    ClientDisconnect,
    # Of SSE: the message was accepted, and the stream on which it would be answered is closed.
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
)
LOOPBACK_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_SCHEMES = ("http", "https")
REFUSING = "flux_mcp.refusing"
"""Key of the scope: what to call before raising an `AccessError`, which Starlette would answer."""
_BEARER = "bearer"

Headers = Sequence[tuple[bytes, bytes]]


# --- whose a request is ------------------------------------------------------------------------


@dataclass(frozen=True)
class Admission:
    """Decides who a request comes from.

    Args:
        names: Names under which this server may be reached, lower case, without ports.
        origins: Origins of pages that may call, besides those of `names`.
        tokens: Whose token is whose.
        without_token: Whether a request without a token is the owner's. Only on loopback.
    """

    names: frozenset[str]
    origins: frozenset[str]
    tokens: Tokens
    without_token: bool = False

    def principal(self, headers: Headers) -> str:
        """Return on whose behalf a request comes.

        Raises:
            HostRefusedError: it was sent to a name that is not ours.
            OriginRefusedError: a web page of somewhere else sent it.
            UnauthorizedError: it has no token, more than one, or one that nobody has.
        """
        self._check_host(_values(headers, b"host"))
        self._check_origin(_values(headers, b"origin"))
        return self._owner_of(_values(headers, b"authorization"))

    def _check_host(self, values: Sequence[str]) -> None:
        if len(values) != 1 or _host_name(values[0]) not in self.names:
            raise HostRefusedError(
                "This server does not answer under the name in the Host header.",
                "Use 127.0.0.1 or localhost, or add the name to the setting allowed_hosts.",
            )

    def _check_origin(self, values: Sequence[str]) -> None:
        if not values:
            return  # not a browser
        if len(values) != 1 or not self._is_ours(values[0]):
            raise OriginRefusedError(
                "Web pages of that origin may not call this server.",
                "If you trust the page, add its origin to the setting allowed_origins.",
            )

    def _is_ours(self, origin: str) -> bool:
        if origin.lower() in self.origins:
            return True
        scheme, slashes, authority = origin.partition("://")
        return bool(slashes) and scheme.lower() in _SCHEMES and _host_name(authority) in self.names

    def _owner_of(self, values: Sequence[str]) -> str:
        if not values and self.without_token:
            return LOCAL
        scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        found = self.tokens.principal_of(token.strip()) if scheme.lower() == _BEARER else None
        if found is None:
            raise UnauthorizedError(
                "A token of this server is needed.",
                "Send the header 'Authorization: Bearer TOKEN'; the tokens are in the file that "
                "the server named when it started.",
            )
        return found


def admission(settings: Settings, tokens: Tokens) -> Admission:
    """Return the admission that the settings describe."""
    names = {name.lower() for name in settings.allowed_hosts} | LOOPBACK_NAMES
    if not is_any_address(settings.host):
        names.add(settings.host.lower())
    origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
    without = settings.loopback_without_token
    return Admission(frozenset(names), frozenset(origins), tokens, without)


def is_any_address(host: str) -> bool:
    """Whether a server bound to it is reached under every address of its machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _host_name(authority: str) -> str | None:
    """Return the name of `name`, `name:port` or `[address]:port`, lower case; `None` if neither."""
    found = _HOST.fullmatch(authority)
    return found.group(1).strip("[]").lower() if found else None


# --- in front of every route -------------------------------------------------------------------


class RequestCounts(Protocol):
    """Counts what the guard sees, for metrics."""

    def opened(self) -> None:
        """Count a request that was admitted."""

    def closed(self) -> None:
        """Count its end."""

    def refused(self, code: str) -> None:
        """Count a request that was not admitted, by the code of its error."""


class Guard:
    """Admits requests, and says whose they are.

    The principal is in `scope["user"]`, where the SDK looks for the credential that a session
    belongs to: a session id in the hands of another caller is worth nothing.

    Args:
        app: What is guarded.
        admission: Decides whose a request is.
        requests_per_s: How many requests a caller may send, over the last minute on average.
        requests: How many callers may have open at the same time, streams too.
        bodies: Reads what they send.
        tally: Counts what is admitted and refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        admission: Admission,
        requests_per_s: float,
        requests: Shares,
        bodies: Bodies,
        tally: RequestCounts,
    ) -> None:
        self._app = app
        self._admission = admission
        self._rate = RateLimitItemPerMinute(max(1, round(requests_per_s * MINUTE_S)))
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._requests = requests
        self._bodies = bodies
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket: the server closes what nobody accepts
        answer = _Response(send)
        try:
            principal = await self._admit(scope)
            with (
                self._counted(principal),
                self._bodies.received(scope, receive, principal, answer.mute) as read,
            ):
                token = AccessToken(token="", client_id=principal, scopes=[])
                inside = {**scope, "user": AuthenticatedUser(token), REFUSING: answer.mute}
                await self._app(inside, read, answer)
                await answer.end()
        except AccessError as error:
            answer.is_muted = False
            self._tally.refused(error.code)
            logger.info("request refused", extra={"code": error.code})
            await _refuse(error, answer)
        except _GONE:
            logger.info("a client disconnected in the middle of its request")

    async def _admit(self, scope: Scope) -> str:
        try:
            principal = self._admission.principal(scope["headers"])
        except AccessError:
            # Who is refused has no name: its address is limited, which slows down guessing.
            client = scope.get("client")
            await self._count(f"address {client[0] if client else 'unknown'}")
            raise
        await self._count(f"principal {principal}")
        return principal

    async def _count(self, caller: str) -> None:
        if not await self._limiter.hit(self._rate, caller):
            raise RateLimitedError(
                f"More than {self._rate.amount} requests in a minute.",
                "Wait a few seconds; flux_get_job waits with wait_s instead of being asked often.",
            )

    @contextmanager
    def _counted(self, principal: str) -> Iterator[None]:
        if not self._requests.take(principal):
            raise TooManyOpenError(
                f"{self._requests.taken(principal)} requests of this caller are open already, of "
                f"at most {self._requests.limit(principal)}.",
                "Close streams that are no longer read, or wait for answers.",
            )
        self._tally.opened()
        try:
            yield
        finally:
            self._requests.give_back(principal)
            self._tally.closed()


class _Response:
    """What is sent to one caller: with our headers, begun once, and ended.

    The library of event streams does not end those that it closes because the server ends, and the
    SDK answers a caller of SSE a second time when its stream has ended.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_begun = False
        self._is_ended = False
        self.is_muted = False

    def mute(self) -> None:
        """Leave out what is answered from now on: the guard answers."""
        self.is_muted = True

    async def __call__(self, message: Message) -> None:
        if self.is_muted:
            return
        if message["type"] == "http.response.start":
            if self._is_begun:
                return
            self._is_begun = True
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            added = [(name, value) for name, value in HEADERS if name not in names]
            message = {**message, "headers": [*given, *added]}
        elif message["type"] == "http.response.body":
            if self._is_ended:
                return
            self._is_ended = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """End an answer that was left open."""
        if self._is_begun:
            await self({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse(error: AccessError, send: Send) -> None:
    body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        # The rest of a body nobody reads must not be taken for the next request.
        (b"connection", b"close"),
        *((name.encode(), value.encode()) for name, value in error.headers),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
