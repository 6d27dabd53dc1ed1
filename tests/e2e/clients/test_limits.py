"""One server process of few open files: what callers without a token, or with a name, cannot do."""

import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from tests.e2e.calls import job

from .holding import SMALL
from .raw import ACCEPT, hello, opened, request
from .transports import HTTP, TOKENS, Server, connected, http_client, listening

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX"),
]

FILES = 256
SILENT = 300
SESSIONS = 5
MIB = 1024 * 1024
BODIES = 8


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may open 256 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    data = tmp_path_factory.mktemp("limits") / "data"
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    with ExitStack() as stack:
        try:
            server = stack.enter_context(listening(data, FLUX_MCP_MAX_SESSIONS=str(SESSIONS)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield server
        assert not server.errors(), "".join(server.said)


async def test_connections_without_a_request_stop_nothing(limited: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * SILENT)), hard))
    with ExitStack() as stack:
        for number in range(SILENT):
            silent = stack.enter_context(socket.socket())
            silent.setblocking(False)  # noqa: FBT003 - its signature
            silent.connect_ex(("127.0.0.1", limited.port))
            if number % 3 == 0:
                try:
                    silent.send(b"POST /mcp HTTP/1.1\r\nHost: lo")
                except OSError:
                    continue  # not connected yet, or closed again
        async with connected(limited, HTTP) as client:
            drawn = await job(client, "flux_generate", **SMALL, wait_s=200)
        assert drawn.status == "completed"
        assert limited.as_process().num_fds() < FILES - 50
    lines = [line for line in limited.said if "connections" in line]
    assert 0 < len(lines) < 10, lines


async def test_a_named_token_cannot_take_the_sessions_of_others(limited: Server) -> None:
    async with http_client(TOKENS["ada"]) as ada, opened(limited) as owner:
        ids = []
        for _ in range(3 * SESSIONS):
            answer = await ada.post(f"{limited.url}/mcp", json=hello(), headers=ACCEPT)
            assert answer.status_code == 200
            ids.append(answer.headers["mcp-session-id"])
        statuses = []
        for session_id in ids:
            headers = {**owner.headers, "Mcp-Session-Id": session_id}
            ping = await ada.post(f"{limited.url}/mcp", json=request("ping"), headers=headers)
            statuses.append(ping.status_code)
        # The oldest, which were idle, made room.
        assert statuses == [404] * 2 * SESSIONS + [200] * SESSIONS
        async with owner.post(request("ping")) as stream:
            assert await anext(stream)


async def test_bodies_that_are_never_finished_hold_a_share_of_memory_only(limited: Server) -> None:
    before_bytes = limited.as_process().memory_info().rss
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['ada']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {94 * MIB}\r\n\r\n"
    )
    with ExitStack() as stack:
        codes = []
        for number in range(BODIES):
            sender = stack.enter_context(socket.create_connection(("127.0.0.1", limited.port)))
            sender.settimeout(60)
            sender.sendall(head.encode())
            if number:
                codes.append(sender.recv(4096).split(b" ", 2)[1])
            else:
                sender.sendall(b" " * 20 * MIB)
        assert codes == [b"503"] * (BODIES - 1)
        assert limited.as_process().memory_info().rss - before_bytes < 150 * MIB
        async with opened(limited) as owner, owner.post(request("ping")) as stream:
            assert await anext(stream)


async def test_a_named_token_is_told_no_path_of_the_server(limited: Server) -> None:
    folders = (limited.data, limited.data.parent, Path(sys.prefix), Path.home(), Path.cwd())
    roots = {str(folder) for folder in folders if len(folder.parts) > 2}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("flux_generate", {**SMALL, "wait_s": 200}),
        ("flux_generate", {"prompt": "x", "dry_run": True}),
        ("flux_generate", {"prompt": "x", "loras": ["none"], "dry_run": True}),
        ("flux_generate", {"prompt": "x", "pack": {"pack": "none", "subject": "x"}}),
        *(
            ("flux_generate", {"prompt": "x", "model": model, "dry_run": True})
            for model in ("flux1-dev", "flux2-klein-4b", "none")
        ),
        ("flux_edit", {"prompt": "x", "images": [str(limited.data / "images" / "x.png")]}),
        ("flux_edit", {"prompt": "x", "images": ["data:image/png;base64,AAAA"]}),
        ("flux_get_job", {}),
        ("flux_search_gallery", {}),
    ]
    async with connected(limited, HTTP, TOKENS["ada"]) as client:
        told = [await client.call_tool(name, arguments) for name, arguments in calls]
        resources = (await client.list_resources()).resources
        told += [await client.read_resource(one.uri) for one in resources]
        told += [await client.list_prompts(), await client.list_resource_templates()]
        with pytest.raises(MCPError) as refused:
            await client.get_prompt("none")
        told += [refused.value.error]
        assert told[0].structured_content["images"][0].keys() & {"path"} == set()
    for answer in told:
        text = answer.model_dump_json(exclude={"content": {"__all__": {"data", "blob"}}})
        assert not [root for root in roots if root in text], text[:3000]
    async with connected(limited, HTTP) as owner:
        job = {"job_id": told[0].structured_content["job_id"]}
        drawn = await owner.call_tool("flux_get_job", job)
        assert str(limited.data) in drawn.structured_content["images"][0]["path"]
