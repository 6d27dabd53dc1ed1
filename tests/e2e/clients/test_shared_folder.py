"""A server over stdio and one over HTTP on one data folder share queue and gallery."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp import Client

from tests.e2e.calls import SLOW, call, draws, is_final, job, job_until

from .holding import SMALL
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

MEDIUM: dict[str, Any] = {**SLOW, "width": 64, "height": 64, "count": 1}


async def gone(process: psutil.Process) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, [process], DEADLINE_S)
    assert not alive


async def test_a_leader_over_http_is_followed_by_a_server_over_stdio(tmp_path: Path) -> None:
    await leader_is_followed(tmp_path / "data", http_leads=True)


async def test_a_leader_over_stdio_is_followed_by_a_server_over_http(tmp_path: Path) -> None:
    await leader_is_followed(tmp_path / "data", http_leads=False)


async def leader_is_followed(data: Path, *, http_leads: bool) -> None:
    """Submit to the server that does not lead, and kill the other; both images are seen."""
    here = Server("", None, data)  # type: ignore[arg-type] - nothing listens yet
    async with AsyncExitStack() as stack:
        if http_leads:
            server = stack.enter_context(listening(data))
            leader = await stack.enter_async_context(connected(server, HTTP))
            first = await job(leader, "flux_generate", **SMALL, wait_s=200)
            heir = await stack.enter_async_context(connected(server, STDIO))
            process = server.as_process()
        else:
            before = set(psutil.Process().children())
            leader = await stack.enter_async_context(connected(here, STDIO))
            (process,) = set(psutil.Process().children()) - before
            first = await job(leader, "flux_generate", **SMALL, wait_s=200)
            server = stack.enter_context(listening(data))
            heir = await stack.enter_async_context(connected(server, HTTP))
        (worker,) = process.children()
        started = await job(heir, "flux_generate", **MEDIUM, wait_s=0)
        await job_until(heir, started.job_id or "", draws)
        process.kill()
        ended = await job_until(heir, started.job_id or "", is_final, tries=1200)
        assert ended.status == "completed"
        await gone(worker)
        found = await call(heir, "flux_search_gallery")
        seen = [image["id"] for image in found.structured_content["images"]]
        assert set(seen) == {image.id for image in (*first.images, *ended.images)}


async def test_a_principals_images_are_hidden_from_others_over_http_but_not_over_stdio(
    server: Server,
) -> None:
    async with AsyncExitStack() as stack:

        async def client(*how: Any) -> Client:
            return await stack.enter_async_context(connected(server, *how))

        ada = await client(LEGACY_HTTP, TOKENS["ada"])
        drawn = await job(ada, "flux_generate", **SMALL, session="ada's", wait_s=200)
        sees = {
            "ada, another way": await client(SSE, TOKENS["ada"]),
            "over stdio": await client(STDIO),
        }
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


async def pictures(client: Client, session: str) -> list[str]:
    found = await call(client, "flux_search_gallery", session=session)
    return [image["id"] for image in found.structured_content["images"]]
