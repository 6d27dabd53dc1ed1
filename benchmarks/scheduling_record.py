"""Record a trace: five clients draw all kinds with micro, through one real server.

    python benchmarks/scheduling_record.py        writes traces/recorded.jsonl again

A server over HTTP, the SDK's clients, jobs as long as micro takes here. Two clients explore (a few
takes of a kind, a look, another kind), two agents alternate (one draws, one edits), one sends a
burst of all kinds now and then. What each does next follows from a seed; when, from the answers it
waits for.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from common import LONG_WAIT_S, call, scratch, wait_for
from drawings import calls
from load_server import Server
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from scheduling_traces import TRACES, Trace, export, write_trace

SIDE_PX, STEPS = 128, 8
SEED = 20261121
EXPLORED, EDITED, BURSTS, BURST = 8, 16, 3, 12
"""Rounds of each explorer, jobs of each agent, bursts, jobs of a burst."""


class Caller:
    """One client, and what it does next by chance."""

    def __init__(self, client: Client, seed: str) -> None:
        self.choose = random.Random(seed)  # noqa: S311 - made-up clients
        self._client = client
        self._calls = calls(SIDE_PX)

    async def draw(self, kinds: Sequence[str]) -> None:
        """Submit a job of each kind at once, and wait for all of them."""
        jobs = [await self._submit(kind) for kind in kinds]
        for job in jobs:
            await wait_for(self._client, job["job_id"])

    async def _submit(self, kind: str) -> dict[str, Any]:
        tool, arguments = self._calls[kind]
        size = {"steps": STEPS, "wait_s": 0, "preview": "none"}
        if kind in ("text2img", "redux"):
            size |= {"width": SIDE_PX, "height": SIDE_PX}
        given = {"model": "micro", "seed": self.choose.randrange(1000)}
        return await call(self._client, tool, {**arguments, **size, **given})

    def kind(self) -> str:
        """Return a kind by chance."""
        return self.choose.choice(list(self._calls))


async def explore(caller: Caller) -> None:
    """Ask for one to four takes of a kind, look at them, go on with another."""
    for _ in range(EXPLORED):
        await caller.draw([caller.kind()] * caller.choose.randint(1, 4))


async def repeat(caller: Caller, kind: str) -> None:
    """Ask for one image after another of the same kind."""
    for _ in range(EDITED):
        await caller.draw([kind])


async def burst(caller: Caller) -> None:
    """Ask for many images of all kinds at once, wait for all, and again."""
    for _ in range(BURSTS):
        await caller.draw([caller.kind() for _ in range(BURST)])


CLIENTS: tuple[Callable[[Caller], Awaitable[None]], ...] = (
    explore,
    explore,
    partial(repeat, kind="text2img"),
    partial(repeat, kind="kontext"),
    burst,
)


async def record(data_dir: Path) -> None:
    """Let all clients draw until they are done."""
    tokens = [secrets.token_urlsafe(32) for _ in CLIENTS]
    file = data_dir / "tokens"
    file.touch(mode=0o600)
    file.write_text("".join(f"client{number} {token}\n" for number, token in enumerate(tokens)))
    server = Server(data_dir)
    try:
        async with asyncio.TaskGroup() as group:
            for number, (token, behave) in enumerate(zip(tokens, CLIENTS, strict=True)):
                group.create_task(_visit(server.url, token, f"{SEED} {number}", behave))
    finally:
        server.stop()


async def _visit(
    url: str, token: str, seed: str, behave: Callable[[Caller], Awaitable[None]]
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=2 * LONG_WAIT_S) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        await behave(Caller(client, seed))


def main() -> None:
    """Draw, and keep which jobs came when."""
    with scratch() as folder:
        asyncio.run(record(folder))
        jobs = export(folder)
    about = {
        "recorded": f"five clients of one server over HTTP, micro, {SIDE_PX} px, {STEPS} steps",
        "seed": SEED,
        "jobs": len(jobs),
    }
    write_trace(Trace("recorded", about, jobs), TRACES / "recorded.jsonl")
    print(f"{len(jobs)} jobs in recorded.jsonl")


if __name__ == "__main__":
    main()
