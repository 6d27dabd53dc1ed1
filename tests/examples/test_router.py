"""The router between real processes: callers of both eras, flux-mcp over HTTP and over stdio.

What is drawn does not matter to it: flux-mcp over HTTP has a light worker here, see
`tests/e2e/clients/light.py`; the one that the router starts itself is the product to the last part.
"""

import asyncio
import base64
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from mcp import Client, MCPError
from mcp.types import (
    INTERNAL_ERROR,
    BlobResourceContents,
    CallToolResult,
    PromptReference,
    TextContent,
)

from flux_mcp.service.answers import QueueAnswer
from flux_mcp.storage.database import open_database
from tests.e2e.calls import FAST, call, draws, is_final, job, job_until, queue
from tests.e2e.clients.holding import ENDLESS
from tests.examples.processes import DEADLINE_S, Running, client_of, flux_mcp, router

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills and signals are POSIX here"),
]

TOKEN = "a-token-for-these-tests"  # noqa: S105 - opens nothing else
ERAS = ("auto", pytest.param("legacy", marks=pytest.mark.torture))
"""The router has one way for both; the SDK serves either."""
LONG: dict[str, Any] = {**ENDLESS, "wait_s": 200}
"""Drawn until it is cancelled or killed in the middle."""


def environment_of(data: Path, weights: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLUX_MCP_DATA_DIR": str(data),
        "FLUX_MCP_WEIGHTS_DIR": str(weights),
        "FLUX_MCP_TORCH_THREADS": "1",
        "FLUX_MCP_TOKEN": TOKEN,
    }


@pytest.fixture(scope="module")
def shared_environment(
    tmp_path_factory: pytest.TempPathFactory, weights_dir: Path
) -> dict[str, str]:
    return environment_of(tmp_path_factory.mktemp("shared") / "data", weights_dir)


@pytest.fixture(scope="module")
def shared_flux(shared_environment: dict[str, str]) -> Iterator[Running]:
    with flux_mcp(shared_environment) as running:
        yield running


@pytest.fixture(scope="module")
def shared_router(shared_environment: dict[str, str], shared_flux: Running) -> Iterator[Running]:
    with router(shared_environment, "--upstream", f"{shared_flux.address}/mcp") as running:
        yield running


@pytest.fixture
async def upstream(shared_flux: Running) -> AsyncIterator[Client]:
    """Talks to flux-mcp itself, to compare with."""
    async with client_of(f"{shared_flux.address}/mcp", TOKEN) as client:
        yield client


@pytest.fixture(params=ERAS)
async def client(request: pytest.FixtureRequest, shared_router: Running) -> AsyncIterator[Client]:
    """Talks to the router, in either era."""
    async with client_of(shared_router.address, mode=request.param) as client:
        yield client


@pytest.fixture
def environment(tmp_path: Path, weights_dir: Path) -> dict[str, str]:
    """For processes that do not survive their test."""
    return environment_of(tmp_path / "data", weights_dir)


class Caller:
    """A drawing call that goes on while the test does something to it."""

    def __init__(self, client: Client, **arguments: Any) -> None:
        self._drawn = asyncio.Event()
        self.task: asyncio.Task[CallToolResult] = asyncio.create_task(
            client.call_tool("flux_generate", arguments, progress_callback=self._tell)
        )

    async def draws(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self._drawn.wait()
        assert not self.task.done()

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _tell(self, progress: float, _total: float | None, _message: str | None) -> None:
        if progress >= 1:
            self._drawn.set()


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def job_id_of(environment: dict[str, str], session: str) -> str:
    """Look into the queue itself: to ask flux-mcp for the job would be to know its id."""
    database = open_database(Path(environment["FLUX_MCP_DATA_DIR"]) / "gallery.sqlite")
    try:
        (row,) = database["jobs"].rows_where("session = ?", [session])
    finally:
        database.close()
    return str(row["id"])


async def ended_job(upstream: Client, job_id: str) -> str:
    """Wait until a job is out of the queue; asked for by its id, it would not be cancelled."""
    async with asyncio.timeout(DEADLINE_S):
        while job_id in [row.job_id for row in (await queue_of(upstream)).jobs]:  # noqa: ASYNC110 - another process rings no bell
            await asyncio.sleep(0.1)
    return (await job(upstream, "flux_get_job", job_id=job_id)).status or ""


async def queue_of(client: Client) -> QueueAnswer:
    return await queue(client)


async def test_the_lists_are_those_of_flux_mcp(client: Client, upstream: Client) -> None:
    assert (await client.list_tools()).tools == (await upstream.list_tools()).tools
    assert len((await client.list_tools()).tools) == 8
    templates = await client.list_resource_templates()
    expected = await upstream.list_resource_templates()
    assert templates.resource_templates == expected.resource_templates
    assert (await client.list_prompts()).prompts == (await upstream.list_prompts()).prompts
    resources = (await client.list_resources()).resources
    assert resources
    assert resources == (await upstream.list_resources()).resources


async def test_images_are_drawn_and_read_to_the_byte(client: Client, upstream: Client) -> None:
    await call(client, "flux_generate", **FAST, wait_s=200)  # is told what micro is, once
    result = await call(client, "flux_generate", **FAST, count=2, wait_s=200)
    assert not result.is_error
    assert result.structured_content is not None

    job_id = result.structured_content["job_id"]
    asked = await call(upstream, "flux_get_job", job_id=job_id)
    assert result.structured_content == asked.structured_content
    assert result.content == asked.content

    image = result.structured_content["images"][1]
    (read,) = (await client.read_resource(image["uri"])).contents
    assert isinstance(read, BlobResourceContents)
    assert base64.b64decode(read.blob) == Path(image["path"]).read_bytes()


async def test_prompts_and_completions_are_those_of_flux_mcp(
    client: Client, upstream: Client
) -> None:
    reference = PromptReference(type="ref/prompt", name="micro-shapes")
    argument = {"name": "subject", "value": "s"}
    completed = await client.complete(reference, argument)
    assert "star" in completed.completion.values
    assert completed.completion == (await upstream.complete(reference, argument)).completion
    arguments = {"subject": "star"}
    expected = await upstream.get_prompt("micro-shapes", arguments)
    got = await client.get_prompt("micro-shapes", arguments)
    assert got.messages == expected.messages


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("flux_generate", {"prompt": "a star", "width": 63, "height": 64}),
        ("flux_generate", {"prompt": "a star", "colour": None}),
        ("flux_get_job", {"job_id": "nobody-has-this-one"}),
        ("flux_edit", {}),
    ],
)
async def test_a_tool_error_comes_back_as_it_is(
    client: Client, upstream: Client, tool: str, arguments: dict[str, Any]
) -> None:
    expected = await upstream.call_tool(tool, arguments)
    got = await client.call_tool(tool, arguments)
    assert expected.is_error
    assert (got.is_error, got.content) == (True, expected.content)


async def test_a_protocol_error_comes_back_as_it_is(client: Client, upstream: Client) -> None:
    def missing(asked: Client) -> Any:
        return asked.read_resource("flux://images/nobody-has-this-one")

    def unknown(asked: Client) -> Any:
        return asked.call_tool("flux_nothing", {})

    for ask in (missing, unknown):
        with pytest.raises(MCPError) as expected:
            await ask(upstream)
        with pytest.raises(MCPError) as got:
            await ask(client)
        assert got.value.error == expected.value.error


async def test_a_tool_that_is_not_offered_is_refused_by_the_router(client: Client) -> None:
    with pytest.raises(MCPError, match="There is no tool 'other' here"):
        await client.call_tool("other", {})


async def test_a_cancelled_call_cancels_its_job(
    client: Client, upstream: Client, shared_environment: dict[str, str]
) -> None:
    session = f"cancelled-{client.protocol_version}"
    caller = Caller(client, **LONG, session=session)
    await caller.draws()
    job_id = job_id_of(shared_environment, session)
    await caller.cancel()
    assert await ended_job(upstream, job_id) == "cancelled"
    assert (await job(client, "flux_generate", **FAST, wait_s=200)).status == "completed"


@pytest.mark.parametrize("mode", ERAS)
async def test_a_caller_that_leaves_takes_its_job_along(
    shared_router: Running, upstream: Client, shared_environment: dict[str, str], mode: str
) -> None:
    session = f"left-{mode}"
    async with client_of(shared_router.address, mode=mode) as leaving:
        caller = Caller(leaving, **LONG, session=session)
        await caller.draws()
        job_id = job_id_of(shared_environment, session)
    await asyncio.gather(caller.task, return_exceptions=True)
    assert await ended_job(upstream, job_id) == "cancelled"


async def test_a_job_is_cancelled_by_name(client: Client, upstream: Client) -> None:
    started = await job(client, "flux_generate", **{**LONG, "wait_s": 0})
    job_id = started.job_id or ""
    await job_until(client, job_id, draws)
    cancelled = await call(client, "flux_cancel_job", job_id=job_id)
    assert cancelled.structured_content is not None
    assert cancelled.structured_content["stopping"] == [job_id]
    assert (await job_until(upstream, job_id, is_final)).status == "cancelled"


async def test_ten_calls_at_once_each_get_their_own_answer(client: Client) -> None:
    async def drawn(seed: int) -> int | None:
        answer = await job(
            client, "flux_generate", **{**FAST, "seed": seed, "steps": 2}, wait_s=200
        )
        assert answer.status == "completed"
        return answer.images[0].seed

    assert await asyncio.gather(*map(drawn, range(10))) == list(range(10))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
async def test_pages_of_a_browser_cannot_call_the_router(
    shared_router: Running, headers: dict[str, str], status: int
) -> None:
    headers = {**headers, "Accept": "application/json, text/event-stream"}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.post(shared_router.address, json=asked, headers=headers)
    assert answer.status_code == status


@pytest.mark.torture
async def test_the_router_outlives_flux_mcp(environment: dict[str, str]) -> None:
    with flux_mcp(environment) as flux:
        port = flux.address.rpartition(":")[2]
        with router(environment, "--upstream", f"{flux.address}/mcp") as running:
            async with client_of(running.address) as client:
                caller = Caller(client, **LONG)
                await caller.draws()
                flux.end(signal.SIGKILL)
                lost = await caller.task
                assert lost.is_error
                assert text_of(lost).startswith("[upstream_lost]")

                gone = await call(client, "flux_get_job")
                assert gone.is_error
                assert text_of(gone).startswith("[upstream_unreachable]")
                with pytest.raises(MCPError) as error:
                    await client.list_prompts()
                assert error.value.code == INTERNAL_ERROR
                assert "[upstream_unreachable]" in error.value.message

                with flux_mcp(environment, int(port)):
                    assert await queue_of(client)
                # And once more, without a call while nobody was there.
                with flux_mcp(environment, int(port)):
                    assert await queue_of(client)


@pytest.mark.torture
async def test_the_token_comes_from_a_file_that_may_change(
    shared_environment: dict[str, str], shared_flux: Running, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text("# flux-mcp's file\nrouter not-the-token-of-flux-mcp\n")
    without = {**shared_environment}
    del without["FLUX_MCP_TOKEN"]
    url = f"{shared_flux.address}/mcp"
    with router(without, "--upstream", url, "--token-file", str(file)) as running:
        async with client_of(running.address) as client:
            refused = await call(client, "flux_get_job")
            assert refused.is_error
            assert "401" in text_of(refused)
            assert "--token-file" in text_of(refused)
            file.write_text(f"# flux-mcp's file\nrouter {TOKEN}\n")
            assert await queue_of(client)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.torture)]
)
async def test_a_signal_ends_the_router_in_order(
    shared_flux: Running,
    shared_environment: dict[str, str],
    upstream: Client,
    number: signal.Signals,
) -> None:
    """`router` itself says what order is: status 0, and nothing to complain about."""
    session = f"ended-{number.name}"
    url = f"{shared_flux.address}/mcp"
    with router(shared_environment, "--upstream", url) as running:
        async with client_of(running.address) as client:
            caller = Caller(client, **LONG, session=session)
            await caller.draws()
            job_id = job_id_of(shared_environment, session)
            assert await asyncio.to_thread(running.end, number) == 0
            assert text_of(await caller.task).startswith("[upstream_lost]")
    assert await ended_job(upstream, job_id) == "cancelled"


@pytest.mark.torture
async def test_the_router_can_start_flux_mcp_itself(environment: dict[str, str]) -> None:
    command = shlex.join([sys.executable, "-m", "flux_mcp", "serve"])
    with router(environment, "--upstream-command", command) as running:
        process = psutil.Process(running.pid)
        async with client_of(running.address) as client:
            answer = await job(client, "flux_generate", **FAST, wait_s=200)
            (read,) = (await client.read_resource(answer.images[0].uri)).contents
            started = process.children(recursive=True)
            assert len(started) == 2  # flux-mcp and its worker

            process.children()[0].kill()
            assert await asyncio.to_thread(running.has_said, "the command has ended")
            (again,) = (await client.read_resource(answer.images[0].uri)).contents
            assert again == read
        started += process.children()
        assert await asyncio.to_thread(running.end, signal.SIGTERM) == 0
        _, alive = await asyncio.to_thread(psutil.wait_procs, started, DEADLINE_S)
        assert not alive


async def test_a_command_that_cannot_be_started_is_a_tool_error(
    environment: dict[str, str],
) -> None:
    with router(environment, "--upstream-command", "there-is-no-such-command") as running:
        async with client_of(running.address) as client:
            for _ in range(2):
                answer = await call(client, "flux_get_job")
                assert answer.is_error
                assert text_of(answer).startswith("[upstream_unreachable]")


OTHER = """
import os
import signal
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, TextContent

server = MCPServer("another")


@server.tool()
async def flux_count(ctx: Context) -> str:
    for step in range(1, 51):
        await ctx.report_progress(step, 50, f"step {step}")
    return "counted"


@server.tool()
async def flux_echo(ctx: Context, value: list[Any]) -> CallToolResult:
    meta = {name: item for name, item in ctx.request_context.meta.items() if "/note" in name}
    return CallToolResult(
        content=[TextContent(type="text", text="echo", _meta={"example.org/of": "a block"})],
        structured_content={"value": value, "nothing": None},
        _meta={"example.org/of": "a result", "example.org/asked": meta},
    )


@server.tool()
async def flux_hang_up() -> str:
    os.closerange(0, 64)
    signal.pause()


@server.tool()
async def other() -> str:
    return "not offered"


server.run()
"""


@pytest.fixture(scope="module")
def to_another(
    shared_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A router that starts a server which does what flux-mcp does not."""
    program = tmp_path_factory.mktemp("another") / "another.py"
    program.write_text(OTHER)
    command = shlex.join([sys.executable, str(program)])
    with router(shared_environment, "--upstream-command", command) as running:
        yield running


async def test_nothing_is_lost_added_or_reordered_on_the_way(to_another: Running) -> None:
    for mode in ("auto", "legacy"):
        async with client_of(to_another.address, mode=mode) as client:
            await passes_everything_on(client)


async def passes_everything_on(client: Client) -> None:
    names = [tool.name for tool in (await client.list_tools()).tools]
    assert names == ["flux_count", "flux_echo", "flux_hang_up"]

    seen: list[tuple[Any, ...]] = []

    async def see(*told: Any) -> None:
        seen.append(told)

    counted = await client.call_tool("flux_count", {}, progress_callback=see)
    assert text_of(counted) == "counted"
    assert seen == [(step, 50, f"step {step}") for step in range(1, 51)]

    value = [None, {"a": None}, 1.5, "é"]
    meta: Any = {"example.org/note": {"kept": True}}
    echoed = await client.call_tool("flux_echo", {"value": value}, meta=meta)
    assert echoed.structured_content == {"value": value, "nothing": None}
    assert echoed.content[0].meta == {"example.org/of": "a block"}
    assert echoed.meta is not None
    assert echoed.meta["example.org/of"] == "a result"
    assert echoed.meta["example.org/asked"] == meta


@pytest.mark.torture
async def test_a_command_that_breaks_off_is_started_again_and_again(
    to_another: Running,
) -> None:
    """Its end takes seconds; calls that come meanwhile wait for the next one."""
    async with client_of(to_another.address) as client:
        for _ in range(2):
            lost = await client.call_tool("flux_hang_up", {})
            assert text_of(lost).startswith("[upstream_lost]")
            for _ in range(2):
                async with asyncio.timeout(DEADLINE_S):
                    counted = await client.call_tool("flux_count", {})
                assert text_of(counted) == "counted"
