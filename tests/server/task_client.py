"""A client of the tasks extension on the SDK's seams for one: the SDK itself has none yet."""

import asyncio
from typing import Any, Literal

from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientSession
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, TypeAdapter

TASKS_ID = "io.modelcontextprotocol/tasks"
FINAL = ("completed", "failed", "cancelled")

_ANYTHING: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class CreateTaskResult(Result):
    """The specification's, as it came; `wire` has every key of it."""

    model_config = ConfigDict(extra="allow")

    result_type: Literal["task"]
    task_id: str
    status: str

    @property
    def wire(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, mode="json", exclude={"meta"})


class TaskParams(RequestParams):
    model_config = ConfigDict(extra="allow")

    task_id: str


class TaskRequest(Request[TaskParams, str]):
    name_param = "taskId"


async def ask(session: ClientSession, method: str, task_id: str, **params: Any) -> dict[str, Any]:
    """Send `tasks/get`, `tasks/update` or `tasks/cancel`; return its result without `_meta`."""
    request = TaskRequest(method=method, params=TaskParams(task_id=task_id, **params))
    result = await session.send_request(request, _ANYTHING)
    return {key: value for key, value in result.items() if key != "_meta"}


async def ended(session: ClientSession, task_id: str, timeout_s: float = 120) -> dict[str, Any]:
    """Poll a task, as often as it says, until it has ended."""
    async with asyncio.timeout(timeout_s):
        while (task := await ask(session, "tasks/get", task_id))["status"] not in FINAL:  # noqa: ASYNC110 - the specification has clients poll
            await asyncio.sleep(task["pollIntervalMs"] / 1000)
    return task


class TasksClient(ClientExtension):
    """Declares the extension, and finishes the calls that become tasks."""

    identifier = TASKS_ID

    def claims(self) -> list[ResultClaim[CreateTaskResult]]:
        return [ResultClaim(result_type="task", model=CreateTaskResult, resolve=self._resolve)]

    async def _resolve(self, created: CreateTaskResult, context: ClaimContext) -> CallToolResult:
        task = await ended(context.session, created.task_id)
        return CallToolResult.model_validate(task["result"], by_name=False)


async def begun(client: Client, tool: str, **arguments: Any) -> CreateTaskResult | CallToolResult:
    """Call a tool and return what it was answered with, a task or a result."""
    answer = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(answer, CreateTaskResult | CallToolResult)
    return answer


async def task_of(client: Client, tool: str, **arguments: Any) -> CreateTaskResult:
    """Call a tool whose call becomes a task."""
    answer = await begun(client, tool, **arguments)
    assert isinstance(answer, CreateTaskResult), answer
    return answer
