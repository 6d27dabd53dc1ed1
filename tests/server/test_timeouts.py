"""How long calls wait, and what becomes of those whose client ran out of time.

That a client's own time-out keeps its job, over every transport, is in tests/e2e/clients.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import Implementation

from flux_mcp.gallery.store import ImageRecord
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.scheduler import NextJob
from flux_mcp.principals import acting_as
from flux_mcp.requests.schemas import EditRequest, GenerateRequest
from flux_mcp.requests.validation import MAX_WAIT_S, USUAL_POLL_S, USUAL_WAIT_S, parse_request
from flux_mcp.server import clients
from flux_mcp.server.app import build_server
from flux_mcp.server.calls import REPEATED_NOTICE
from flux_mcp.server.clients import Row
from flux_mcp.server.timeouts import says_timeout
from flux_mcp.server.waiting import MAX_SESSIONS, ClientTimeouts, wanted_wait_s
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.e2e.calls import FAST, call, job, told

from .images import keep_image, noise

pytestmark = pytest.mark.anyio

Serving = Callable[..., AbstractAsyncContextManager[tuple[Service, Client]]]


@pytest.fixture
def serving(settings: Settings) -> Serving:
    """Serve one client with some settings; nothing draws, so jobs stay as they are."""

    @asynccontextmanager
    async def serve(name: str = "test", **changes: Any) -> AsyncIterator[tuple[Service, Client]]:
        chosen = settings.model_copy(update=changes)
        service = Service(chosen, executes=False)
        await service.open()
        try:
            info = Implementation(name=name, version="1")
            async with Client(build_server(service), client_info=info) as client:
                yield service, client
        finally:
            await service.close()

    return serve


# --- how long a call waits ---------------------------------------------------------------------


async def test_a_call_that_says_nothing_waits_as_long_as_the_setting_says(serving: Serving) -> None:
    async with serving(default_wait_s=0) as (_, client):
        assert (await job(client, "flux_generate", **FAST)).status == "queued"


async def test_a_call_that_says_nothing_waits_as_long_as_the_row_of_its_client_says(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = Row("Hasty", "hasty", None, "a test", {"wait_s": 0})
    monkeypatch.setattr(clients, "_rows", lambda: ((), (hasty,)))
    async with serving("hasty", default_wait_s=None) as (_, client):
        # It would wait for 45 s, and this for the answer only so long.
        result = await client.call_tool("flux_generate", FAST, read_timeout_seconds=30)
        assert not result.is_error
    # Who cannot ask for the job waits as all do: one call of it times out, and is made again.
    settings: dict[str, Any] = {"default_wait_s": None, "tools": ("flux_generate",)}
    async with serving("hasty", **settings) as (_, client):
        with pytest.raises(MCPError):
            await client.call_tool("flux_generate", FAST, read_timeout_seconds=1)


@pytest.mark.parametrize(
    ("given_s", "client_s", "images_s", "poll_s"),
    [
        (None, None, 45, 20),
        (None, 3, 3, 3),
        (None, 0, 0, 0),
        (0, 3, 0, 0),
        (120, 3, 120, 120),
    ],
)
def test_a_call_wants_to_wait_as_it_says_or_as_its_client_does(
    given_s: float | None, client_s: float | None, images_s: float, poll_s: float
) -> None:
    assert wanted_wait_s(given_s, client_s, USUAL_WAIT_S) == images_s
    assert wanted_wait_s(given_s, client_s, USUAL_POLL_S) == poll_s


def test_the_setting_takes_what_the_argument_takes() -> None:
    limits = Settings.model_json_schema()["properties"]["default_wait_s"]["anyOf"][0]
    assert (limits["minimum"], limits["maximum"]) == (0, MAX_WAIT_S)


def test_a_client_that_ran_out_of_time_is_answered_before_that_from_then_on() -> None:
    known = ClientTimeouts()
    hasty, silent, other = ("local", "1"), ("local", "2"), ("ada", "1")
    known.timed_out(hasty, 30.0)
    assert known.most_s(hasty) == pytest.approx(21.0)
    known.timed_out(hasty, 5.0)
    known.timed_out(hasty, 60.0)
    assert known.most_s(hasty) == pytest.approx(3.5)
    known.gave_up(silent)
    assert known.most_s(silent) == 4.0
    assert known.most_s(other) is None
    # HTTP of 2026-07-28 has no sessions: one of its clients says nothing about another.
    known.timed_out(None, 1.0)
    assert known.most_s(None) is None
    for number in range(MAX_SESSIONS):
        known.gave_up(("local", f"later {number}"))
    assert known.most_s(hasty) is None


# --- what a cancellation says ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "is_timeout"),
    [
        # Python SDK 2.3.
        ("timed out after 5.0s", True),
        ("timed out after Nones", True),
        ("caller cancelled", False),
        # TypeScript SDK 1.12 to 1.32, then 2.4.
        ("McpError: MCP error -32001: Request timed out", True),
        ("McpError: MCP error -32001: Maximum total timeout exceeded", True),
        ("SdkError: Request timed out", True),
        ("McpError: MCP error -32000: Connection closed", False),
        ("AbortError: This operation was aborted", False),
        ("AbortError: The user aborted a request.", False),
        ("undefined", False),
        # AbortSignal.timeout() in Node and in Chrome.
        ("TimeoutError: The operation was aborted due to timeout", True),
        ("TimeoutError: signal timed out", True),
        # Go, Rust.
        ("context deadline exceeded", True),
        ("context canceled", False),
        ("request timeout", True),
        # Clients of their own.
        ("Tool call timed-out after 10 seconds", True),
        ("request_timeout", True),
        ("User requested cancellation", False),
        ("The user stopped it before the timeout", False),
        ("user said: timed out, stop", False),
        ("Sometimes out of order", False),
        ("", False),
        (None, False),
        ("x" * 100_000 + "timed out", False),
    ],
)
def test_a_reason_is_a_time_out_or_a_persons(reason: str | None, is_timeout: bool) -> None:  # noqa: FBT001 - parameters
    assert says_timeout(reason) is is_timeout


# --- the same call again -----------------------------------------------------------------------


async def stored(service: Service, request: GenerateRequest) -> Job:
    """Store a job whose call ended without an answer."""
    job = await service.submit(request)
    await service.let_go(job.id, keep=True)
    return job


async def stored_jobs(service: Service, count: int) -> list[Job]:
    """Wait until there are so many jobs; return them."""
    async with asyncio.timeout(60):
        while len(jobs := await service.recent_jobs(count + 1)) < count:  # noqa: ASYNC110 - calls ring no bell
            await asyncio.sleep(0)
    return jobs


async def test_a_repeated_call_gets_the_job_that_nobody_was_answered_about(
    serving: Serving,
) -> None:
    request = GenerateRequest(**FAST)
    async with serving() as (service, _):
        await stored(service, request.model_copy(update={"idempotency_key": "of its own"}))
        first, second = [await stored(service, request) for _ in range(2)]
        # Whoever it is not the same for: another caller, another request, a key of its own.
        with acting_as("ada"):
            assert await service.take_unanswered(request) is None
        for changes in ({"seed": 8}, {"session": "s"}, {"idempotency_key": "k"}):
            other = request.model_copy(update=changes)
            assert await service.take_unanswered(other) is None
        # How it is waited for makes no other request of it. Each job is given once.
        hurried = request.model_copy(update={"wait_s": 3.0, "preview": "none"})
        taken = [await service.take_unanswered(hurried)]
        # Another process, or the same after a restart.
        later = Service(service.settings, executes=False)
        taken += [await later.take_unanswered(hurried) for _ in range(2)]
        await later.close()
        assert [one and one.id for one in taken] == [first.id, second.id, None]
        # The call that it was given to is lost as well.
        await service.let_go(first.id, keep=True)
        await service.mark_id_given(first.id)
        await service.let_go(second.id, keep=True)
        await service.cancel(second.id)
        assert await service.take_unanswered(request) is None


@pytest.mark.parametrize("ends_by", ["time-out", "closed stream"])
async def test_a_repeated_call_with_latest_never_means_its_own_image(
    serving: Serving, ends_by: str
) -> None:
    asked = {"prompt": "a hat", "images": ["latest"], "steps": 1, "seed": 7}
    async with serving() as (service, client):
        original = await keep_image(service, noise(64, 64), 64, 64)
        first = await service.submit(parse_request(EditRequest, asked))
        if ends_by == "time-out":
            await service.let_go(first.id, keep=True)
        own = await finished(service, first)
        await service.let_go(first.id)  # it has ended: nothing is left to cancel
        again = told(await call(client, "flux_edit", **asked, wait_s=0))
        if ends_by == "time-out":
            assert again.job_id == first.id
            assert [image.id for image in again.images] == [own.id]
            assert REPEATED_NOTICE in again.notices
        else:
            assert again.job_id != first.id
        stored_again = await service.find_job(again.job_id)
        assert (stored_again.parents, first.parents) == ((original.id,), (original.id,))
        later = await job(client, "flux_edit", **asked, wait_s=0)
        # Once answered with it, the caller means it; of the other one it was never told.
        meant = own if ends_by == "time-out" else original
        assert (await service.find_job(later.job_id)).parents == (meant.id,)


async def finished(service: Service, job: Job) -> ImageRecord:
    """Finish a job, as an executor does; return its image."""
    queue = service.runtime.rooms.queue
    claimed = await service._database.call(queue.claim, "an executor", lambda _: NextJob(job.id))
    assert claimed is not None
    image = await keep_image(service, noise(64, 64, 1), 64, 64, job_id=job.id)
    assert await service._database.call(queue.complete, claimed, 0.1, 1.0)
    return image


async def test_a_call_that_was_answered_is_made_again_for_another_image(serving: Serving) -> None:
    async with serving() as (_, client):
        one, other = [await job(client, "flux_generate", **FAST, wait_s=0) for _ in range(2)]
    assert one.job_id != other.job_id
    assert REPEATED_NOTICE not in other.notices


@pytest.mark.parametrize("setting", ["cancel", "keep"])
async def test_the_setting_decides_about_a_call_that_does_not_say_why_it_ends(
    serving: Serving, setting: str
) -> None:
    request = GenerateRequest(**FAST)
    async with serving(on_disconnect=setting) as (service, _):
        job = await service.submit(request)
        await service.let_go(job.id)
        assert (await service.find_job(job.id)).cancel_requested is (setting == "cancel")
        again = await service.take_unanswered(request)
        assert (again and again.id) == (job.id if setting == "keep" else None)


async def test_calls_that_come_together_are_each_meant(serving: Serving) -> None:
    async with serving() as (service, client):
        asked = {**FAST, "wait_s": 230}
        both = [asyncio.create_task(client.call_tool("flux_generate", asked)) for _ in range(2)]
        await stored_jobs(service, len(both))
        for one in both:
            one.cancel()
        await asyncio.gather(*both, return_exceptions=True)
