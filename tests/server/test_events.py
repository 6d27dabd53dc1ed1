"""What a client that comes back is sent: what it missed on its stream, and nothing else."""

import pytest
from mcp.server.streamable_http import EventMessage
from mcp.types import JSONRPCNotification

from flux_mcp.server.events import MAX_EVENT_BYTES, MAX_EVENTS, RecentEvents

pytestmark = pytest.mark.anyio


def said(text: str) -> JSONRPCNotification:
    return JSONRPCNotification(jsonrpc="2.0", method="notifications/message", params={"text": text})


async def missed(events: RecentEvents, last: str) -> tuple[str | None, list[str]]:
    texts: list[str] = []

    async def take(event: EventMessage) -> None:
        assert isinstance(event.message, JSONRPCNotification)
        assert event.message.params
        texts.append(event.message.params["text"])

    return await events.replay_events_after(last, take), texts


async def test_what_came_after_on_the_same_stream() -> None:
    events = RecentEvents()
    primed = await events.store_event("1", None)
    first = await events.store_event("1", said("a"))
    await events.store_event("2", said("other"))
    last = await events.store_event("1", said("b"))
    assert await missed(events, primed) == ("1", ["a", "b"])
    assert await missed(events, first) == ("1", ["b"])
    assert await missed(events, last) == ("1", [])


@pytest.mark.parametrize("event_id", ["", "0", "99", "x", "-1", "1 "])
async def test_an_id_that_is_not_known_brings_nothing(event_id: str) -> None:
    events = RecentEvents()
    await events.store_event("1", said("a"))
    assert await missed(events, event_id) == (None, [])


async def test_only_so_many_are_kept() -> None:
    events = RecentEvents()
    ids = [await events.store_event("1", said(str(n))) for n in range(MAX_EVENTS + 5)]
    assert await missed(events, ids[4]) == (None, [])
    stream, texts = await missed(events, ids[5])
    assert (stream, len(texts)) == ("1", MAX_EVENTS - 1)


async def test_only_so_many_bytes_are_kept_but_always_the_newest() -> None:
    events = RecentEvents()
    small = await events.store_event("1", said("small"))
    half = "x" * (MAX_EVENT_BYTES // 2)
    first = await events.store_event("1", said(half))
    await events.store_event("1", said(half))
    assert (await missed(events, small))[0] is None
    assert (await missed(events, first))[0] is None
    huge = await events.store_event("1", said("x" * MAX_EVENT_BYTES * 2))
    assert await missed(events, huge) == ("1", [])
    after = await events.store_event("1", said("after"))
    assert await missed(events, after) == ("1", [])
