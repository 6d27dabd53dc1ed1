"""Sessions of streamable HTTP, and the events a client missed while its connection was gone.

A client of 2025-11-25 whose connection broke in the middle of a call comes back with the id of the
last event it has seen, and is sent what came after it. Each session has its own `RecentEvents`: the
SDK names streams by request ids, which each client counts from 1.
"""

import asyncio
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.streamable_http import (
    GET_STREAM_KEY,
    EventCallback,
    EventId,
    EventMessage,
    EventStore,
    StreamableHTTPServerTransport,
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
from starlette.types import Receive, Scope, Send

from flux_mcp.errors import AccessError, TooManySessionsError
from flux_mcp.principals import LOCAL
from flux_mcp.server.app import FluxServer
from flux_mcp.server.transports.guard import REFUSING

logger = logging.getLogger(__name__)

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
        max_of_one: Of one caller with a named token.
        idle_timeout_s: A client of the older protocol is forgotten after so long a silence.
    """

    def __init__(
        self,
        server: FluxServer,
        max_body_bytes: int,
        *,
        max_sessions: int = MAX_SESSIONS,
        max_of_one: int = MAX_SESSIONS,
        idle_timeout_s: float = DEFAULT_SESSION_IDLE_TIMEOUT,
    ) -> None:
        self._max_of_one = max_of_one
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

    async def _handle_stateful_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super()._handle_stateful_request(scope, receive, send)
        except AccessError:
            scope[REFUSING]()
            raise

    def _admit_session(
        self, requestor: AuthorizationContext | None
    ) -> StreamableHTTPServerTransport | None:
        """Begin a session, for which an idle one may have to make room.

        A caller with as many as it may have loses its own oldest one. Where there is no room at
        all, it is one of whoever has most; the owner's only for the owner.

        Raises:
            TooManySessionsError: none of them is idle.
        """
        caller = _name(requestor)
        held = Counter(_name(owner) for owner in self._session_owners.values())
        if caller != LOCAL and held[caller] >= self._max_of_one:
            self._end_oldest({caller}, f"{held[caller]} sessions of this caller")
        elif self.max_sessions is not None and len(self._server_instances) >= self.max_sessions:
            most = [name for name, _ in held.most_common() if name != LOCAL or caller == LOCAL]
            self._end_oldest(set(most[:1]), f"{self.max_sessions} sessions")
        return super()._admit_session(requestor)

    def _end_oldest(self, names: set[str], how_many: str) -> None:
        idle = {
            session_id: transport.idle_scope.deadline
            for session_id, transport in self._server_instances.items()
            if _name(self._session_owners.get(session_id)) in names
            and transport.idle_scope is not None
            and transport.idle_scope.deadline < math.inf
        }
        tasks: Any = self._task_group  # the SDK sets it later than it says its type
        if not idle or tasks is None:
            raise TooManySessionsError(
                f"{how_many} are open, and each is being used.",
                "End sessions that are no longer needed (DELETE), or use one for many calls.",
            )
        oldest = min(idle, key=idle.__getitem__)
        logger.info("an idle session makes room for a new one")
        transport = self._server_instances.pop(oldest)
        self._session_owners.pop(oldest, None)
        tasks.start_soon(self._discard_session, oldest, transport)


def _name(owner: AuthorizationContext | None) -> str:
    return LOCAL if owner is None else owner["client_id"]
