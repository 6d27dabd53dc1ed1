"""The same call twice: by clients of one process, and of two processes on one data folder."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import REQUEST_TIMEOUT, CallToolResult

from flux_mcp.server import calls
from flux_mcp.server import waiting as waits
from flux_mcp.server.calls import REPEATED_NOTICE, SHORTENED_NOTICE
from flux_mcp.service.answers import JobAnswer
from tests.e2e.calls import call, is_final, job, job_until, queue, told

from .holding import ENDLESS, SMALL, WAIT_S, ends, stop, waiting
from .inprocess import served
from .transports import (
    HTTP,
    LEGACY_HTTP,
    LEGACY_SSE,
    LEGACY_STDIO,
    SSE,
    STDIO,
    Route,
    Server,
    connected,
    job_of,
    stored_jobs,
    until,
)

pytestmark = pytest.mark.anyio

PAIRS = [
    pytest.param(HTTP, LEGACY_SSE, id="http and sse"),
    pytest.param(LEGACY_HTTP, SSE, id="legacy http and sse"),
    pytest.param(STDIO, HTTP, id="stdio and http"),
]

PATIENCE_S = 3.0
"""Of a client that times out: long enough for a first sign of life on a busy machine."""
TIMED_OUT = [
    pytest.param((STDIO, LEGACY_HTTP, SSE), id="usual"),
    pytest.param((LEGACY_STDIO, LEGACY_SSE), id="others", marks=pytest.mark.torture),
]


@pytest.fixture
async def pair(
    server: Server, stdio: Client, one: Route, other: Route
) -> AsyncIterator[tuple[Client, Client]]:
    async with connected(server, other) as second:
        if one == STDIO:
            yield stdio, second
            return
        async with connected(server, one) as first:
            yield first, second


@pytest.fixture
async def slow(server: Server) -> AsyncIterator[str]:
    """A job that keeps the GPU busy until it is cancelled."""
    async with connected(server, HTTP) as client:
        started = await job(client, "flux_generate", **ENDLESS, wait_s=0)
        yield started.job_id or ""
        await call(client, "flux_cancel_job", job_id=started.job_id)
        await job_until(client, started.job_id or "", is_final)


def keyed() -> dict[str, Any]:
    return {**SMALL, "wait_s": WAIT_S, "idempotency_key": secrets.token_hex(8)}


def read(result: CallToolResult | BaseException) -> JobAnswer:
    assert isinstance(result, CallToolResult), result
    return told(result)


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_a_call_repeated_elsewhere_is_one_job_and_both_get_its_images(
    pair: tuple[Client, Client],
) -> None:
    asked = keyed()
    drawing = [call(client, "flux_generate", **asked) for client in pair]
    first, second = [read(result) for result in await asyncio.gather(*drawing)]
    assert first.status == second.status == "completed"
    assert first.job_id == second.job_id
    # Over HTTP there is a link besides.
    images, others = (
        [image.model_copy(update={"url": None}) for image in one.images] for one in (first, second)
    )
    assert images == others
    assert len(images) == 1


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("who", [0, 1])
async def test_a_job_goes_on_for_one_when_the_other_stops(
    pair: tuple[Client, Client], slow: str, who: int
) -> None:
    asked = keyed()
    calls = [await waiting(client, "flux_generate", asked) for client in pair]
    await stop([calls[who]])
    staying = pair[1 - who]
    # Read after the cancellation: by the same process over another line, or by the other one.
    await call(staying, "flux_get_job")
    await call(staying, "flux_cancel_job", job_id=slow)
    (result,) = await ends([calls[1 - who]])
    assert read(result).status == "completed"


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_without_a_key_the_same_call_twice_is_two_jobs(pair: tuple[Client, Client]) -> None:
    asked = {**SMALL, "wait_s": WAIT_S}
    drawing = [call(client, "flux_generate", **asked) for client in pair]
    first, second = [read(result) for result in await asyncio.gather(*drawing)]
    assert first.job_id != second.job_id
    assert first.images[0].id != second.images[0].id
    assert first.images[0].pixels_sha256 == second.images[0].pixels_sha256


@pytest.mark.parametrize("routes", TIMED_OUT)
async def test_a_call_made_again_after_its_time_out_gets_the_job_of_the_first(
    server: Server, stdio: Client, slow: str, routes: tuple[Route, ...]
) -> None:
    """Of two calls that time out, one is made again before its image is there, one after."""
    lost = asyncio.Barrier(len(routes))

    async def over(route: Route) -> None:
        if route == STDIO:
            await play(stdio)
        else:
            async with connected(server, route) as client:
                await play(client)

    async def play(client: Client) -> None:
        await queue(client)  # a server loads most of itself for its first call
        early, late = [{**SMALL, "session": secrets.token_hex(8)} for _ in range(2)]
        both = [
            await waiting(client, "flux_generate", {**asked, "wait_s": WAIT_S}, PATIENCE_S)
            for asked in (early, late)
        ]
        for end in await ends(both):
            assert isinstance(end, MCPError)
            assert end.error.code == REQUEST_TIMEOUT
        await until(lambda: {early["session"], late["session"]} <= sessions("unanswered_at"))
        # Its client would not wait for 230 s: it is answered before, with the id of the job.
        again = await hurried(client, early)
        assert again.status == "queued"
        await lost.wait()
        await call(client, "flux_cancel_job", job_id=slow)
        first = await drawn(late)
        found = await hurried(client, late)
        assert (found.job_id, found.images[0].job_id) == (first, first)
        assert again.job_id == await drawn(early)
        for answer in (again, found):
            assert REPEATED_NOTICE in answer.notices
        # It has been answered now: whoever asks for the same again means another image.
        another = await job(client, "flux_generate", **late)
        assert another.job_id != first
        assert REPEATED_NOTICE not in another.notices

    async def hurried(client: Client, asked: dict[str, Any]) -> JobAnswer:
        arguments = {**asked, "wait_s": WAIT_S}
        result = await client.call_tool("flux_generate", arguments, read_timeout_seconds=PATIENCE_S)
        return read(result)

    async def drawn(asked: dict[str, Any]) -> str:
        """Wait until the one job of a session has its image; return its id. Nobody is told it."""
        await until(lambda: asked["session"] in sessions("finished_at"))
        return str((await job_of(server.data, asked["session"]))["id"])

    def sessions(moment: str) -> set[str]:
        return {one["session"] for one in stored_jobs(server.data) if one[moment]}

    await asyncio.gather(*(over(route) for route in routes))


async def test_a_call_made_again_while_the_first_is_open_gets_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDKs of Python before 2 send nothing at a time-out: the first call stays open."""
    monkeypatch.setattr(calls, "REPEAT_S", 0.0)
    monkeypatch.setattr(waits, "SHORT_WAIT_S", 0.0)
    asked = {**SMALL, "wait_s": WAIT_S}
    async with served(tmp_path) as (server, _), connected(server, LEGACY_HTTP) as client:
        first = await waiting(client, "flux_generate", asked)
        async with connected(server, LEGACY_HTTP) as other:
            # In another session it is another call, and so is one with other arguments.
            others = [
                await waiting(other, "flux_generate", asked),
                await waiting(client, "flux_generate", {**asked, "seed": 8}),
            ]
            jobs = (await queue(client)).jobs
            assert len(jobs) == 1 + len(others)
            await stop(others)
        # It is answered, though nothing draws here and it says that it has time.
        again = read(await call(client, "flux_generate", **asked))
        assert again.job_id == jobs[0].job_id
        looked = await job(client, "flux_get_job", job_id=again.job_id, wait_s=WAIT_S)
        assert looked.status == "queued"
        assert {REPEATED_NOTICE, SHORTENED_NOTICE} <= {*again.notices}
        assert SHORTENED_NOTICE in looked.notices
        await stop([first])


async def test_a_call_whose_stream_closed_gets_its_job_again_where_the_setting_keeps_it(
    tmp_path: Path,
) -> None:
    """A closed stream of 2026-07-28 may be a time-out or a person's wish."""
    asked = {**SMALL, "wait_s": WAIT_S}
    served_keeping = served(tmp_path, on_disconnect="keep")
    async with served_keeping as (server, _), connected(server, HTTP) as client:
        await stop([await waiting(client, "flux_generate", asked)])
        await until(lambda: all(one["unanswered_at"] for one in stored_jobs(server.data)))
        again = await job(client, "flux_generate", **{**asked, "wait_s": 0})
        assert again.job_id == (await queue(client)).jobs[0].job_id
        assert REPEATED_NOTICE in again.notices
        assert (await queue(client)).depth == 1
