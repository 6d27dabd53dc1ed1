"""Many calls open at the same time: they wait, others are answered, and there is a limit."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from mcp import Client

from tests.e2e.calls import call, is_final, job, job_until, told

from .holding import ENDLESS, SMALL, WAIT_S, ends, waiting
from .transports import (
    HTTP,
    LEGACY_STDIO,
    ROUTES,
    STDIO,
    TOKENS,
    Route,
    Server,
    connected,
    http_client,
)

pytestmark = pytest.mark.anyio

MAX_REQUESTS = 64
"""The default of the setting `max_requests`."""


@pytest.fixture
async def slow(server: Server) -> AsyncIterator[str]:
    """A job that keeps the GPU busy until it is cancelled."""
    async with connected(server, HTTP) as client:
        started = await job(client, "flux_generate", **ENDLESS, wait_s=0)
        yield started.job_id or ""
        await call(client, "flux_cancel_job", job_id=started.job_id)
        await job_until(client, started.job_id or "", is_final)


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(route, marks=[pytest.mark.torture] if route == LEGACY_STDIO else [])
        for route in ROUTES
    ],
    ids=str,
)
async def test_ten_calls_wait_while_others_are_answered_and_then_all_are(
    server: Server, stdio: Client, slow: str, route: Route
) -> None:
    async with AsyncExitStack() as stack:
        client = stdio
        if route != STDIO:
            client = await stack.enter_async_context(connected(server, route))
        drawing = {**SMALL, "wait_s": WAIT_S}
        calls = [await waiting(client, "flux_generate", drawing) for _ in range(5)]
        looking = {"job_id": slow, "wait_s": WAIT_S}
        calls += [await waiting(client, "flux_get_job", looking) for _ in range(5)]
        assert len((await client.list_tools(cache_mode="bypass")).tools) == 8
        assert not any(calling.done() for calling in calls)

        await call(client, "flux_cancel_job", job_id=slow)
        results = await ends(calls)
    answers = [told(one) for one in results]
    assert [answer.status for answer in answers] == ["completed"] * 5 + ["cancelled"] * 5
    assert len({answer.images[0].id for answer in answers[:5]}) == 5


async def test_a_caller_with_too_many_open_requests_is_told_so_and_has_room_again(
    server: Server,
) -> None:
    async with http_client(TOKENS["bob"]) as bob, http_client(TOKENS["ada"]) as ada:
        where = f"{server.url}/sse"
        async with AsyncExitStack() as stack:
            for _ in range(MAX_REQUESTS):
                stream = await stack.enter_async_context(bob.stream("GET", where))
                assert stream.status_code == 200
            refused = await bob.get(where)
            assert refused.status_code == 429
            error = refused.json()["error"]
            assert error["code"] == "too_many_open"
            assert error["hint"] == "Close streams that are no longer read, or wait for answers."
            async with ada.stream("GET", where) as other:
                assert other.status_code == 200, "the limit is each caller's own"
        await has_room(bob, where)


async def has_room(http: object, where: str) -> None:
    """Ask until the server has seen that the streams are closed."""
    while True:
        async with http.stream("GET", where) as stream:  # type: ignore[attr-defined]
            if stream.status_code == 200:
                return
