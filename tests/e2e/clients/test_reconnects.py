"""A client of 2025-11-25 whose line broke comes back for its answer; nobody else gets it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mcp import Client
from mcp.server.streamable_http import REQUEST_CANCELLED
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED

from flux_mcp.server.transports.sessions import MAX_EVENT_BYTES
from tests.e2e.calls import call, is_final, job, job_until, told

from .holding import ENDLESS, SMALL, WAIT_S, waiting
from .raw import Session, answer, line_to, opened, progress, request, tool_call
from .transports import (
    DEADLINE_S,
    HTTP,
    LEGACY_HTTP,
    LEGACY_SSE,
    TOKENS,
    Server,
    connected,
    http_client,
    job_of,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def busy(server: Server) -> AsyncIterator[Client]:
    """Keep the GPU busy: what is asked for inside the block waits, until the job is cancelled."""
    async with connected(server, HTTP) as client:
        slow = await job(client, "flux_generate", **ENDLESS, session="busy", wait_s=0)
        yield client
        await call(client, "flux_cancel_job", job_id=slow.job_id)
        await job_until(client, slow.job_id or "", is_final)


async def free(client: Client) -> None:
    await call(client, "flux_cancel_job", session="busy")


async def test_the_sdk_client_gets_its_images_after_its_line_was_cut(server: Server) -> None:
    async with line_to(server) as (far, line), connected(far, LEGACY_HTTP) as client:
        async with busy(server) as owner:
            drawing = await waiting(client, "flux_generate", {**SMALL, "wait_s": WAIT_S})
            before = line.connections
            line.cut()
            await free(owner)
            async with asyncio.timeout(DEADLINE_S):
                answered = told(await drawing)
        assert answered.status == "completed"
        assert len(answered.images) == 1
        assert line.connections > before


async def test_an_answer_is_sent_again_to_who_comes_back_and_the_stream_ends(
    server: Server,
) -> None:
    async with opened(server) as session:
        async with busy(server) as owner:
            asked = tool_call(5, "flux_generate", **SMALL, session="back", wait_s=WAIT_S)
            async with session.post(asked) as stream:
                last = await progress(stream)
            await free(owner)
            await job_until(owner, (await job_of(server.data, "back"))["id"], is_final)
        for _ in range(2):
            async with session.resume(last.id) as stream:
                missed = [event async for event in stream]
            assert [event.message["id"] for event in missed if event.is_answer] == [5]
            result = missed[-1].message["result"]
            assert result["structuredContent"]["status"] == "completed"
        async with session.resume(missed[-1].id) as stream:
            assert [event async for event in stream] == []


async def test_who_comes_back_while_it_is_drawn_gets_progress_and_then_the_answer(
    server: Server,
) -> None:
    async with opened(server) as session, busy(server) as owner:
        asked = tool_call(6, "flux_generate", **SMALL, session="early", wait_s=WAIT_S)
        async with session.post(asked) as stream:
            first = await anext(stream)
            await progress(stream)
        assert first.message == {}, "a place to come back to is the first that is sent"
        async with session.resume(first.id) as stream:
            await progress(stream)
            await free(owner)
            result = (await answer(stream)).message["result"]
            assert [event async for event in stream] == []
        assert result["structuredContent"]["status"] == "completed"


async def test_a_forgotten_answer_is_still_found_by_flux_get_job(server: Server) -> None:
    async with opened(server) as session:
        async with session.post(tool_call(7, "flux_generate", **SMALL, wait_s=WAIT_S)) as stream:
            first = await anext(stream)
            kept = (await answer(stream)).message["result"]["structuredContent"]
        async with session.resume(first.id) as stream:
            assert (await answer(stream)).message["id"] == 7
        await fill(session)
        async with session.resume(first.id) as stream:
            assert [event async for event in stream] == []
        looked = await session.call(99, "flux_get_job", job_id=kept["job_id"])
        assert looked["structuredContent"]["images"] == kept["images"]


async def fill(session: Session) -> None:
    """Let the session hear so much that what it heard before is forgotten."""
    heard_bytes = 0
    number = 1000
    while heard_bytes <= 2 * MAX_EVENT_BYTES:
        number += 1
        async with session.post(request("tools/list", number)) as stream:
            heard_bytes += len(str((await answer(stream)).message))


async def test_an_answer_outlives_much_progress(server: Server) -> None:
    """Hours of progress do not push an answer out, nor does a client's place get lost."""
    async with opened(server) as session, busy(server) as owner:
        asked = tool_call(8, "flux_generate", **SMALL, session="patient", wait_s=WAIT_S)
        async with session.post(asked) as stream:
            first = await progress(stream)
        for number in range(100, 400):
            async with session.post(request("ping", number)) as stream:
                await answer(stream)
        async with session.resume(first.id) as stream:
            await free(owner)
            result = (await answer(stream)).message["result"]
        assert result["structuredContent"]["status"] == "completed"


async def test_sessions_with_the_same_request_ids_never_see_each_others_events(
    server: Server,
) -> None:
    async with opened(server) as one, opened(server) as two:
        ids = []
        for session, prompt in ((one, "a red circle"), (two, "a blue star")):
            asked = tool_call(1, "flux_generate", **{**SMALL, "prompt": prompt}, wait_s=WAIT_S)
            async with session.post(asked) as stream:
                ids.append((await anext(stream)).id)
                await answer(stream)
        assert ids[0] == ids[1], "the ids say nothing: each session has its own events"
        for session, prompt in ((one, "a red circle"), (two, "a blue star")):
            async with session.resume(ids[0]) as stream:
                missed = [event async for event in stream]
            answers = [event.message["result"] for event in missed if event.is_answer]
            assert [one["structuredContent"]["prompt"] for one in answers] == [prompt]


async def test_a_stolen_session_is_worth_nothing_to_another_principal(server: Server) -> None:
    async with opened(server, TOKENS["ada"]) as ada, opened(server, TOKENS["bob"]) as bob:
        async with ada.post(tool_call(1, "flux_generate", **SMALL, wait_s=WAIT_S)) as stream:
            first = await anext(stream)
            await answer(stream)
        stolen = Session(ada.url, bob.http, ada.id)
        looking = request("tools/list", 2)
        for method, extra in (("POST", {"json": looking}), ("GET", {}), ("DELETE", {})):
            headers = {**stolen.headers, "Last-Event-ID": first.id}
            refused = await bob.http.request(method, ada.url, headers=headers, **extra)
            assert refused.status_code == 404
            assert refused.json()["error"]["message"] == "Session not found"
        async with bob.resume(first.id) as stream:
            assert [event async for event in stream] == []
        async with ada.resume(first.id) as stream:
            assert (await answer(stream)).message["id"] == 1, "the theft has broken nothing"


async def test_a_stolen_sse_session_is_worth_nothing_to_another_principal(server: Server) -> None:
    headers = {"Authorization": f"Bearer {TOKENS['ada']}"}
    async with (
        http_client(TOKENS["bob"]) as bob,
        http_client(TOKENS["ada"]) as ada,
        ada.stream("GET", f"{server.url}/sse", headers=headers) as stream,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        where = server.url + (await anext(lines)).removeprefix("data: ")
        refused = await bob.post(where, json=request("tools/list", 1))
        assert (refused.status_code, refused.text) == (404, "Could not find session")
        assert (await ada.post(where, json=request("ping", 1))).status_code == 202


async def test_the_stream_of_a_cancelled_call_ends(server: Server) -> None:
    drawing = {**SMALL, "prompt": "wait until this is cancelled", "wait_s": WAIT_S}
    async with (
        opened(server) as session,
        session.post(tool_call(1, "flux_generate", **drawing)) as stream,
    ):
        await progress(stream)
        cancelled = {"method": "notifications/cancelled", "params": {"requestId": 1}}
        message = {"jsonrpc": "2.0", **cancelled}
        await session.http.post(session.url, json=message, headers=session.headers)
        last = [event async for event in stream][-1]
        assert last.message["error"]["code"] == REQUEST_CANCELLED
        # Who comes back for it is told the same, and does not wait.
        async with session.resume(last.id.replace(last.id.split("-")[0], "1", 1)) as again:
            assert (await answer(again)).message == last.message


async def test_sse_has_nothing_to_come_back_to(server: Server) -> None:
    """The job of a call whose SSE line broke is cancelled: nobody can be told its id any more."""
    async with line_to(server) as (far, line), busy(server) as owner:
        async with connected(far, LEGACY_SSE) as client:
            asked = {**SMALL, "session": "sse line", "wait_s": WAIT_S}
            drawing = await waiting(client, "flux_generate", asked)
            line.cut()
            with pytest.raises(MCPError) as raised:
                await drawing
            assert raised.value.error.code == CONNECTION_CLOSED
        lost = await job_of(server.data, "sse line")
        assert (await job_until(owner, lost["id"], is_final)).status == "cancelled"
