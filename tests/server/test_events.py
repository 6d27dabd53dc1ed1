"""What a client that comes back is sent: what it missed on its stream, and nothing else."""

import asyncio

import pytest
from mcp.server.streamable_http import GET_STREAM_KEY, EventMessage
from mcp.types import JSONRPCMessage, JSONRPCNotification, JSONRPCResponse

from flux_mcp.server.transports.sessions import MAX_EVENT_BYTES, MAX_EVENTS, RecentEvents

pytestmark = pytest.mark.anyio


def said(text: str) -> JSONRPCNotification:
    return JSONRPCNotification(jsonrpc="2.0", method="notifications/message", params={"text": text})


def progress(text: str) -> JSONRPCNotification:
    params = {"text": text}
    return JSONRPCNotification(jsonrpc="2.0", method="notifications/progress", params=params)


def answer(text: str) -> JSONRPCResponse:
    return JSONRPCResponse(jsonrpc="2.0", id=1, result={"text": text})


def text_of(message: JSONRPCMessage) -> str:
    held = message.result if isinstance(message, JSONRPCResponse) else message.params
    assert held is not None
    return held["text"]


async def missed(events: RecentEvents, last: str) -> tuple[str | None, list[str]]:
    texts: list[str] = []

    async def take(event: EventMessage) -> None:
        texts.append(text_of(event.message))

    async with asyncio.timeout(60):
        return await events.replay_events_after(last, take), texts


async def test_what_came_after_on_the_same_stream_up_to_the_answer() -> None:
    events = RecentEvents()
    primed = await events.store_event("1", None)
    first = await events.store_event("1", said("a"))
    await events.store_event("2", said("other"))
    last = await events.store_event("1", answer("b"))
    assert await missed(events, primed) == (None, ["a", "b"])
    assert await missed(events, first) == (None, ["b"])
    assert await missed(events, last) == (None, [])


async def test_a_stream_without_an_answer_is_followed_until_it_has_one() -> None:
    events = RecentEvents()
    primed = await events.store_event("1", None)
    texts: asyncio.Queue[str] = asyncio.Queue()

    async def take(event: EventMessage) -> None:
        await texts.put(text_of(event.message))

    following = asyncio.create_task(events.replay_events_after(primed, take))
    await events.store_event("1", said("a"))
    assert await texts.get() == "a"
    await events.store_event("2", said("other"))
    await events.store_event("1", answer("b"))
    assert await texts.get() == "b"
    assert await following is None
    assert texts.empty()


async def test_the_stream_a_session_listens_on_is_handed_back() -> None:
    events = RecentEvents()
    first = await events.store_event(GET_STREAM_KEY, said("a"))
    await events.store_event(GET_STREAM_KEY, said("b"))
    assert await missed(events, first) == (GET_STREAM_KEY, ["b"])


@pytest.mark.parametrize(
    "event_id", ["", "0", "1", "x", "-1", "1 ", "x-1", "9" * 5000 + "-1", "1-9"]
)
async def test_an_id_that_is_not_known_brings_nothing(event_id: str) -> None:
    events = RecentEvents()
    await events.store_event("1", said("a"))
    assert await missed(events, event_id) == (None, [])


async def test_only_the_newest_progress_is_kept_and_it_pushes_nothing_out() -> None:
    events = RecentEvents()
    first = await events.store_event("1", said("a"))
    for number in range(2 * MAX_EVENTS):
        await events.store_event("1", progress(str(number)))
    await events.store_event("1", answer("b"))
    await events.store_event("2", progress("other"))
    assert await missed(events, first) == (None, [str(2 * MAX_EVENTS - 1), "b"])


async def test_only_so_many_are_kept() -> None:
    events = RecentEvents()
    ids = [await events.store_event("1", said(str(n))) for n in range(MAX_EVENTS + 5)]
    await events.store_event("1", answer("b"))
    texts = [str(n) for n in range(6, MAX_EVENTS + 5)]
    # Also for who comes back with an id that is forgotten.
    assert await missed(events, ids[0]) == (None, [*texts, "b"])
    assert await missed(events, ids[5]) == (None, [*texts, "b"])


async def test_only_so_many_bytes_are_kept_but_always_the_newest() -> None:
    events = RecentEvents()
    small = await events.store_event("1", said("small"))
    half = "x" * (MAX_EVENT_BYTES // 2)
    await events.store_event("1", said(half))
    await events.store_event("1", answer(half))
    assert await missed(events, small) == (None, [half])
    await events.store_event("2", answer("x" * MAX_EVENT_BYTES * 2))
    assert await missed(events, small) == (None, [])
    assert (await missed(events, "0-2"))[1] == ["x" * MAX_EVENT_BYTES * 2]
    await events.store_event("3", answer("after"))
    assert await missed(events, "0-2") == (None, [])
    assert await missed(events, "0-3") == (None, ["after"])
