"""Agents watch and cancel a download that a person started; and nobody else goes online."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from flux_mcp.errors import UnknownJobError
from flux_mcp.principals import acting_as
from flux_mcp.service.answers import DownloadAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.models.hub_server import Fault, HubServer
from tests.models.pulls import SCHNELL, TOKEN, TRANSFORMER, alone, micro_files

from .calls import FAST, call, download_until, is_final, job

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and signals are POSIX here"),
]

FILES = micro_files()
MIB = 1024 * 1024
WATCHED = Path(__file__).with_name("watched")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    with server.running():
        server.add(SCHNELL, FILES)
        yield server


@pytest.fixture
def environment(tmp_path: Path, weights_dir: Path, hub: HubServer) -> dict[str, str]:
    return {
        **os.environ,
        **alone(hub, tmp_path),
        "FLUX_MCP_DATA_DIR": str(tmp_path / "data"),
        "FLUX_MCP_WEIGHTS_DIR": str(weights_dir),
        "FLUX_MCP_LOG_LEVEL": "warning",
    }


@asynccontextmanager
async def serving(environment: dict[str, str]) -> AsyncIterator[Client]:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "flux_mcp", "serve"], env=environment
    )
    async with Client(stdio_client(parameters)) as client:
        yield client


async def begin(environment: dict[str, str]) -> tuple[Process, str]:
    """Start `models pull` as a person does; return it and the id it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flux_mcp", "models", "pull", "flux1-schnell", "--yes",
        env=environment, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        line = (await process.stderr.readline()).decode()
    return process, line.removeprefix("Download ").split(":")[0]


async def ended(process: Process) -> tuple[int | None, str]:
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, (out + err).decode()


def is_halfway(answer: DownloadAnswer) -> bool:
    return answer.phase == "downloading" and answer.percent >= 20


async def test_agents_watch_a_download_to_its_end(
    environment: dict[str, str], hub: HubServer
) -> None:
    hub.faults[TRANSFORMER] = [Fault(hold_after=3 * MIB)]
    async with serving(environment) as client:
        process, download_id = await begin(environment)
        running = await download_until(client, download_id, is_halfway)
        assert (running.download_id, running.status) == (download_id, "running")
        assert running.models == ("flux1-schnell",)
        assert f"({running.percent} %)" in running.message
        queue = await call(client, "flux_get_job")
        assert queue.structured_content["downloads"] == [download_id]
        assert f"{download_id}: a download of weights runs" in queue.content[0].text
        told = await call(client, "flux_get_job", job_id=download_id, wait_s=0)
        assert f'Call flux_get_job with job_id "{download_id}"' in told.content[0].text
        read = await client.read_resource(f"flux://downloads/{download_id}")
        record = json.loads(read.contents[0].text)
        assert 0 < record["done_bytes"] < record["total_bytes"] == 8093504
        heard: list[str | None] = []

        async def hear(_progress: float, _total: float | None, message: str | None) -> None:
            heard.append(message)
            hub.let_go.set()

        arguments = {"job_id": download_id, "wait_s": 60}
        done = await client.call_tool("flux_get_job", arguments, progress_callback=hear)
        answer = DownloadAnswer.model_validate(done.structured_content)
        assert (answer.status, answer.percent, answer.error) == ("completed", 100, None)
        assert "flux1-schnell can be used" in done.content[0].text
        assert any("MiB" in (message or "") for message in heard)
        assert (await ended(process))[0] == 0
        after = await call(client, "flux_get_job")
        assert after.structured_content["downloads"] == []


async def test_agents_cancel_a_download_and_what_came_is_kept(
    environment: dict[str, str], hub: HubServer, tmp_path: Path
) -> None:
    hub.faults[TRANSFORMER] = [Fault(hold_after=3 * MIB)]
    async with serving(environment) as client:
        process, download_id = await begin(environment)
        await download_until(client, download_id, is_halfway)
        cancelled = await call(client, "flux_cancel_job", job_id=download_id)
        assert cancelled.structured_content["stopping"] == [download_id]
        code, said = await ended(process)
        assert (code, "was cancelled. What was downloaded is kept" in said) == (1, True)
        answer = await download_until(client, download_id, is_final)
        assert answer.status == "cancelled"
        again = await call(client, "flux_cancel_job", job_id=download_id)
        assert again.structured_content["already_final"] == [download_id]
    (partial,) = tmp_path.glob("data/hf-cache/hub/*/blobs/*.incomplete")
    assert partial.stat().st_size > MIB


async def test_agents_read_why_a_download_failed_but_no_token(
    environment: dict[str, str], hub: HubServer
) -> None:
    hub.add(SCHNELL, FILES, gated=True)
    hub.accounts[TOKEN] = "ada"
    async with serving({**environment, "HF_TOKEN": TOKEN}) as client:
        process, download_id = await begin({**environment, "HF_TOKEN": TOKEN})
        answer = await download_until(client, download_id, is_final)
        assert (answer.status, answer.error.code) == ("failed", "gated")
        told = await call(client, "flux_get_job", job_id=download_id)
        assert "'ada'" in told.content[0].text
        assert TOKEN not in told.model_dump_json()
        assert TOKEN not in (await ended(process))[1]


async def test_a_download_that_is_not_there_is_an_unknown_job(
    environment: dict[str, str],
) -> None:
    async with serving(environment) as client:
        for tool in ("flux_get_job", "flux_cancel_job"):
            refused = await call(client, tool, job_id="dl_nothing")
            assert refused.is_error
            assert "[unknown_job]" in refused.content[0].text


async def test_downloads_belong_to_whoever_starts_programs_here(
    settings: Settings, environment: dict[str, str]
) -> None:
    process, download_id = await begin(environment)
    code, said = await ended(process)
    assert code == 0, said
    service = Service(settings, executes=False)
    assert str(settings.data_dir) == environment["FLUX_MCP_DATA_DIR"]
    try:
        assert (await service.downloads.find(download_id)).status == "completed"
        with acting_as("ada"):
            for ask in (service.downloads.find, service.cancel):
                with pytest.raises(UnknownJobError):
                    await ask(download_id)
    finally:
        await service.close()


def connections(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.is_file() else []


async def test_only_a_pull_goes_online(
    environment: dict[str, str], hub: HubServer, tmp_path: Path
) -> None:
    log = tmp_path / "connections"
    path = os.pathsep.join((str(WATCHED), environment["PYTHONPATH"]))
    watched: dict[str, Any] = {**environment, "PYTHONPATH": path, "CONNECTIONS": str(log)}
    async with serving(watched) as client:
        drawn = await job(client, "flux_generate", **FAST, wait_s=200)
        assert drawn.status == "completed"
        assert any("models pull flux2-klein-4b" in notice for notice in drawn.notices)
        refused = await call(client, "flux_generate", **FAST, model="flux1-schnell", wait_s=200)
        assert "[weights_missing]" in refused.content[0].text
    assert connections(log) == []
    assert hub.seen == []
    process, _ = await begin(watched)
    code, said = await ended(process)
    assert code == 0, said
    asked = connections(log)
    assert asked
    assert all("models/hub/process.py" in line or "-m" in line for line in asked), asked
    assert hub.seen
