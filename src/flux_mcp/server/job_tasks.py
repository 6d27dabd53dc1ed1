"""JobTasks: jobs as tasks of the tasks extension.

A task is the row of its job and has the job's id: it outlives its client and its server, and
flux_get_job, flux_cancel_job and `tasks/*` take the same id.
"""

from dataclasses import replace
from typing import Any

from mcp.server.context import HandlerResult

from flux_mcp.jobs.job import Job, JobStatus
from flux_mcp.requests.schemas import DRAW_REQUESTS
from flux_mcp.server.calls import DeferredResult, ToolCalls
from flux_mcp.server.clients import current_fit, overrides_of
from flux_mcp.server.progress import describe
from flux_mcp.server.results import fitted
from flux_mcp.server.tasks import CallNow, Support, Task, TaskStatus
from flux_mcp.service.service import Service

POLL_INTERVAL_MS = 1000
"""A step of a large model takes about this long, and each step is reported."""

_STATUS: dict[JobStatus, TaskStatus] = {
    "queued": "working",
    "running": "working",
    "completed": "completed",
    # The call itself succeeded; its result says what went wrong, with isError (Task Status).
    "failed": "completed",
    "cancelled": "cancelled",
}


class JobTasks:
    """The task backend of the tools that generate images.

    Args:
        service: Finds and cancels jobs, for the current principal.
        calls: Makes the result of a finished job.
    """

    def __init__(self, service: Service, calls: ToolCalls) -> None:
        self._service = service
        self._calls = calls
        self._fit_overrides = overrides_of(service.settings)
        self._tools = frozenset(request.tool for request in DRAW_REQUESTS.values())

    def support(self, tool: str) -> Support | None:
        """Return `optional` for the tools that generate images: they answer every client."""
        return "optional" if tool in self._tools else None

    async def begin(self, call_now: CallNow) -> Task | HandlerResult:
        """Return the result of the call, or the task of the job that it leaves unfinished."""
        answered = await call_now()
        if isinstance(answered, DeferredResult):
            return _task(answered.job, answered.position)
        return answered

    async def find(self, task_id: str) -> Task:
        """Return a job as a task.

        Raises:
            UnknownJobError: there is none with that id.
        """
        job = await self._service.find_job(task_id)
        if not job.id_given:
            await self._service.mark_id_given(job.id)
        task = _task(job, await self._service.position(job))
        if task.status != "completed":
            return task
        result = fitted(
            await self._calls.result_of(job, job.preview), current_fit(self._fit_overrides)
        )
        return replace(
            task, outcome=result.model_dump(by_alias=True, mode="json", exclude_none=True)
        )

    async def update(self, task_id: str, responses: dict[str, Any]) -> None:  # noqa: ARG002 - a job has no questions
        """Look the job up; a job has no questions.

        Raises:
            UnknownJobError: there is none with that id.
        """
        await self._service.find_job(task_id)

    async def cancel(self, task_id: str) -> None:
        """Cancel the job, as flux_cancel_job does.

        Raises:
            UnknownJobError: there is none with that id.
        """
        await self._service.cancel(task_id)


def _task(job: Job, position: int | None) -> Task:
    """Return a job as a task, still without its result."""
    return Task(
        task_id=job.id,
        status=_STATUS[job.status],
        created_at=job.created_at,
        last_updated_at=_updated_at(job),
        poll_interval_ms=POLL_INTERVAL_MS,
        status_message=_message(job, position),
    )


def _updated_at(job: Job) -> str:
    """Return when the row last moved. Times are texts that sort as they do."""
    moments = (job.created_at, job.started_at, job.heartbeat_at, job.finished_at)
    return max(moment for moment in moments if moment is not None)


def _message(job: Job, position: int | None) -> str:
    """Return how far a job is, for people."""
    if job.error is not None:
        return f"[{job.error.code}] {job.error.message} {job.error.hint}".rstrip()
    if job.is_final:
        return job.status
    return describe(job, position)
