"""Clients come and go; nothing of them stays: no file, thread, task, session or memory."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from mcp.server.connection import Connection
from mcp.server.session import ServerSession
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from starlette.requests import Request

from flux_mcp.server.transports.sessions import RecentEvents
from tests.e2e.calls import FAST, job

from .dropping import DROPS, drop_many, listening_for_changes
from .inprocess import FEW_SESSIONS, served
from .raw import ACCEPT, hello, opened, request
from .transports import HTTP, Server, connected, http_client, until

pytestmark = pytest.mark.anyio

KEPT = (
    Connection,
    ServerSession,
    StreamableHTTPServerTransport,
    JSONRPCDispatcher,
    RecentEvents,
    Request,
)
"""What the SDK and we have of a client while it is there."""

DROPPED = 100
"""How many connections `drop_many` makes."""
POOL_GROWTH = 5


def kept() -> Counter[str]:
    """Count what there is of clients, and the tasks that run."""
    gc.collect()
    # By type alone: `isinstance` asks some objects of libraries, and those answer with a warning.
    kinds = Counter(map(type, gc.get_objects()))
    found = Counter({kind.__name__: n for kind, n in kinds.items() if issubclass(kind, KEPT)})
    found["task"] = len(asyncio.all_tasks())
    return found


async def returns_to(before: Counter[str], count: Callable[[], Counter[str]]) -> None:
    """Wait until nothing is more than it was before."""
    try:
        await until(lambda: not count() - before)
    except TimeoutError:
        pytest.fail(f"still there: {count() - before}")


def held_by(process: psutil.Process) -> Counter[str]:
    """Count open files and sockets, and threads."""
    return Counter(files=process.num_fds(), threads=process.num_threads())


@pytest.mark.parametrize(
    "ways",
    [DROPS, pytest.param((listening_for_changes,), marks=pytest.mark.torture)],
    ids=["any", "listen"],
)
async def test_a_hundred_dropped_connections_leave_no_task_and_no_session(
    tmp_path: Path, ways: tuple[Callable[..., object], ...]
) -> None:
    async with served(tmp_path) as (server, observed):
        before = kept()
        await drop_many(server, ways)
        await returns_to(before, kept)
        assert not observed.feed._connections


async def test_a_hundred_dropped_connections_leave_no_file_and_no_thread_and_it_draws_on(
    server: Server,
) -> None:
    async with connected(server, HTTP) as client:
        await job(client, "flux_generate", **FAST, wait_s=200)
        process = server.as_process()
        before = held_by(process)
        # The event loop's own pool of threads grows a little while it has not been used at once.
        before["threads"] += POOL_GROWTH
        ways = (*DROPS, listening_for_changes)
        assert DROPPED // len(ways) > 2 * POOL_GROWTH, "what one way leaves must be seen"
        await drop_many(server, ways)
        await returns_to(before, lambda: held_by(process))
        drawn = await job(client, "flux_generate", **FAST, wait_s=200)
        assert drawn.status == "completed"
    assert not server.errors(), "".join(server.said)


async def test_sessions_that_are_never_closed_are_bounded_and_forgotten_when_idle(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, idle_timeout_s=1) as (server, observed):
        await returns_to(Counter(), lambda: Counter(sessions=observed.session_count))
        before = kept()
        async with AsyncExitStack() as stack:
            # A stream that is open keeps its session: nothing is forgotten while we count.
            for _ in range(FEW_SESSIONS):
                session = await stack.enter_async_context(opened(server))
                listening = session.http.stream("GET", session.url, headers=session.headers)
                assert (await stack.enter_async_context(listening)).status_code == 200
            assert observed.session_count == FEW_SESSIONS
            http = await stack.enter_async_context(http_client())
            refused = await http.post(f"{server.url}/mcp", json=hello(), headers=ACCEPT)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "too_many_sessions"
            assert len(observed.feed._connections) == FEW_SESSIONS
            # Whoever has a session goes on.
            async with session.post(request("tools/list", 9)) as stream:
                assert await anext(stream)
        await returns_to(before, kept)
        assert observed.session_count == 0
        assert not observed.feed._connections
        async with opened(server):
            assert observed.session_count == 1
