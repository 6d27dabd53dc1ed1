"""Tasks: the protocol of the extension `io.modelcontextprotocol/tasks`.

A client that declares it may be answered with a task instead of waiting, and asks for the result
with `tasks/get`. A backend makes and keeps the tasks: `JobTasks` in job_tasks.py for jobs. This
module keeps no state, so that an implementation in the SDK can replace it
(docs/decisions/0014-tasks-are-jobs.md).

The rules are those of specification/draft/tasks.md of modelcontextprotocol/ext-tasks (SEP-2663),
as of its commit e434597.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_METHOD_HEADER, MCP_NAME_HEADER, decode_header_value
from mcp.types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    RequestParams,
)

from flux_mcp.errors import FluxMcpError, RequestError, UnknownJobError

logger = logging.getLogger(__name__)

TASKS_ID = "io.modelcontextprotocol/tasks"
PROTOCOL_VERSIONS = frozenset({"2026-07-28"})
"""Protocol versions with tasks of this kind; those of 2025-11-25 were another, withdrawn design."""

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]
Support = Literal["optional", "required"]
"""Whether a tool also answers callers that do not declare the extension."""
CallNow = Callable[[], Awaitable[HandlerResult]]
"""Runs the tool of a call and returns what it returns."""
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A task as it stands, in the terms of the specification. Times are ISO 8601, UTC."""

    task_id: str
    status: TaskStatus
    created_at: str
    last_updated_at: str
    poll_interval_ms: int
    ttl_ms: int | None = None
    """How long it is kept, from its creation; `None` is for ever."""
    status_message: str = ""
    outcome: dict[str, Any] | None = None
    """With `completed` the tool's result, with `failed` the JSON-RPC error."""
    input_requests: dict[str, Any] | None = None
    """With `input_required` the open questions to the client, by key."""

    def created(self) -> dict[str, Any]:
        """Return the answer to the call that became this task."""
        # A dict, because the SDK leaves None out of models, and `ttlMs` must be there.
        message = {"statusMessage": self.status_message} if self.status_message else {}
        return {
            "resultType": "task",
            "taskId": self.task_id,
            "status": self.status,
            **message,
            "createdAt": self.created_at,
            "lastUpdatedAt": self.last_updated_at,
            "ttlMs": self.ttl_ms,
            "pollIntervalMs": self.poll_interval_ms,
        }

    def detailed(self) -> dict[str, Any]:
        """Return the answer to `tasks/get`: the same, and what belongs to the status."""
        belongs: dict[TaskStatus, dict[str, Any]] = {
            "completed": {"result": self.outcome},
            "failed": {"error": self.outcome},
            "input_required": {"inputRequests": self.input_requests},
        }
        return {**self.created(), "resultType": "complete", **belongs.get(self.status, {})}


class TaskBackend(Protocol):
    """What makes, keeps and ends tasks.

    Every method acts for the principal of the message (principals.py). A task of somebody else is
    one that does not exist: `UnknownJobError`.
    """

    def support(self, tool: str) -> Support | None:
        """Return whether calls of a tool may become tasks here; `None` when they never do."""

    async def begin(self, call_now: CallNow) -> Task | HandlerResult:
        """Answer a call whose client takes tasks: with a task that `find` knows, or directly.

        Args:
            call_now: Runs the tool and returns what it returns.
        """

    async def find(self, task_id: str) -> Task:
        """Return a task as it stands.

        Raises:
            UnknownJobError: there is none with that id.
        """

    async def update(self, task_id: str, responses: dict[str, Any]) -> None:
        """Take the client's answers; answers to questions that are not open are ignored.

        Raises:
            UnknownJobError: there is none with that id.
        """

    async def cancel(self, task_id: str) -> None:
        """Ask a task to stop; one that has ended stays as it is.

        Raises:
            UnknownJobError: there is none with that id.
        """


class TaskParams(RequestParams):
    """The params of `tasks/get` and `tasks/cancel`."""

    task_id: str


class TaskUpdateParams(TaskParams):
    """The params of `tasks/update`."""

    input_responses: dict[str, Any]


def declares_tasks(context: ServerRequestContext[Any, Any] | Context[Any, Any]) -> bool:
    """Return whether the client of this request takes tasks."""
    if context.protocol_version not in PROTOCOL_VERSIONS:
        return False
    capabilities = context.session.client_capabilities
    return capabilities is not None and TASKS_ID in (capabilities.extensions or {})


class Tasks(Extension):
    """The extension.

    Args:
        backends: Each answers for its own tools and its own tasks.
    """

    identifier = TASKS_ID

    def __init__(self, *backends: TaskBackend) -> None:
        self._backends = backends

    def methods(self) -> Sequence[MethodBinding]:
        """Return the three methods, for the protocol versions that have them."""
        return (
            MethodBinding("tasks/get", TaskParams, self._get, PROTOCOL_VERSIONS),
            MethodBinding("tasks/update", TaskUpdateParams, self._update, PROTOCOL_VERSIONS),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, PROTOCOL_VERSIONS),
        )

    async def intercept_tool_call(
        self,
        params: CallToolRequestParams,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
    ) -> HandlerResult:
        """Let the tool's backend answer a call whose client takes tasks.

        Raises:
            MCPError: the tool has no other answer than a task, and the client takes none.
        """
        tool = params.name
        backend = next((one for one in self._backends if one.support(tool)), None)
        if backend is None:
            return await call_next(ctx)
        if not declares_tasks(ctx):
            if backend.support(tool) == "required":
                require_client_extension(ctx, TASKS_ID)
            return await call_next(ctx)
        begun = await backend.begin(lambda: call_next(ctx))
        return begun.created() if isinstance(begun, Task) else begun

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        task = await self._ask(ctx, params, lambda backend: backend.find(params.task_id))
        return task.detailed()

    async def _update(
        self, ctx: ServerRequestContext[Any, Any], params: TaskUpdateParams
    ) -> HandlerResult:
        answers = params.input_responses
        await self._ask(ctx, params, lambda backend: backend.update(params.task_id, answers))
        return {"resultType": "complete"}

    async def _cancel(
        self, ctx: ServerRequestContext[Any, Any], params: TaskParams
    ) -> HandlerResult:
        await self._ask(ctx, params, lambda backend: backend.cancel(params.task_id))
        return {"resultType": "complete"}

    async def _ask(
        self,
        ctx: ServerRequestContext[Any, Any],
        params: TaskParams,
        question: Callable[[TaskBackend], Awaitable[T]],
    ) -> T:
        """Put a question to the backend that knows the task.

        Raises:
            MCPError: the client declares no tasks, the headers name another task, no backend knows
                it, or it cannot be looked up now.
        """
        require_client_extension(ctx, TASKS_ID)
        check_routing_header(ctx, params.task_id)
        try:
            for backend in self._backends:
                with suppress(UnknownJobError):
                    return await question(backend)
            raise UnknownJobError(
                f"There is no task '{params.task_id[:60]}'.",
                "Use the taskId that a tools/call was answered with.",
            )
        except FluxMcpError as error:
            logger.info("task request refused", extra={"method": ctx.method, "code": error.code})
            code = INVALID_PARAMS if isinstance(error, RequestError) else INTERNAL_ERROR
            raise MCPError(code=code, message=str(error)) from error


async def refuse_undeclared_listening(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Middleware: refuse to listen for tasks when the client does not declare the extension.

    A client that declares it reads in the acknowledgement that no `notifications/tasks` will be
    sent: the SDK sends listeners a closed list of notifications. It polls with `tasks/get`.

    Raises:
        MCPError: the request names tasks, and its client takes none.
    """
    if ctx.method == "subscriptions/listen" and ctx.protocol_version in PROTOCOL_VERSIONS:
        match ctx.params:
            case {"notifications": {"taskIds": _}}:
                require_client_extension(ctx, TASKS_ID)
    return await call_next(ctx)


def check_routing_header(ctx: ServerRequestContext[Any, Any], task_id: str) -> None:
    """Refuse a request whose `Mcp-Name` header is not its `taskId`, over Streamable HTTP.

    The SDK checks the headers of the methods it knows, and these are not among them. It has
    required `Mcp-Method` before, so where that is missing (stdio, SSE) there are no such headers.

    Raises:
        MCPError: the header is missing or names another task.
    """
    headers = getattr(ctx.request, "headers", {})
    if MCP_METHOD_HEADER in headers and (
        decode_header_value(headers.get(MCP_NAME_HEADER)) != task_id
    ):
        raise MCPError(
            code=HEADER_MISMATCH,
            message=f"The {MCP_NAME_HEADER} header must be the request's 'taskId'.",
        )
