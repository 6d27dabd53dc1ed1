"""The tools that the conformance suite's tasks-* scenarios call.

What each must do is said by the suite (@modelcontextprotocol/conformance 0.2.0-alpha.12, `Required
server fixtures` of each scenario).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)

from flux_mcp.server.tasks import Support, TaskBackend
from tests.conformance.server.task_memory import MemoryTasks, ask

FAILS_AFTER_S = 1.0
"""So the suite says of failing_job; longer than a call is waited for, so that there is a task."""

SUPPORT: Mapping[str, Support] = {
    "slow_compute": "optional",
    "failing_job": "required",
    "protocol_error_job": "optional",
    "confirm_delete": "optional",
    "multi_input": "optional",
    "test_tool_with_task": "required",
}
"""Every tool here but `greet`, which never is a task."""

_YES: dict[str, Any] = {"type": "object", "properties": {"confirm": {"type": "boolean"}}}
_NAME: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}}


def task_fixtures() -> TaskBackend:
    """Return the tasks of the fixture tools, for `FluxServer(task_backends=…)`."""
    return MemoryTasks(SUPPORT)


def add_task_tools(server: MCPServer[Any]) -> None:
    """Register the fixture tools."""
    for tool in (
        greet,
        slow_compute,
        failing_job,
        protocol_error_job,
        confirm_delete,
        multi_input,
        test_tool_with_task,
    ):
        server.add_tool(tool)


def greet(name: str) -> str:
    """Greet somebody at once."""
    return f"Hello, {name}!"


async def slow_compute(seconds: float, label: str = "") -> str:
    """Take some time, then say so."""
    await asyncio.sleep(seconds)
    return f"Computed {label} in {seconds:g} s."


async def failing_job() -> str:
    """Fail after a while, as a tool fails.

    Raises:
        ToolError: always.
    """
    await asyncio.sleep(FAILS_AFTER_S)
    raise ToolError("This job always fails.")


async def protocol_error_job() -> str:
    """Fail after a while with a protocol error.

    Raises:
        MCPError: always.
    """
    await asyncio.sleep(FAILS_AFTER_S)
    raise MCPError(code=INTERNAL_ERROR, message="This job always ends in a protocol error.")


async def confirm_delete(filename: str) -> str:
    """Ask whether to delete, and say what would be done."""
    answer = await ask(_elicit(f"Delete {filename}?", _YES))
    confirmed = answer.action == "accept" and bool((answer.content or {}).get("confirm"))
    return f"{filename} {'would be deleted' if confirmed else 'is kept'}."


async def multi_input() -> str:
    """Ask two questions at the same time."""
    answers = await asyncio.gather(
        ask(_elicit("Who are you?", _NAME)), ask(_elicit("Go on?", _YES))
    )
    return f"Answers: {', '.join(answer.action for answer in answers)}."


async def test_tool_with_task(context: Context[Any, Any]) -> str | InputRequiredResult:
    """Ask for a name before there is a task, then greet it in one."""
    key = "user_name"
    answer = (context.input_responses or {}).get(key)
    if not isinstance(answer, ElicitResult):
        return InputRequiredResult(input_requests={key: _elicit("What is your name?", _NAME)})
    await asyncio.sleep(FAILS_AFTER_S)
    return f"Hello, {(answer.content or {}).get('name')}!"


def _elicit(message: str, schema: dict[str, Any]) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))
