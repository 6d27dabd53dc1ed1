"""Real server processes on one data folder: killed, told to stop, left alone, all at once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from .calls import FAST, SLOW, call, draws, is_final, job, job_until, queue
from .light import light_worker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and signals are POSIX here"),
]

MEDIUM: dict[str, Any] = {"prompt": "a blue square", "width": 64, "height": 64, "steps": 64}
MEDIUM |= {"count": 2, "seed": 9}
"""Drawn in some seconds: long enough to be looked at while it is."""
DEADLINE_S = 120


@dataclass
class Server:
    """A server process and a client that talks to it."""

    client: Client
    process: psutil.Process

    def worker(self) -> psutil.Process:
        return self.workers()[0]

    def workers(self) -> list[psutil.Process]:
        return workers_of(self.process)


def workers_of(server: psutil.Process) -> list[psutil.Process]:
    return [child for child in server.children() if _is_worker(child)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "flux_mcp.pipelines.worker" in process.cmdline()
    except psutil.Error:
        return False  # it ended between being listed and being asked


Start = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture
def environment(tmp_path: Path, weights_dir: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLUX_MCP_DATA_DIR": str(tmp_path / "data"),
        "FLUX_MCP_WEIGHTS_DIR": str(weights_dir),
        "FLUX_MCP_TORCH_THREADS": "1",
        "FLUX_MCP_LOG_LEVEL": "warning",
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Start:
    @asynccontextmanager
    async def start(*flags: str, **variables: str) -> AsyncIterator[Server]:
        before = {child.pid for child in psutil.Process().children()}
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "flux_mcp", "serve", *flags],
            env={**environment, **variables},
        )
        async with Client(stdio_client(parameters)) as client:
            process = next(
                child for child in psutil.Process().children() if child.pid not in before
            )
            yield Server(client, process)

    return start


@pytest.fixture
def data(environment: dict[str, str]) -> Path:
    return Path(environment["FLUX_MCP_DATA_DIR"])


async def gone(*processes: psutil.Process) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, DEADLINE_S)
    assert not alive


def lock_is_free(data: Path) -> bool:
    lock = FileLock(data / "gpu.lock")
    lock.acquire(timeout=0)
    lock.release()
    return True


# --- with real workers -------------------------------------------------------------------------


def test_a_server_draws_for_its_client_and_for_the_command_line_and_nothing_is_left(
    environment: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """Only protocol is on its stdout, torch only in its worker."""
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    # A library that prints at import, in a thread, and into a buffer nobody flushes.
    (noisy / "sitecustomize.py").write_text(
        "import atexit, os, sys, threading\n"
        "print('NOISE at import')\n"
        "atexit.register(lambda: print('NOISE at exit'))\n"
        "def later():\n"
        "    if 'flux_mcp.server.app' in sys.modules:\n"
        "        print('NOISE in a thread', flush=True)\n"
        "        print('NOISE in a buffer', end='')\n"
        "    else:\n"
        "        threading.Timer(0.05, later).start()\n"
        "threading.Timer(0.05, later).start()\n",
        encoding="utf-8",
    )
    # As users have it: text stays in a buffer until somebody flushes it.
    buffered = {name: value for name, value in environment.items() if name != "PYTHONUNBUFFERED"}
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    drawing = {
        "jsonrpc": "2.0",
        "id": 3,
        "method": "tools/call",
        "params": {"name": "flux_generate", "arguments": {**FAST, "wait_s": 200}},
    }
    with subprocess.Popen(
        [sys.executable, "-m", "flux_mcp", "serve", "--preload"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**buffered, "PYTHONPATH": str(noisy)},
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for message in (hello, ready, listing, drawing):
            server.stdin.write(json.dumps(message).encode() + b"\n")
            server.stdin.flush()
        answered = {}
        lines = []
        while 3 not in answered:
            line = server.stdout.readline()
            assert line, "the server ended early"
            lines.append(line)
            message = json.loads(line)
            answered[message.get("id")] = message
        assert len(answered[2]["result"]["tools"]) == 8
        assert not answered[3]["result"].get("isError")
        assert answered[3]["result"]["structuredContent"]["status"] == "completed"

        process = psutil.Process(server.pid)
        (worker,) = workers_of(process)
        in_server, in_worker = (
            {Path(region.path).name for region in one.memory_maps()} for one in (process, worker)
        )
        assert any(name.startswith("libtorch") for name in in_worker)
        assert not any(name.startswith(("libtorch", "libc10")) for name in in_server)

        # The server draws what the command line submits, and both see it.
        drawn = run(environment, "generate", "a yellow heart", *SMALL_FLAGS)
        assert drawn["status"] == "completed"
        hits = run(environment, "gallery", "search", "yellow heart")
        assert [image["id"] for image in hits["images"]] == [drawn["images"][0]["id"]]
        assert run(environment, "jobs", "show", drawn["job_id"])["status"] == "completed"
        assert run(environment, "jobs", "list")["depth"] == 0
        assert workers_of(process) == [worker]

        server.stdin.close()
        lines += server.stdout.read().splitlines()
        noise = server.stderr.read().decode() if server.stderr is not None else ""
        assert server.wait(DEADLINE_S) == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in lines)
    assert "NOISE at import" in noise
    assert "NOISE in a thread" in noise
    # A server that does well has nothing to say from warnings on.
    assert all(line.startswith("NOISE") for line in noise.splitlines()), noise
    _, alive = psutil.wait_procs([process, worker], DEADLINE_S)
    assert not alive
    assert lock_is_free(data)


SMALL_FLAGS = ("--width", "64", "--height", "64", "--seed", "1")


def run(environment: dict[str, str], *arguments: str) -> Any:
    command = [sys.executable, "-m", "flux_mcp", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.torture  # as its memory maps say above
def test_listing_tools_imports_no_torch_diffusers_or_transformers(
    environment: dict[str, str],
) -> None:
    program = """
import asyncio, sys
from mcp import Client
from flux_mcp.settings.settings import Settings
from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service

async def main():
    service = Service(Settings())
    service.open_in_background()
    async with Client(build_server(service)) as client:
        assert len((await client.list_tools()).tools) == 8
        answer = await client.call_tool("flux_generate", {"prompt": "a star", "dry_run": True})
        assert not answer.is_error
    await service.close()
    heavy = {"torch", "diffusers", "transformers", "accelerate", "cv2", "huggingface_hub"}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.torture  # with real workers; the same with light ones is below
async def test_servers_share_one_queue_and_a_job_outlives_its_worker_and_its_server(
    start: Start, data: Path
) -> None:
    async with start() as one, start() as two:
        assert len((await two.client.list_tools()).tools) == 8
        undisturbed = await job(two.client, "flux_generate", **MEDIUM, wait_s=200)
        # One of them draws; it is the one to kill, and the other one is to take over.
        leader, heir = (two, one) if two.workers() else (one, two)
        assert not heir.workers()
        running = await job(leader.client, "flux_generate", **SLOW, wait_s=0)
        await job_until(heir.client, running.job_id or "", draws)
        await call(heir.client, "flux_cancel_job", job_id=running.job_id)
        ended = await job_until(leader.client, running.job_id or "", is_final)
        assert ended.status == "cancelled"

        # A worker that dies is replaced.
        started = await job(heir.client, "flux_generate", **MEDIUM, wait_s=0)
        await job_until(heir.client, started.job_id or "", draws)
        first = leader.worker()
        first.kill()
        replaced = await job_until(heir.client, started.job_id or "", is_final, tries=1200)
        assert replaced.status == "completed"
        assert not heir.workers()

        # So is a server.
        started = await job(heir.client, "flux_generate", **MEDIUM, wait_s=0)
        await job_until(heir.client, started.job_id or "", draws)
        second = leader.worker()
        leader.process.send_signal(signal.SIGKILL)
        inherited = await job_until(heir.client, started.job_id or "", is_final, tries=1200)
        await gone(first, second, leader.process)
        assert inherited.status == "completed"

        pixels = [image.pixels_sha256 for image in undisturbed.images]
        for answer in (replaced, inherited):
            assert [image.pixels_sha256 for image in answer.images] == pixels
        search = await call(heir.client, "flux_search_gallery", limit=20)
        known = [i.id for answer in (undisturbed, replaced, inherited) for i in answer.images]
        found = [image["id"] for image in search.structured_content["images"]]
        assert sorted(found) == sorted(known)

        # A server whose client leaves gives back what it draws.
        unfinished = await job(heir.client, "flux_generate", **SLOW, wait_s=0)
        await job_until(heir.client, unfinished.job_id or "", draws)
        third = heir.worker()
    await gone(third, heir.process)
    assert lock_is_free(data)
    stored = stored_job(data, unfinished.job_id or "")
    assert (stored["status"], stored["attempt"], stored["owner"]) == ("queued", 0, None)


# --- with light ones ---------------------------------------------------------------------------


async def test_a_job_goes_on_whatever_ends_the_servers_that_draw_it(
    start: Start, data: Path
) -> None:
    """One server after another on one folder; each begins the job and ends in another way."""
    async with start(**light_worker(holds=True)) as server:
        job_id = (await job(server.client, "flux_generate", **MEDIUM, wait_s=0)).job_id or ""
        later = await job(server.client, "flux_generate", **FAST, wait_s=0)
        await job_until(server.client, job_id, draws)
        process, worker = server.process, server.worker()
        process.send_signal(signal.SIGKILL)
        await gone(process, worker)
    assert lock_is_free(data)
    for number in (signal.SIGTERM, signal.SIGINT, None):
        async with start(**light_worker(holds=True)) as server:
            # The attempt that the kill broke off counts; those of servers that end in order do not.
            await second_attempt_draws(server, data, job_id)
            process, worker = server.process, server.worker()
            if number is not None:
                process.send_signal(number)
                await gone(process, worker)
        await gone(process, worker)  # at the latest when its stdin is closed
        assert lock_is_free(data)
        stored = stored_job(data, job_id)
        assert (stored["status"], stored["attempt"], stored["owner"]) == ("queued", 1, None)
    async with start(**light_worker(holds=False)) as server:
        for waiting in (job_id, later.job_id or ""):
            ended = await job_until(server.client, waiting, is_final, tries=1200)
            assert ended.status == "completed"


async def second_attempt_draws(server: Server, data: Path, job_id: str) -> None:
    """Wait until a job is drawn for the second time."""
    await job_until(
        server.client, job_id, lambda _: stored_job(data, job_id)["attempt"] == 2, tries=1200
    )
    await job_until(server.client, job_id, draws, tries=1200)


async def test_a_job_that_kills_two_workers_fails_and_the_next_one_is_drawn(
    start: Start, data: Path
) -> None:
    async with start(**light_worker(holds=True)) as server:
        job_id = (await job(server.client, "flux_generate", **SLOW, wait_s=0)).job_id or ""
        await job_until(server.client, job_id, draws)
        first = server.worker()
        first.kill()
        await second_attempt_draws(server, data, job_id)
        await gone(first)
        server.worker().kill()
        ended = await job_until(server.client, job_id, is_final)
        assert ended.status == "failed"
        assert ended.error is not None
        assert ended.error.code == "worker_lost"
        assert "worker.log" in ended.error.hint
        fine = await job(server.client, "flux_generate", **FAST, wait_s=200)
        assert fine.status == "completed"


async def test_preload_starts_the_worker_an_idle_one_exits_and_a_job_starts_it_again(
    start: Start,
) -> None:
    light = light_worker(holds=False)
    async with start("--preload", FLUX_MCP_IDLE_UNLOAD_S="2", **light) as server:
        async with asyncio.timeout(DEADLINE_S):
            while not (preloaded := server.workers()):
                await call(server.client, "flux_get_job")
        await gone(*preloaded)
        answer = await job(server.client, "flux_generate", **FAST, wait_s=200)
        assert answer.status == "completed"
        await gone(*server.workers())


async def test_a_client_that_vanishes_during_a_call_takes_its_job_along(
    start: Start, data: Path
) -> None:
    """Nobody has the id of that job."""
    async with start(**light_worker(holds=True)) as server:
        process = server.process
        waiting = asyncio.create_task(call(server.client, "flux_generate", **SLOW, wait_s=200))
        async with asyncio.timeout(DEADLINE_S):
            while not (await queue_of(server.client)):
                pass
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await gone(process)
    assert [stored["status"] for stored in stored_jobs(data)] == ["cancelled"]


async def queue_of(client: Client) -> list[Any]:
    return list((await queue(client)).jobs)


def stored_jobs(data: Path) -> list[dict[str, Any]]:
    from flux_mcp.storage.database import open_database

    database = open_database(data / "gallery.sqlite")
    try:
        return list(database["jobs"].rows)
    finally:
        database.close()


def stored_job(data: Path, job_id: str) -> dict[str, Any]:
    return next(stored for stored in stored_jobs(data) if stored["id"] == job_id)
