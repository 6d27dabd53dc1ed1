"""Connections: how many there may be, and how long each may do nothing.

uvicorn keeps whatever connects for as long as it likes, and when no file descriptor is left, the
event loop logs each connection that it cannot accept; by then nothing else can open a file either.
So the number of connections leaves descriptors for everything else, a connection that waits without
a request makes room for a new one, and one that neither sends a request nor takes its answer is
closed.
"""

import asyncio
import json
import logging
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from flux_mcp.observability.logs import Repeats

logger = logging.getLogger(__name__)

HEADER_S = 10.0
"""From the connection, or the answer before, to the end of the next request's headers."""
UNREAD_S = 30.0
"""How long a client may take nothing of an answer that waits for it."""
LOOK_S = 1.0
"""How often to look for connections that are due."""
PER_ADDRESS = 0.75
"""Of all connections, those of one address; all clients of this machine, or of a proxy, have
the same."""
RESERVED_DESCRIPTORS = 96
"""For the database, its log and locks, the worker's pipes, and the files of images. A server has
13 at rest and 16 after its first job; each image that is being read or written needs some more."""
MOST_BACKLOG, LEAST_CONNECTIONS = 256, 8

REPEATING = (
    __name__,
    f"{__package__}.guard",
    f"{__package__}.sessions",
    "uvicorn.error",
    "asyncio",
)
"""Loggers of what a client can make happen as often as it likes."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections a process may have.

    Attributes:
        total: Open at the same time.
        per_address: Of one client's address.
        backlog: Accepted in one go; each has a descriptor before it is counted.
    """

    total: int
    per_address: int
    backlog: int


def connection_limits(max_connections: int, descriptors: int | None) -> ConnectionLimits:
    """Return the limits of a process.

    Args:
        max_connections: The setting.
        descriptors: How many file descriptors it may have; `None`: as many as it likes.
    """
    if descriptors is None:
        backlog, total = MOST_BACKLOG, max_connections
    else:
        backlog = max(1, min(MOST_BACKLOG, descriptors // 8))
        # Twice the backlog: those that were accepted, and those that are about to be closed.
        total = min(max_connections, descriptors - RESERVED_DESCRIPTORS - 2 * backlog)
    total = max(LEAST_CONNECTIONS, total)
    return ConnectionLimits(total, max(1, int(PER_ADDRESS * total)), backlog)


def allowed_descriptors() -> int | None:
    """Return how many file descriptors this process may have; `None` means any number."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - POSIX only

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class Connections:
    """The open connections of one server.

    Args:
        limits: How many.
        header_s: How long each may take to send the headers of a request.
        unread_s: How long it may take nothing of its answer.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        *,
        header_s: float = HEADER_S,
        unread_s: float = UNREAD_S,
    ) -> None:
        self.limits = limits
        self._header_s = header_s
        self._unread_s = unread_s
        self._open: dict[Connection, None] = {}
        self._of: Counter[str] = Counter()

    def __call__(self, **arguments: Any) -> "Connection":
        """Return the protocol of a new connection; uvicorn calls this as a class."""
        return Connection(self, **arguments)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def admit(self, new: "Connection") -> bool:
        """Count a new connection; another that waits may have to make room for it.

        Returns:
            Whether there was room.
        """
        if self._of[new.address] >= self.limits.per_address:
            victims: Iterator[Connection] = self._waiting(new.address)
        elif len(self._open) >= self.limits.total:
            # Whoever has most of them makes room first.
            waiting = Counter(each.address for each in self._waiting())
            victims = self._waiting(waiting.most_common(1)[0][0] if waiting else None)
        else:
            self._count(new)
            return True
        oldest = min(victims, key=lambda each: each.since_s, default=None)
        if oldest is None:
            logger.warning("too many connections: one was refused")
            return False
        logger.warning("too many connections: one without a request was closed")
        oldest.cut()
        self._count(new)
        return True

    def forget(self, connection: "Connection") -> None:
        """Count a connection no longer."""
        if connection in self._open:
            del self._open[connection]
            self._of[connection.address] -= 1
            if not self._of[connection.address]:
                del self._of[connection.address]

    async def watch(self) -> None:
        """Close connections that are due, until cancelled; one line of the log for many."""
        repeats = [Repeats(logging.getLogger(name)) for name in REPEATING]
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self.close_due(time.monotonic())
                for each in repeats:
                    each.tell(time.time())
        finally:
            for each in repeats:
                each.close()

    def close_due(self, now_s: float) -> None:
        """Close connections that took too long, by a monotonic clock."""
        for each in list(self._open):
            if each.is_waiting and now_s - each.since_s > self._header_s:
                logger.info("a connection without a request was closed")
                each.close_late()
            elif now_s - each.moved_s(now_s) > self._unread_s:
                logger.info("a connection that reads no answers was closed")
                each.cut()

    def _count(self, new: "Connection") -> None:
        self._open[new] = None
        self._of[new.address] += 1

    def _waiting(self, address: str | None = None) -> "Iterator[Connection]":
        return (
            each
            for each in self._open
            if each.is_waiting and (address is None or each.address == address)
        )


class Connection(H11Protocol):
    """uvicorn's connection, which is counted and watched.

    Args:
        connections: Counts it.
        arguments: uvicorn's.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._all = connections
        self.address = ""
        self.since_s = 0.0
        """When it began to wait for a request."""
        self._has_part = False
        self._unread_bytes = 0
        self._has_resumed = False
        self._moved_s = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self._begun is None or self._begun.response_complete

    @property
    def _begun(self) -> RequestResponseCycle | None:
        """The newest request; uvicorn's type leaves out that there may be none yet."""
        return cast("RequestResponseCycle | None", self.cycle)

    def moved_s(self, now_s: float) -> float:
        """Return when its client last took something of an answer, or there was nothing to take."""
        unread_bytes = self.transport.get_write_buffer_size()
        # What was taken may have been filled up again since the last look, and with more.
        if not unread_bytes or unread_bytes < self._unread_bytes or self._has_resumed:
            self._moved_s = now_s
        self._unread_bytes, self._has_resumed = unread_bytes, False
        return self._moved_s

    def close_late(self) -> None:
        """Close it, with an answer if a part of a request has come."""
        if self._has_part and self._begun is None:
            self._answer(408, "request_timeout", "The request did not come in time.", {})
        self.transport.close()

    def cut(self) -> None:
        """Close it at once, without what is not sent yet; the system forgets that too."""
        self._all.forget(self)
        link = self.transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # --- asyncio and uvicorn -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.since_s = self._moved_s = time.monotonic()
        if not self._all.admit(self):
            text = "This server has as many connections as it may. Try again in a moment."
            self._answer(503, "too_many_open", text, {"retry-after": "1"})
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless the connection is refused."""
        if self.transport.is_closing():
            return
        self._has_part = True
        super().data_received(data)

    def resume_writing(self) -> None:
        """Go on, since its client took enough of what was written."""
        self._has_resumed = True
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.since_s = time.monotonic()
        super().on_response_complete()

    def _answer(self, status: int, code: str, message: str, headers: dict[str, str]) -> None:
        """Write an answer without a request, which no application sees."""
        body = json.dumps({"error": {"code": code, "message": message, "hint": ""}}).encode()
        phrase = {408: "Request Timeout", 503: "Service Unavailable"}[status]
        fields = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n".encode() + body)
