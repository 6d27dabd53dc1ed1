"""A client that holds calls open: what the tests do something to, and a program to be killed.

As a program it reads what to connect to and how from stdin, holds calls open there, says so on
stdout and does nothing more.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.types import CallToolResult

from tests.e2e.calls import FAST, job
from tests.e2e.clients.transports import Route, Server, connected

WAIT_S = 230
SMALL: dict[str, Any] = {**FAST, "steps": 1, "preview": "none"}
ENDLESS: dict[str, Any] = {**FAST, "prompt": "wait until you are cancelled", "preview": "none"}
"""The light worker begins it, and goes on when it is cancelled."""


Call = asyncio.Task[CallToolResult]


async def hold(
    client: Client, session: str, cases: Sequence[str], timeout_s: float | None = None
) -> list[Call]:
    """Hold calls open, each until the server has told something about its job.

    Args:
        client: Makes the calls.
        session: Names the jobs: `<session>-<case>`.
        cases: `open`, a call whose caller knows no job id yet; `told`, one that asks with the id.
        timeout_s: The client's own patience with each call; none is the SDK's, minutes.
    """
    held = []
    for case in cases:
        asked = {**SMALL, "session": f"{session}-{case}"}
        if case == "open":
            asked["wait_s"] = WAIT_S
            held.append(await waiting(client, "flux_generate", asked, timeout_s))
        else:
            told = await job(client, "flux_generate", **asked, wait_s=0)
            look = {"job_id": told.job_id, "wait_s": WAIT_S}
            held.append(await waiting(client, "flux_get_job", look, timeout_s))
    return held


async def stop(calls: Sequence[Call]) -> None:
    """Cancel calls, as a Stop button does."""
    for calling in calls:
        calling.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def ends(calls: Sequence[Call]) -> list[CallToolResult | BaseException]:
    """Wait for calls to end; return what came of them."""
    return await asyncio.gather(*calls, return_exceptions=True)


async def waiting(
    client: Client, tool: str, asked: dict[str, Any], timeout_s: float | None = None
) -> asyncio.Task[CallToolResult]:
    """Begin a call; return when the server has reported its first progress."""
    heard = asyncio.Event()

    async def hear(_progress: float, _total: float | None, _message: str | None) -> None:
        heard.set()

    calling = asyncio.create_task(
        client.call_tool(tool, asked, progress_callback=hear, read_timeout_seconds=timeout_s)
    )
    hearing = asyncio.create_task(heard.wait())
    await asyncio.wait({calling, hearing}, return_when=asyncio.FIRST_COMPLETED)
    hearing.cancel()
    # What it was answered instead, as text: pytest cuts long objects.
    assert heard.is_set(), f"{calling.result().content[0]}"[:600]
    return calling


async def _hold_everywhere(asked: dict[str, Any]) -> None:
    holding = asyncio.Barrier(1 + len(asked["calls"]))

    async def over(
        url: str, variables: Any, session: str, cases: list[str], name: list[str]
    ) -> None:
        server = Server(url, None, Path(asked["data"]))  # type: ignore[arg-type] - not ours to end
        route = Route(*name)
        async with connected(server, route, **variables) as client:
            calls = await hold(client, f"{session}-{route}", cases)
            await holding.wait()
            await ends(calls)

    async with asyncio.TaskGroup() as tasks:
        for one in asked["calls"]:
            tasks.create_task(over(*one))
        await holding.wait()
        sys.stdout.write("holding\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_hold_everywhere(json.load(sys.stdin)))
