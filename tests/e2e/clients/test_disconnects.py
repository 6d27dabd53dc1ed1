"""What becomes of a job when its caller loses patience, stops, hangs up or vanishes.

Over every route, for both values of `on_disconnect`, before and after the caller was told the id.
The whole play is acted once, with nobody drawing, so that jobs wait for as long as it takes; then
one process draws what is left. The tests are the table of what must have happened.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from mcp.shared.exceptions import MCPError
from mcp.types import REQUEST_TIMEOUT, CallToolResult

from tests.e2e.calls import queue

from .holding import ends, hold, stop
from .transports import (
    DEADLINE_S,
    HTTP,
    LEGACY_HTTP,
    ROUTES,
    Route,
    Server,
    connected,
    errors_in,
    listening,
    stored_jobs,
    until,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and signals are POSIX here"),
]

PATIENCE_S = 5.0
"""Of the client that times out: long enough for a first sign of life on a busy machine."""
REPOSITORY = Path(__file__).parents[3]
CASES = {"cancel": ("open", "told"), "keep": ("open",)}
"""Whether the caller was told the id, for each value of `on_disconnect`."""
ROUTES_OF = {"cancel": ROUTES, "keep": tuple(route for route in ROUTES if route.era == "auto")}
"""How a lost call is told differs by route; what becomes of it then, by the setting alone."""
DEEDS = ("times out", "stops", "hangs up", "vanishes")


def becomes(deed: str, route: Route, setting: str, case: str) -> str:
    """What must become of the job: the table of docs/clients/behaviour.md."""
    if case == "told" or setting == "keep":
        return "completed"
    # The reason of its cancellation says that it ran out of time; a closed stream has no reason.
    if deed == "times out" and route != HTTP:
        return "completed"
    # An HTTP connection of 2025-11-25 that breaks says nothing: its client may come back for it.
    return "completed" if (deed, route) == ("vanishes", LEGACY_HTTP) else "cancelled"


TABLE = {
    f"{deed}-{setting}-{route}-{case}": becomes(deed, route, setting, case)
    for deed, setting in product(DEEDS, CASES)
    for route, case in product(ROUTES_OF[setting], CASES[setting])
}


@dataclass
class Play:
    """What came of it."""

    jobs: dict[str, str] = field(default_factory=dict)
    """The last status of each job, by its session."""
    calls: dict[str, list[CallToolResult | BaseException]] = field(default_factory=dict)
    """How the calls of those ended who lost patience."""
    left_behind: list[psutil.Process] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
async def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    data = tmp_path_factory.mktemp("disconnects") / "data"
    data.mkdir()
    play = Play()
    nobody_draws = FileLock(data / "gpu.lock")
    nobody_draws.acquire(timeout=0)
    with ExitStack() as stack:
        servers = {
            setting: stack.enter_context(listening(data, **variables(setting))) for setting in CASES
        }
        loaded = asyncio.Barrier(sum(map(len, ROUTES_OF.values())))
        roles = [act(play, server, setting, loaded) for setting, server in servers.items()]
        await asyncio.gather(*roles, vanish(play, servers))
        await settled(data, {session for session, end in TABLE.items() if end == "cancelled"})
        nobody_draws.release()
        await settled(data, set(TABLE))
        play.jobs = {stored["session"]: stored["status"] for stored in stored_jobs(data)}
        play.errors += [line for server in servers.values() for line in server.errors()]
    return play


def variables(setting: str) -> dict[str, str]:
    return {"FLUX_MCP_ON_DISCONNECT": setting, "FLUX_MCP_QUEUE_LIMIT": str(len(TABLE))}


async def act(play: Play, server: Server, setting: str, loaded: asyncio.Barrier) -> None:
    """Lose patience, stop, and hang up, over every route at the same time."""

    async def over(route: Route) -> None:
        async with connected(server, route, **variables(setting)) as client:
            await queue(client)
            await loaded.wait()  # a server loads most of itself for its first call
            name, cases = f"{setting}-{route}", CASES[setting]
            play.calls[name] = await ends(
                await hold(client, f"times out-{name}", cases, PATIENCE_S)
            )
            await stop(await hold(client, f"stops-{name}", cases))
            held = await hold(client, f"hangs up-{name}", cases)
        await ends(held)

    await asyncio.gather(*(over(route) for route in ROUTES_OF[setting]))


async def vanish(play: Play, servers: Mapping[str, Server]) -> None:
    """Kill a client process that holds calls open over every route to both servers."""
    asked = {
        "data": str(servers["keep"].data),
        "calls": [
            (server.url, variables(setting), f"vanishes-{setting}", CASES[setting], route)
            for setting, server in servers.items()
            for route in ROUTES_OF[setting]
        ],
    }
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.e2e.clients.holding",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stderr is not None
    client.stdin.write(json.dumps(asked).encode())
    client.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await client.stdout.readline() == b"holding\n"
    started = psutil.Process(client.pid).children()
    client.kill()
    await client.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, started, DEADLINE_S)
    play.left_behind += alive
    # Its servers over stdio wrote there as well, and have ended.
    said = (await client.stderr.read()).decode()
    play.errors += errors_in(said.splitlines())


async def settled(data: Path, sessions: set[str]) -> None:
    """Wait until the jobs of these sessions have ended."""
    await until(
        lambda: sessions <= {one["session"] for one in stored_jobs(data) if one["finished_at"]}
    )


@pytest.mark.parametrize("session", TABLE)
async def test_the_job_of_a_lost_call_is_cancelled_only_while_nobody_has_its_id(
    play: Play, session: str
) -> None:
    assert play.jobs[session] == TABLE[session]


async def test_a_call_that_loses_patience_ends_with_a_timeout(play: Play) -> None:
    codes = [
        end.error.code for each in play.calls.values() for end in each if isinstance(end, MCPError)
    ]
    assert len(play.calls) == sum(map(len, ROUTES_OF.values()))
    assert codes == [REQUEST_TIMEOUT] * sum(len(each) for each in play.calls.values())


async def test_stdio_servers_end_with_their_clients(play: Play) -> None:
    assert not play.left_behind


async def test_nothing_of_this_is_an_error_of_the_server(play: Play) -> None:
    assert not play.errors
