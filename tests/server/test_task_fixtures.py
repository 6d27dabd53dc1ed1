"""The conformance suite's task tools, and the tasks in memory behind them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.types import MISSING_REQUIRED_CLIENT_CAPABILITY, CallToolResult, TextContent

from flux_mcp.errors import UnknownJobError
from flux_mcp.principals import acting_as
from flux_mcp.server.tasks import Task, Tasks
from tests.conformance.server.tasks import SUPPORT, add_task_tools, task_fixtures

from .task_client import TasksClient, ask, begun, ended, task_of

pytestmark = pytest.mark.anyio

ACCEPT: dict[str, Any] = {"action": "accept", "content": {"confirm": True}}


@pytest.fixture
def server() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("fixtures", extensions=[Tasks(task_fixtures())])
    add_task_tools(server)
    return server


@pytest.fixture
async def client(server: MCPServer[Any]) -> AsyncIterator[Client]:
    async with Client(server, extensions=[TasksClient()]) as client:
        yield client


async def text_of(client: Client, task_id: str) -> str:
    task = await ended(client.session, task_id)
    assert task["status"] == "completed"
    result = CallToolResult.model_validate(task["result"], by_name=False)
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def test_every_tool_that_may_be_a_task_is_there(client: Client) -> None:
    names = {tool.name for tool in (await client.list_tools()).tools}
    assert names == {"greet", *SUPPORT}


async def test_what_ends_at_once_is_no_task(client: Client) -> None:
    assert isinstance(await begun(client, "greet", name="Ada"), CallToolResult)
    assert isinstance(await begun(client, "slow_compute", seconds=0), CallToolResult)


async def test_a_question_waits_in_the_task_until_it_is_answered(client: Client) -> None:
    created = await task_of(client, "confirm_delete", filename="a.txt")
    task = await ask(client.session, "tasks/get", created.task_id)
    assert task["status"] == "input_required"
    ((key, question),) = task["inputRequests"].items()
    assert question["method"] == "elicitation/create"
    await ask(client.session, "tasks/update", created.task_id, inputResponses={"other": ACCEPT})
    assert await ask(client.session, "tasks/get", created.task_id) == task
    await ask(client.session, "tasks/update", created.task_id, inputResponses={key: ACCEPT})
    assert await text_of(client, created.task_id) == "a.txt would be deleted."


async def test_of_two_questions_the_unanswered_one_stays_open(client: Client) -> None:
    task_id = (await task_of(client, "multi_input")).task_id
    first, second = (await ask(client.session, "tasks/get", task_id))["inputRequests"]
    await ask(client.session, "tasks/update", task_id, inputResponses={first: ACCEPT})
    task = await ask(client.session, "tasks/get", task_id)
    assert (task["status"], list(task["inputRequests"])) == ("input_required", [second])
    await ask(client.session, "tasks/update", task_id, inputResponses={second: ACCEPT})
    assert await text_of(client, task_id) == "Answers: accept, accept."


async def test_a_tool_fails_inside_its_result_and_the_protocol_outside(client: Client) -> None:
    tool = await task_of(client, "failing_job")
    protocol = await task_of(client, "protocol_error_job")
    failed = await ended(client.session, tool.task_id)
    assert (failed["status"], failed["result"]["isError"]) == ("completed", True)
    broken = await ended(client.session, protocol.task_id)
    assert broken["status"] == "failed"
    assert broken["error"]["code"] == -32603
    assert "result" not in broken


async def test_a_cancelled_task_is_cancelled(client: Client) -> None:
    task_id = (await task_of(client, "slow_compute", seconds=600)).task_id
    await ask(client.session, "tasks/cancel", task_id)
    assert (await ended(client.session, task_id))["status"] == "cancelled"


async def test_a_tool_that_needs_tasks_refuses_a_client_without(server: MCPServer[Any]) -> None:
    async with Client(server) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("failing_job", {})
        assert refused.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
        done = await client.call_tool("slow_compute", {"seconds": 0})
        assert not done.is_error


async def test_a_task_in_memory_is_its_principals_alone() -> None:
    tasks = task_fixtures()
    endless = asyncio.Event()

    async def answer() -> None:
        await endless.wait()

    with acting_as("ada"):
        task = await tasks.begin(answer)
    assert isinstance(task, Task)
    with acting_as("bob"), pytest.raises(UnknownJobError):
        await tasks.find(task.task_id)
    with acting_as("ada"):
        await tasks.cancel(task.task_id)
        await asyncio.sleep(0)
        assert (await tasks.find(task.task_id)).status == "cancelled"
