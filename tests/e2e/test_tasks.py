"""Tasks over real processes: a server is killed and the task goes on; HTTP routes and owns it."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from filelock import FileLock
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import HEADER_MISMATCH, INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY

from flux_mcp.service.answers import lean
from tests.server.task_client import TASKS_ID, TasksClient, ask, ended, task_of

from .calls import FAST, job
from .light import light_worker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and file modes are POSIX here"),
]

DEADLINE_S = 120
TOKENS = {"ada": "ada-has-a-token-of-her-own", "bob": "bob-has-a-token-of-his-own"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, weights_dir: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLUX_MCP_DATA_DIR": str(tmp_path_factory.mktemp("tasks") / "data"),
        "FLUX_MCP_WEIGHTS_DIR": str(weights_dir),
    }


# --- a killed server ---------------------------------------------------------------------------


@asynccontextmanager
async def over_stdio(environment: dict[str, str]) -> AsyncIterator[tuple[Client, psutil.Process]]:
    before = {child.pid for child in psutil.Process().children()}
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "flux_mcp", "serve"], env=environment
    )
    async with Client(stdio_client(parameters), extensions=[TasksClient()]) as client:
        process = next(child for child in psutil.Process().children() if child.pid not in before)
        yield client, process


async def test_a_task_survives_the_death_of_its_server(environment: dict[str, str]) -> None:
    asked = {**FAST, "steps": 64, "count": 2, "preview": "normal"}
    holding, drawing = ({**environment, **light_worker(holds=holds)} for holds in (True, False))
    async with over_stdio(holding) as (client, server):
        created = await task_of(client, "flux_generate", **asked)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                task = await ask(client.session, "tasks/get", created.task_id)
                if task["statusMessage"].startswith("denoising, "):
                    break
                await asyncio.sleep(0.1)
        server.kill()
        await asyncio.to_thread(psutil.wait_procs, [server], DEADLINE_S)
    assert task["status"] == "working"

    async with over_stdio(drawing) as (client, _):
        task = await ended(client.session, created.task_id, DEADLINE_S)
        assert (task["status"], task["createdAt"]) == ("completed", created.wire["createdAt"])
        answer = await job(client, "flux_get_job", job_id=created.task_id)
    kinds = [block["type"] for block in task["result"]["content"]]
    assert kinds == ["text", "image", "image", "resource_link", "resource_link"]
    assert task["result"]["structuredContent"] == lean(answer)
    assert [Path(image.path).is_file() for image in answer.images] == [True, True]


# --- over HTTP ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def url(environment: dict[str, str]) -> AsyncIterator[str]:
    """A server that lets ada and bob in and never draws: somebody else has the GPU lock."""
    data = Path(environment["FLUX_MCP_DATA_DIR"])
    data.mkdir(parents=True, exist_ok=True)
    tokens = data / "tokens"
    tokens.touch(0o600)
    tokens.write_text("".join(f"{name} {token}\n" for name, token in TOKENS.items()))
    with FileLock(data / "gpu.lock"):
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "flux_mcp", "serve", "--transport", "http", "--port", "0"),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert server.stderr is not None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not (found := re.search(rb"address=(\S+)", await server.stderr.readline())):
                    assert server.returncode is None
            yield f"{found[1].decode()}/mcp"
        finally:
            server.terminate()
            await server.communicate()


@asynccontextmanager
async def over_http(url: str, name: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {TOKENS[name]}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http), extensions=[TasksClient()]) as client,
    ):
        yield client


async def post(
    url: str, method: str, *, headers: dict[str, str], extensions: dict[str, Any], **params: Any
) -> tuple[int, dict[str, Any]]:
    """Send one request of 2026-07-28 as it is; return the HTTP status and the JSON-RPC answer."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"extensions": extensions},
    }
    async with httpx2.AsyncClient(timeout=DEADLINE_S) as http:
        answer = await http.post(
            url,
            json={
                "jsonrpc": "2.0",
                "id": 1,
                "method": method,
                "params": {**params, "_meta": meta},
            },
            headers={
                "Authorization": f"Bearer {TOKENS['ada']}",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": method,
                **headers,
            },
        )
    return answer.status_code, json.loads(answer.text)


async def test_a_task_is_found_again_by_whom_it_belongs_to_and_by_nobody_else(url: str) -> None:
    async with over_http(url, "ada") as ada:
        task_id = (await task_of(ada, "flux_generate", **FAST)).task_id
    refusals = []
    async with over_http(url, "bob") as bob:
        for asked in (task_id, "job_nobody-ever-had"):
            for method in ("tasks/get", "tasks/cancel"):
                with pytest.raises(MCPError) as refused:
                    await ask(bob.session, method, asked)
                assert refused.value.code == INVALID_PARAMS
                refusals.append(refused.value.message.replace(asked, "…"))
    assert len(set(refusals)) == 1
    async with over_http(url, "ada") as ada:
        assert (await ask(ada.session, "tasks/get", task_id))["status"] == "working"


async def test_every_request_says_for_itself_whether_it_takes_tasks(url: str) -> None:
    call = {"headers": {"Mcp-Name": "flux_generate"}, "name": "flux_generate"}
    waits = {**FAST, "wait_s": 0.5}
    _, with_tasks = await post(
        url, "tools/call", extensions={TASKS_ID: {}}, arguments=waits, **call
    )
    assert with_tasks["result"]["resultType"] == "task"
    assert with_tasks["result"]["ttlMs"] is None
    _, without = await post(url, "tools/call", extensions={}, arguments=waits, **call)
    assert without["result"]["resultType"] == "complete"
    task_id = with_tasks["result"]["taskId"]
    status, refused = await post(
        url, "tasks/get", headers={"Mcp-Name": task_id}, extensions={}, taskId=task_id
    )
    assert status == 400
    assert refused["error"]["code"] == MISSING_REQUIRED_CLIENT_CAPABILITY


async def test_the_header_that_routes_a_task_must_name_it(url: str) -> None:
    async with over_http(url, "ada") as ada:
        task_id = (await task_of(ada, "flux_generate", **FAST)).task_id
    declared = {"extensions": {TASKS_ID: {}}, "taskId": task_id}
    status, found = await post(url, "tasks/get", headers={"Mcp-Name": task_id}, **declared)
    assert (status, found["result"]["taskId"]) == (200, task_id)
    for method, params in (
        ("tasks/get", {}),
        ("tasks/update", {"inputResponses": {}}),
        ("tasks/cancel", {}),
    ):
        for headers in ({"Mcp-Name": "another-task"}, {}):
            status, refused = await post(url, method, headers=headers, **params, **declared)
            assert (status, refused["error"]["code"]) == (400, HEADER_MISMATCH)
    _, found = await post(url, "tasks/get", headers={"Mcp-Name": task_id}, **declared)
    assert found["result"]["status"] == "working"
