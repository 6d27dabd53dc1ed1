"""A server ends while calls are open: no job is lost; told twice, it ends at once."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from tests.e2e.calls import FAST, call, draws, is_final, job, job_until, told

from .dropping import post
from .holding import ENDLESS, SMALL, WAIT_S, waiting
from .transports import (
    DEADLINE_S,
    HTTP,
    LEGACY_HTTP,
    OVER_HTTP,
    ROUTES,
    STDIO,
    Server,
    connected,
    listening,
    stored_jobs,
    until,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX here"),
]


async def said(server: Server, words: str) -> None:
    """Wait until the server has written something to its stderr."""
    await until(lambda: any(words in line for line in server.said))


async def gone(processes: list[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, DEADLINE_S)
    assert not alive


async def test_told_to_end_with_calls_open_on_every_route_servers_keep_every_job(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with listening(data) as server:
        async with AsyncExitStack() as stack:
            owner = await stack.enter_async_context(connected(server, HTTP))
            # Longer than the time that answers under way are given: none of them is reached.
            running = await job(owner, "flux_generate", **ENDLESS, session="running", wait_s=0)
            before = set(psutil.Process().children())
            calls = []
            for number, route in zip(count(), ROUTES, strict=False):
                client = await stack.enter_async_context(connected(server, route))
                await client.list_tools()
                asked = {**SMALL, "session": str(number), "wait_s": WAIT_S}
                calls.append(await waiting(client, "flux_generate", asked))
            over_stdio = list(set(psutil.Process().children()) - before)
            assert len(over_stdio) == len(ROUTES) - len(OVER_HTTP)
            await job_until(owner, running.job_id or "", draws)
            for process in [server.as_process(), *over_stdio]:
                process.terminate()
            assert await asyncio.to_thread(server.process.wait, DEADLINE_S) == 0
            await gone(over_stdio)
            async with asyncio.timeout(DEADLINE_S):
                ended = [await calling for calling in calls]
        answers = [told(end) for end in ended]
        assert not server.errors(), "".join(server.said)
    # Every call was answered with the id of its job before the line was cut.
    assert [answer.job_id for answer in answers] == [one["id"] for one in stored_jobs(data)[1:]]
    kept = {stored["session"]: stored["status"] for stored in stored_jobs(data)}
    assert kept == dict.fromkeys(["running", *(str(n) for n in range(len(ROUTES)))], "queued")
    with listening(data) as again:
        async with connected(again, LEGACY_HTTP) as client:
            await job_until(client, running.job_id or "", draws)
            await call(client, "flux_cancel_job", job_id=running.job_id)
            for stored in stored_jobs(data)[1:]:
                assert (await job_until(client, stored["id"], is_final)).status == "completed"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.torture)]
)
async def test_a_listening_server_told_twice_ends_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with FileLock(data / "gpu.lock"), listening(data) as server:
        async with connected(server, HTTP) as client, half_a_post(server):
            await job(client, "flux_generate", **SMALL, wait_s=0)
            server.process.send_signal(signal.SIGTERM)
            await said(server, "received a signal, shutting down")
            server.process.send_signal(number)
            assert await asyncio.to_thread(server.process.wait, DEADLINE_S) == -number
    assert [stored["status"] for stored in stored_jobs(data)] == ["queued"]


@asynccontextmanager
async def half_a_post(server: Server) -> AsyncIterator[None]:
    """Hold a request that is never finished: a server that ends in order waits for it."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post("/mcp", b"{", length=5000))
    await writer.drain()
    yield
    writer.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
async def test_a_server_over_stdio_told_twice_ends_at_once(server: Server, tmp_path: Path) -> None:
    """Its worker is held fast, so that ending in order takes longer than anybody waits."""
    here = Server("", server.process, tmp_path / "data")
    async with connected(here, STDIO) as client:
        mine = next(
            child
            for child in psutil.Process().children()
            if child.environ().get("FLUX_MCP_DATA_DIR") == str(here.data)
        )
        await job(client, "flux_generate", **FAST, wait_s=200)
        (worker,) = mine.children()
        worker.suspend()
        try:
            mine.terminate()
            await until(lambda: not catches(mine, signal.SIGTERM))
            mine.terminate()
            await gone([mine])
            assert worker.status() == psutil.STATUS_STOPPED, "it was not waited for"
        finally:
            worker.resume()
        await gone([worker])


def catches(process: psutil.Process, number: signal.Signals) -> bool:
    """Say whether a process has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & 1 << (number - 1))


async def test_a_server_told_to_end_as_soon_as_it_listens_ends(tmp_path: Path) -> None:
    with listening(tmp_path / "data") as server:
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, DEADLINE_S) in (0, -signal.SIGTERM)
