"""Sessions of streamable HTTP, and the events a client missed while its connection was gone.

A client of 2025-11-25 whose connection broke in the middle of a call comes back with the id of the
last event it has seen, and is sent what came after it. Each session has its own `RecentEvents`: the
SDK names streams by request ids, which each client counts from 1.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from mcp.server.streamable_http import (
    GET_STREAM_KEY,
    EventCallback,
    EventId,
    EventMessage,
    EventStore,
    StreamId,
)
from mcp.server.streamable_http_manager import (
    DEFAULT_SESSION_IDLE_TIMEOUT,
    StreamableHTTPSessionManager,
)
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)

from flux_mcp.server.app import FluxServer

RETRY_MS = 1000
"""How soon a client may come back, as it is told."""
MAX_SESSIONS = 500
"""Clients of the older protocol at the same time."""
MAX_EVENTS = 256
MAX_EVENT_BYTES = 2 * 1024 * 1024
"""Of one session: the largest answer, below 1 MiB, twice, and what belongs to it."""
_EVENT_ID = re.compile(r"([0-9]{1,18})-(.+)", re.DOTALL)
_PROGRESS = "notifications/progress"


@dataclass(frozen=True)
class _Event:
    number: int
    stream: StreamId
    text: str
    """The message as JSON: what is counted is what it takes, and a model's objects take more.
    Empty where there is no message."""
    is_progress: bool
    is_answer: bool

    @classmethod
    def of(cls, number: int, stream: StreamId, message: JSONRPCMessage | None) -> "_Event":
        return cls(
            number,
            stream,
            "" if message is None else message.model_dump_json(by_alias=True, exclude_unset=True),
            is_progress=isinstance(message, JSONRPCNotification) and message.method == _PROGRESS,
            is_answer=isinstance(message, JSONRPCResponse | JSONRPCError),
        )

    @property
    def id(self) -> EventId:
        """Its number, and its stream: a client may come back after the event was forgotten."""
        return f"{self.number}-{self.stream}"

    @property
    def message(self) -> JSONRPCMessage | None:
        return jsonrpc_message_adapter.validate_json(self.text) if self.text else None


class RecentEvents(EventStore):
    """The newest events of one session; older ones are forgotten."""

    def __init__(self) -> None:
        self._events: dict[int, _Event] = {}
        self._numbers = count(1)
        self._bytes = 0
        self._progress: dict[StreamId, int] = {}
        self._unanswered: set[StreamId] = set()
        self._stored = asyncio.Event()

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep an event and return its id; the oldest make room for it."""
        event = _Event.of(next(self._numbers), stream_id, message)
        self._follow(event)
        self._events[event.number] = event
        self._bytes += len(event.text)
        while len(self._events) > MAX_EVENTS or (
            self._bytes > MAX_EVENT_BYTES and len(self._events) > 1
        ):
            self._forget(next(iter(self._events)))
        self._stored.set()
        self._stored = asyncio.Event()
        return event.id

    def _follow(self, event: _Event) -> None:
        """Keep account of which streams will still say something."""
        if event.is_answer:
            self._unanswered.discard(event.stream)
            self._progress.pop(event.stream, None)
            return
        self._unanswered.add(event.stream)
        if event.is_progress:
            # Progress is worth nothing once there is newer: answers are not pushed out by it.
            self._forget(self._progress.get(event.stream))
            self._progress[event.stream] = event.number

    def _forget(self, number: int | None) -> None:
        event = None if number is None else self._events.pop(number, None)
        if event is not None:
            self._bytes -= len(event.text)

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Send what came after an event on its stream, and go on until its request is answered.

        To go on is the SDK's part for a stream that is returned from here. It would lose an answer
        that comes between the last look here and its own first; so only the stream that has no
        answer, the one a session listens on, is returned.
        """
        found = _EVENT_ID.fullmatch(last_event_id)
        if found is None:
            return None
        seen, stream = int(found[1]), found[2]
        while True:
            stored = self._stored
            for event in self._after(seen, stream):
                seen = event.number
                message = event.message
                if message is not None:
                    await send_callback(EventMessage(message, event.id))
            if stream == GET_STREAM_KEY:
                return stream
            if stream not in self._unanswered:
                return None
            await stored.wait()

    def _after(self, number: int, stream: StreamId) -> Iterator[_Event]:
        kept = list(self._events.values())
        return (event for event in kept if event.number > number and event.stream == stream)


class Sessions(StreamableHTTPSessionManager):
    """The SDK's sessions of streamable HTTP, both protocol eras, each with events of its own.

    Args:
        server: What is served; run the sessions, then hand them requests.
        max_body_bytes: Of one request.
        max_sessions: Clients of the older protocol at the same time.
        idle_timeout_s: A client of the older protocol is forgotten after so long a silence.
    """

    def __init__(
        self,
        server: FluxServer,
        max_body_bytes: int,
        *,
        max_sessions: int = MAX_SESSIONS,
        idle_timeout_s: float = DEFAULT_SESSION_IDLE_TIMEOUT,
    ) -> None:
        super().__init__(
            server.protocol_server,
            # The guard in front has checked Host and Origin, of every route in the same way.
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            max_request_body_size=max_body_bytes,
            retry_interval=RETRY_MS,
            max_sessions=max_sessions,
            session_idle_timeout=idle_timeout_s,
        )

    @property
    def event_store(self) -> EventStore | None:
        """Return the store of a session that is about to begin."""
        return RecentEvents()

    @event_store.setter
    def event_store(self, _: EventStore | None) -> None:
        """Take what the SDK's constructor sets, and do without it."""
