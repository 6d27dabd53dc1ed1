"""MemoryTasks: calls that continue as tasks and may ask their client something.

Tasks are kept in memory and end with the process: enough for fixtures, not for images.
"""

import asyncio
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import HandlerResult
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, ElicitRequest, ElicitResult
from pydantic import BaseModel

from flux_mcp.errors import UnknownJobError
from flux_mcp.jobs.job import utc_now
from flux_mcp.principals import acting, only
from flux_mcp.server.tasks import CallNow, Support, Task, TaskStatus

GRACE_S = 0.25
"""As the product's: a call that ends by then is answered directly."""
TTL_MS = 3_600_000
POLL_INTERVAL_MS = 200
"""The suite looks every 200 ms itself."""


@dataclass
class _Record:
    """One task: the call that runs, and what it asks."""

    running: "asyncio.Task[HandlerResult]"
    principal: str
    task_id: str = field(default_factory=lambda: f"task_{secrets.token_urlsafe(16)}")
    created_at: str = field(default_factory=utc_now)
    updated_at: str = field(default_factory=utc_now)
    questions: dict[str, tuple[ElicitRequest, "asyncio.Future[Any]"]] = field(default_factory=dict)

    def as_task(self) -> Task:
        status, outcome = self._status()
        return Task(
            task_id=self.task_id,
            status=status,
            created_at=self.created_at,
            last_updated_at=self.updated_at,
            ttl_ms=TTL_MS,
            poll_interval_ms=POLL_INTERVAL_MS,
            outcome=outcome,
            input_requests={key: _dump(asked) for key, (asked, _) in self.questions.items()},
        )

    def _status(self) -> tuple[TaskStatus, dict[str, Any] | None]:
        running = self.running
        if not running.done():
            return ("input_required" if self.questions else "working"), None
        if running.cancelled():
            return "cancelled", None
        error = running.exception()
        if error is None:
            return "completed", _dump(running.result())
        if isinstance(error, MCPError):
            return "failed", _dump(error.error)
        return "failed", {"code": INTERNAL_ERROR, "message": "Internal error"}


_current: ContextVar[_Record] = ContextVar("flux_mcp_memory_task")


class MemoryTasks:
    """Tasks in memory: each is a call that continues after its request was answered.

    Args:
        supports: The tools that may become tasks.
    """

    def __init__(self, supports: Mapping[str, Support]) -> None:
        self._supports = supports
        self._records: dict[str, _Record] = {}

    def support(self, tool: str) -> Support | None:
        """Return whether calls of a tool may become tasks."""
        return self._supports.get(tool)

    async def begin(self, call_now: CallNow) -> Task | HandlerResult:
        """Run the call in a task of its own; return its answer, or the task if it takes long."""

        async def run() -> HandlerResult:
            _current.set(record)
            return await call_now()

        running = asyncio.create_task(run(), name="flux-mcp-memory-task")
        record = _Record(running, acting())
        try:
            await asyncio.wait({running}, timeout=GRACE_S)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if running.done():
            return running.result()
        self._keep(record)
        return record.as_task()

    def _keep(self, record: _Record) -> None:
        self._records[record.task_id] = record

        def ended(running: "asyncio.Task[HandlerResult]") -> None:
            record.updated_at = utc_now()
            record.questions.clear()
            if not running.cancelled():
                running.exception()  # seen, though nobody may ever ask for it

        record.running.add_done_callback(ended)
        loop = asyncio.get_running_loop()
        loop.call_later(TTL_MS / 1000, self._records.pop, record.task_id, None)

    async def find(self, task_id: str) -> Task:
        """Return a task as it stands.

        Raises:
            UnknownJobError: there is none with that id, or it is another principal's.
        """
        return self._find(task_id).as_task()

    async def update(self, task_id: str, responses: dict[str, Any]) -> None:
        """Answer questions of a task; those that are not open are ignored.

        Raises:
            UnknownJobError: there is none with that id, or it is another principal's.
        """
        record = self._find(task_id)
        for key in responses.keys() & record.questions.keys():
            _, answered = record.questions.pop(key)
            if not answered.done():  # it is, when the task has just been cancelled
                answered.set_result(responses[key])
            record.updated_at = utc_now()

    async def cancel(self, task_id: str) -> None:
        """Cancel a task; one that has ended stays as it is.

        Raises:
            UnknownJobError: there is none with that id, or it is another principal's.
        """
        self._find(task_id).running.cancel()

    def _find(self, task_id: str) -> _Record:
        record = self._records.get(task_id)
        if record is None or only() not in (None, record.principal):
            raise UnknownJobError("There is no such task.")
        return record


async def ask(question: ElicitRequest) -> ElicitResult:
    """Ask the client of the current task; it is `input_required` until the answer comes.

    Outside a task nobody can be asked, and the answer is `cancel`.
    """
    record = _current.get(None)
    if record is None:
        return ElicitResult(action="cancel")
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    record.questions[secrets.token_urlsafe(8)] = (question, answered)
    record.updated_at = utc_now()
    return ElicitResult.model_validate(await answered)


def _dump(value: HandlerResult) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dict(value or {})
