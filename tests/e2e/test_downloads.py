"""Agents watch and cancel a download that a person started; and nobody else goes online."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from flux_mcp.errors import UnknownJobError
from flux_mcp.principals import acting_as
from flux_mcp.service.answers import DownloadAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.models.hub_server import Fault, HubServer
from tests.models.pulls import DEV, SCHNELL, TOKEN, TRANSFORMER, alone, micro_files

from .calls import FAST, call, download_until, is_final, job

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and signals are POSIX here"),
]

FILES = micro_files()
MIB = 1024 * 1024
WATCHED = Path(__file__).with_name("watched")


@pytest.fixture(scope="module")
def listening() -> Iterator[HubServer]:
    server = HubServer()
    with server.running():
        yield server


@pytest.fixture
def hub(listening: HubServer) -> HubServer:
    listening.clear()
    for repository in (SCHNELL, DEV):
        listening.add(repository, FILES)
    return listening


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def environment(folder: Path, weights_dir: Path, listening: HubServer) -> dict[str, str]:
    """Of the server and of those who pull: every connection of theirs is written down."""
    alone_here = alone(listening, folder)
    return {
        **os.environ,
        **alone_here,
        "PYTHONPATH": os.pathsep.join((str(WATCHED), alone_here["PYTHONPATH"])),
        "FLUX_MCP_DATA_DIR": str(folder / "data"),
        "FLUX_MCP_WEIGHTS_DIR": str(weights_dir),
        "FLUX_MCP_LOG_LEVEL": "warning",
    }


@pytest.fixture(scope="module")
async def client(environment: dict[str, str], folder: Path) -> AsyncIterator[Client]:
    """A client of one server, which has a token for the hub and must never go there."""
    log = folder / "connections of the server"
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "flux_mcp", "serve"],
        env={**environment, "HF_TOKEN": TOKEN, "CONNECTIONS": str(log)},
    )
    async with Client(stdio_client(parameters)) as client:
        yield client
    assert connections(log) == []


def connections(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.is_file() else []


@pytest.fixture
def pulls(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of those who pull in this test."""
    return {**environment, "CONNECTIONS": str(tmp_path / "connections")}


async def begin(environment: dict[str, str], model: str) -> tuple[Process, str]:
    """Start `models pull` as a person does; return it and the id it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flux_mcp", "models", "pull", model, "--yes",
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


async def test_nobody_goes_online_to_draw(client: Client, hub: HubServer) -> None:
    """Before anything is downloaded; the server's own connections are looked at when it is gone."""
    drawn = await job(client, "flux_generate", **FAST, wait_s=200)
    assert drawn.status == "completed"
    assert any("models pull flux2-klein-4b" in notice for notice in drawn.notices)
    asked = {**FAST, "width": 256, "height": 256, "model": "flux1-schnell"}
    refused = await call(client, "flux_generate", **asked, wait_s=200)
    assert "[weights_missing]" in refused.content[0].text
    assert hub.seen == []


async def test_agents_read_why_a_download_failed_but_no_token(
    client: Client, pulls: dict[str, str], hub: HubServer
) -> None:
    hub.add(SCHNELL, FILES, gated=True)
    hub.accounts[TOKEN] = "ada"
    process, download_id = await begin({**pulls, "HF_TOKEN": TOKEN}, "flux1-schnell")
    answer = await download_until(client, download_id, is_final)
    assert (answer.status, answer.error.code) == ("failed", "gated")
    told = await call(client, "flux_get_job", job_id=download_id)
    assert "'ada'" in told.content[0].text
    assert TOKEN not in told.model_dump_json()
    assert TOKEN not in (await ended(process))[1]


async def test_agents_cancel_a_download_and_what_came_is_kept(
    client: Client, pulls: dict[str, str], hub: HubServer, folder: Path
) -> None:
    hub.faults[TRANSFORMER] = [Fault(hold_after=3 * MIB)]
    process, download_id = await begin(pulls, "flux1-dev")
    await download_until(client, download_id, is_halfway)
    cancelled = await call(client, "flux_cancel_job", job_id=download_id)
    assert cancelled.structured_content["stopping"] == [download_id]
    code, said = await ended(process)
    assert (code, "was cancelled. What was downloaded is kept" in said) == (1, True)
    answer = await download_until(client, download_id, is_final)
    assert answer.status == "cancelled"
    again = await call(client, "flux_cancel_job", job_id=download_id)
    assert again.structured_content["already_final"] == [download_id]
    (partial,) = folder.glob("data/hf-cache/hub/*FLUX.1-dev/blobs/*.incomplete")
    assert partial.stat().st_size > MIB


async def test_agents_watch_a_download_to_its_end_and_only_its_process_goes_online(
    client: Client, pulls: dict[str, str], hub: HubServer, folder: Path
) -> None:
    hub.faults[TRANSFORMER] = [Fault(hold_after=3 * MIB)]
    process, download_id = await begin(pulls, "flux1-schnell")
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
    assert 0 < record["done_bytes"] < record["total_bytes"] == 8134310
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
    code, said = await ended(process)
    assert code == 0, said
    after = await call(client, "flux_get_job")
    assert after.structured_content["downloads"] == []

    asked = connections(Path(pulls["CONNECTIONS"]))
    assert asked
    assert all("models/hub/process.py" in line or "-m" in line for line in asked), asked
    assert hub.seen

    # It belongs to whoever starts programs here.
    service = Service(Settings(data_dir=folder / "data"), executes=False)
    try:
        assert (await service.downloads.find(download_id)).status == "completed"
        with acting_as("ada"):
            for ask in (service.downloads.find, service.cancel):
                with pytest.raises(UnknownJobError):
                    await ask(download_id)
    finally:
        await service.close()


async def test_a_download_that_is_not_there_is_an_unknown_job(client: Client) -> None:
    for tool in ("flux_get_job", "flux_cancel_job"):
        refused = await call(client, tool, job_id="dl_nothing")
        assert refused.is_error
        assert "[unknown_job]" in refused.content[0].text
