"""The same call twice: by clients of one process, and of two processes on one data folder."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mcp import Client
from mcp.types import CallToolResult

from flux_mcp.service.answers import JobAnswer
from tests.e2e.calls import call, is_final, job, job_until, told

from .holding import ENDLESS, SMALL, WAIT_S, ends, stop, waiting
from .transports import HTTP, LEGACY_HTTP, LEGACY_SSE, SSE, STDIO, Route, Server, connected

pytestmark = pytest.mark.anyio

PAIRS = [
    pytest.param(HTTP, LEGACY_SSE, id="http and sse"),
    pytest.param(LEGACY_HTTP, SSE, id="legacy http and sse"),
    pytest.param(STDIO, HTTP, id="stdio and http"),
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
    assert first.images == second.images
    assert len(first.images) == 1


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
