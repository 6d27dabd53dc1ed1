"""Bodies of HTTP requests: how long they may take to come, and how much of them is kept at once.

A body is kept in memory until its request is answered. What it says of its length is set aside for
it before anything is read, so that a request is refused whole rather than in its middle.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from flux_mcp.errors import BodiesFullError, BodyTimeoutError
from flux_mcp.server.transports.shares import Shares

STALL_S = 20.0
"""How long a sender may pause in the middle of a body."""
_MIB = 1024 * 1024


class Bodies:
    """What is kept of all bodies at the same time.

    Args:
        shares: Bytes, and how they are divided between callers.
        max_bytes: Of one body; a longer one is refused by who reads it, and nothing is set aside.
        timeout_s: From the headers of a request to the end of its body.
        stall_s: How long no more of it may come.
    """

    def __init__(
        self, shares: Shares, max_bytes: int, timeout_s: float, stall_s: float = STALL_S
    ) -> None:
        self._shares = shares
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._stall_s = stall_s

    @contextmanager
    def received(
        self, scope: Scope, receive: Receive, principal: str, on_refused: Callable[[], None]
    ) -> Iterator[Receive]:
        """Give what reads the body of a request, which is kept until the end of the block.

        Args:
            scope: The request's.
            receive: Reads from the connection.
            principal: Whose it is.
            on_refused: Called before an error is raised in the middle of the body, because who
                reads would answer something of its own first.

        Raises:
            BodiesFullError: too much is kept already. Reading raises it too, where the length was
                not said before.
            BodyTimeoutError: from reading: it does not come in time.
            ClientDisconnect: from reading: the client left in the middle of it.
        """
        body = _Body(self._shares, principal, receive, scope["method"] == "POST", on_refused)
        body.deadlines(self._timeout_s, self._stall_s)
        try:
            declared = _declared_bytes(scope)
            if declared <= self._max_bytes:
                body.set_aside(declared)
            yield body.read
        finally:
            body.forget()


class _Body:
    def __init__(
        self,
        shares: Shares,
        principal: str,
        receive: Receive,
        must_be_whole: bool,  # noqa: FBT001 - private
        on_refused: Callable[[], None],
    ) -> None:
        self._shares = shares
        self._principal = principal
        self._receive = receive
        self._must_be_whole = must_be_whole
        self._on_refused = on_refused
        self._is_whole = False
        self._kept_bytes = 0
        self._come_bytes = 0

    def deadlines(self, timeout_s: float, stall_s: float) -> None:
        self._until = time.monotonic() + timeout_s
        self._stall_s = stall_s

    def set_aside(self, size_bytes: int) -> None:
        if size_bytes and not self._shares.take(self._principal, size_bytes):
            limit_mib = self._shares.limit(self._principal) // _MIB
            raise BodiesFullError(
                f"The requests that are open already hold too much; {limit_mib} MiB of one caller "
                "may be kept at the same time.",
                "Try again when they are answered. Images that are in the gallery can be given "
                "by id.",
            )
        self._kept_bytes += size_bytes

    def forget(self) -> None:
        if self._kept_bytes:
            self._shares.give_back(self._principal, self._kept_bytes)
        self._kept_bytes = 0

    async def read(self) -> Message:
        if self._is_whole:
            return await self._receive()
        left_s = self._until - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(self._stall_s, left_s))):
                message = await self._receive()
        except TimeoutError:
            self._on_refused()
            raise BodyTimeoutError(
                "The body of the request did not come in time.",
                "Send it without pauses; over a slow line, images that are smaller.",
            ) from None
        if message["type"] != "http.request":
            if self._must_be_whole:
                # The SDK would log it as an error.
                raise ClientDisconnect
            return message
        self._come_bytes += len(message.get("body", b""))
        if self._come_bytes > self._kept_bytes:
            try:
                self.set_aside(self._come_bytes - self._kept_bytes)
            except BodiesFullError:
                self._on_refused()
                raise
        self._is_whole = not message.get("more_body", False)
        return message


def _declared_bytes(scope: Scope) -> int:
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if len(values) == 1 and values[0].isdigit() else 0
