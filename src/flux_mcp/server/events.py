"""What a client of the older protocol missed while its connection was gone, kept for a while.

A client of 2025-11-25 whose connection broke in the middle of a call comes back with the id of the
last event it has seen, and is sent what came after it. `RecentEvents` owns the events of one
session. One for all sessions would mix them up: the SDK names streams by request ids, which each
client counts from 1.
"""

from collections import deque
from dataclasses import dataclass
from itertools import count

from mcp.server.streamable_http import (
    EventCallback,
    EventId,
    EventMessage,
    EventStore,
    StreamId,
)
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import JSONRPCMessage

RETRY_MS = 1000
"""How soon a client may come back, as it is told."""
MAX_SESSIONS = 500
"""Clients of the older protocol at the same time; each is forgotten after half an hour of silence,
the SDK's own limit."""
MAX_EVENTS = 256
MAX_EVENT_BYTES = 2 * 1024 * 1024
"""Of one session: the largest answer, below 1 MiB, and the progress before it, twice."""


@dataclass(frozen=True)
class _Event:
    number: int
    stream: StreamId
    message: JSONRPCMessage | None
    size_bytes: int


class RecentEvents(EventStore):
    """The newest events of one session; older ones are forgotten."""

    def __init__(self) -> None:
        self._events: deque[_Event] = deque()
        self._numbers = count(1)
        self._bytes = 0

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep an event and return its id; the oldest make room for it."""
        size_bytes = 0 if message is None else len(message.model_dump_json(by_alias=True))
        event = _Event(next(self._numbers), stream_id, message, size_bytes)
        self._events.append(event)
        self._bytes += size_bytes
        while len(self._events) > MAX_EVENTS or (
            self._bytes > MAX_EVENT_BYTES and len(self._events) > 1
        ):
            self._bytes -= self._events.popleft().size_bytes
        return str(event.number)

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Send what came after an event on its stream; `None` when the event is forgotten."""
        last = next((one for one in self._events if str(one.number) == last_event_id), None)
        if last is None:
            return None
        for event in list(self._events):
            is_later = event.stream == last.stream and event.number > last.number
            if is_later and event.message is not None:
                await send_callback(EventMessage(event.message, str(event.number)))
        return last.stream


class Sessions(StreamableHTTPSessionManager):
    """The SDK's sessions, each with events of its own."""

    @property
    def event_store(self) -> EventStore | None:
        """Return the store of a session that is about to begin."""
        return RecentEvents()

    @event_store.setter
    def event_store(self, _: EventStore | None) -> None:
        """Take what the SDK's constructor sets, and do without it."""
