"""A server over stdio and one over HTTP on one data folder share queue and gallery."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp import Client

from tests.e2e.calls import call, draws, is_final, job, job_until

from .holding import ENDLESS, SMALL
from .transports import (
    DEADLINE_S,
    HTTP,
    LEGACY_HTTP,
    SSE,
    STDIO,
    TOKENS,
    Server,
    connected,
    listening,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and signals are POSIX here"),
]

HALF: dict[str, Any] = {**ENDLESS, "prompt": "wait for the next attempt"}
"""The light worker only begins it, and draws it when it is tried again."""


async def gone(process: psutil.Process) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, [process], DEADLINE_S)
    assert not alive


@pytest.mark.torture  # test_processes.py keeps that a follower takes over
async def test_whoever_leads_a_server_of_the_other_kind_follows_and_takes_over(
    tmp_path: Path,
) -> None:
    """Over HTTP, then over stdio, then over HTTP: each is killed while it draws for the next."""
    data = tmp_path / "data"
    async with AsyncExitStack() as stack:
        first_server = stack.enter_context(listening(data))
        first = await stack.enter_async_context(connected(first_server, HTTP))
        drawn = await job(first, "flux_generate", **SMALL, wait_s=200)
        seen = [image.id for image in drawn.images]

        before = set(psutil.Process().children())
        second = await stack.enter_async_context(connected(first_server, STDIO))
        (second_process,) = set(psutil.Process().children()) - before
        seen += await taken_over(first_server.as_process(), second)
        assert sorted(await pictures(second)) == sorted(seen)

        third_server = stack.enter_context(listening(data))
        third = await stack.enter_async_context(connected(third_server, HTTP))
        seen += await taken_over(second_process, third)
        assert sorted(await pictures(third)) == sorted(seen)


async def taken_over(leader: psutil.Process, heir: Client) -> list[str]:
    """Submit to the server that does not lead, and kill the other; return the ids of its images."""
    started = await job(heir, "flux_generate", **HALF, wait_s=0)
    await job_until(heir, started.job_id or "", draws)
    (worker,) = leader.children()
    leader.kill()
    ended = await job_until(heir, started.job_id or "", is_final, tries=1200)
    assert (ended.status, len(ended.images)) == ("completed", 1)
    await gone(worker)
    return [image.id for image in ended.images]


async def test_a_principals_images_are_hidden_from_others_over_http_but_not_over_stdio(
    server: Server, stdio: Client
) -> None:
    async with AsyncExitStack() as stack:

        async def client(*how: Any) -> Client:
            return await stack.enter_async_context(connected(server, *how))

        ada = await client(LEGACY_HTTP, TOKENS["ada"])
        drawn = await job(ada, "flux_generate", **SMALL, session="ada's", wait_s=200)
        sees = {"ada, another way": await client(SSE, TOKENS["ada"]), "over stdio": stdio}
        for who, looking in sees.items():
            assert await pictures(looking, "ada's") == [drawn.images[0].id], who
            found = await job(looking, "flux_get_job", job_id=drawn.job_id)
            assert found.status == "completed", who
        for route in (HTTP, SSE):
            bob = await client(route, TOKENS["bob"])
            assert await pictures(bob, "ada's") == []
            refused = await call(bob, "flux_get_job", job_id=drawn.job_id)
            assert refused.is_error
            assert "[unknown_job]" in refused.content[0].text


async def pictures(client: Client, session: str | None = None) -> list[str]:
    asked = {} if session is None else {"session": session}
    found = await call(client, "flux_search_gallery", **asked)
    return [image["id"] for image in found.structured_content["images"]]
