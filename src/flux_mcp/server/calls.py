"""Tool calls: each validated request answered through the service, as a tool result.

A call that generates images submits a job and then waits for it; it never is the job. What becomes
of the job when its call is cancelled is decided here (`on_disconnect`).
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from flux_mcp.gallery.previews import Sheets
from flux_mcp.gallery.store import is_image_id
from flux_mcp.jobs.downloads import is_download_id
from flux_mcp.jobs.job import FINAL, Job, PreviewSize
from flux_mcp.principals import acting, only
from flux_mcp.requests.plan import DEMONSTRATION_NOTICE
from flux_mcp.requests.schemas import (
    DRAW_REQUESTS,
    CancelJobRequest,
    DrawRequest,
    GetJobRequest,
    SearchRequest,
)
from flux_mcp.requests.validation import USUAL_WAIT_S
from flux_mcp.server.clients import current_fit, overrides_of
from flux_mcp.server.progress import ProgressFeed
from flux_mcp.server.redaction import ServerPaths
from flux_mcp.server.results import (
    cancel_result,
    download_result,
    dry_run_result,
    job_result,
    queue_result,
    search_result,
)
from flux_mcp.server.tasks import declares_tasks
from flux_mcp.service.answers import JobAnswer
from flux_mcp.service.service import Service
from flux_mcp.service.views import download_answer

Handler = Callable[[Any, Context[Any, Any]], Awaitable[CallToolResult]]

_Session = tuple[str, str | None]
"""The caller, and the session's id where the transport has one."""
SESSION_HEADER = "mcp-session-id"  # Streamable HTTP, 2025-11-25
MOST_SESSIONS = 1000
"""Sessions that are remembered; an older one is told again what it has been told."""
TASK_GRACE_S = 0.25
"""A call whose client takes tasks waits this long: what ends by then is answered directly."""


class DeferredResult(CallToolResult):
    """The result of a call that stopped waiting because a task will stand for its job."""

    job: Job = Field(exclude=True)
    position: int | None = Field(exclude=True)
    """Its place in the queue, 1 for the next."""


class ToolCalls:
    """Answers tool calls; keeps how many are open, and how many wait for each job."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: Counter[str] = Counter()
        self._sheets = Sheets()
        self._told: OrderedDict[_Session, None] = OrderedDict()
        self._paths = ServerPaths.of(service.settings)
        self._fit_overrides = overrides_of(service.settings)
        self._open = 0
        self._answered = asyncio.Event()
        self._handlers: dict[type[BaseModel], Handler] = {
            **dict.fromkeys(DRAW_REQUESTS.values(), self._draw),
            SearchRequest: self._search,
            GetJobRequest: self._get_job,
            CancelJobRequest: self._cancel_job,
        }

    async def answer(self, request: BaseModel, context: Context[Any, Any]) -> CallToolResult:
        """Answer one validated request.

        Raises:
            FluxMcpError: something is wrong that the caller should read.
        """
        self._open += 1
        try:
            return await self._handlers[type(request)](request, context)
        finally:
            self._open -= 1
            if not self._open:
                self._answered.set()

    async def all_answered(self) -> None:
        """Return when no call is open."""
        while self._open:
            self._answered.clear()
            await self._answered.wait()

    # --- generating images ---------------------------------------------------------------------

    async def _draw(self, request: DrawRequest, context: Context[Any, Any]) -> CallToolResult:
        if request.dry_run:
            answer = await self._service.dry_run(request)
            notices = self._once(answer.notices, context)
            return dry_run_result(answer.model_copy(update={"notices": notices}))
        # A task of its own: a call cancelled while its job is being stored must still find out
        # which job that is, to cancel it.
        submitting = asyncio.create_task(self._submit(request))
        try:
            return await self._answer_for_job(await asyncio.shield(submitting), request, context)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._abandon(submitting)
            raise

    async def _submit(self, request: DrawRequest) -> Job:
        """Store a job, and count this call among those that wait for it.

        In one step: a call with the same key that comes now already finds it waited for.
        """
        job = await self._service.submit(request, self._is_waited_for)
        self._waiting[job.id] += 1
        return job

    async def _answer_for_job(
        self, job: Job, request: DrawRequest, context: Context[Any, Any]
    ) -> CallToolResult:
        """Wait for a job and answer; a cancelled call still counts among those that wait."""
        try:
            result = await self._wait_and_answer(job, request, context)
        except Exception as error:
            error.add_note(f"The call waited for job {job.id}.")  # for the log
            self._stop_waiting(job.id)
            raise
        self._stop_waiting(job.id)
        return result

    async def _wait_and_answer(
        self, job: Job, request: DrawRequest, context: Context[Any, Any]
    ) -> CallToolResult:
        # A caller that does not want to wait is answered with the job's id, tasks or not.
        wait_s = self._usual_wait_s() if request.wait_s is None else request.wait_s
        defers = wait_s > TASK_GRACE_S and declares_tasks(context)
        job = await self._wait(job, TASK_GRACE_S if defers else wait_s, context)
        preview = self._preview(request)
        result, position = (
            await self.result_of(job, preview, context),
            await self._service.position(job),
        )
        await self._service.mark_id_given(job.id, preview)
        # Nothing is awaited from here on: a call that is cancelled now has been told the id.
        if defers and not job.is_final:
            return DeferredResult(job=job, position=position, **dict(result))
        return result

    async def result_of(
        self, job: Job, preview: PreviewSize, context: Context[Any, Any] | None = None
    ) -> CallToolResult:
        """Return the result of a call whose job is as given; a failed job is an error."""
        result = await self._job_result(await self._service.describe_job(job), preview, context)
        if job.status == "failed":
            return result.model_copy(update={"is_error": True})
        return result

    def _is_waited_for(self, job_id: str) -> bool:
        return self._waiting[job_id] > 0

    def _stop_waiting(self, job_id: str) -> None:
        self._waiting[job_id] -= 1
        self._waiting += Counter()  # drops jobs that no call waits for

    async def _abandon(self, submitting: "asyncio.Task[Job]") -> None:
        """Let go of the job of a call that was cancelled, timed out, or whose client is gone."""
        try:
            job = await submitting
        except Exception:  # noqa: BLE001 - nothing was stored, and no caller is left to read why
            return
        self._stop_waiting(job.id)
        if not self._is_waited_for(job.id):
            await self._service.cancel_if_unclaimed(job.id)

    # --- the other three -----------------------------------------------------------------------

    async def _get_job(self, request: GetJobRequest, context: Context[Any, Any]) -> CallToolResult:
        if request.job_id is None:
            return queue_result(await self._service.describe_queue())
        if is_download_id(request.job_id):
            return await self._get_download(request.job_id, request.wait_s, context)
        job_id = await self._job_id(request.job_id)
        answer = await self._service.look(job_id)
        if request.wait_s > 0 and answer.status not in FINAL:
            job = await self._service.find_job(job_id)
            job = await self._wait(job, request.wait_s, context)
            answer = await self._service.describe_job(job)
        return await self._job_result(answer, self._preview(request), context)

    async def _job_id(self, asked: str) -> str:
        """Return the id of a job that is named by its own id or by that of an image it made.

        Raises:
            UnknownImageError: there is no such image.
        """
        if not is_image_id(asked):
            return asked
        return (await self._service.gallery.find_image(asked)).job_id

    async def _get_download(
        self, download_id: str, wait_s: float, context: Context[Any, Any]
    ) -> CallToolResult:
        download = await self._service.downloads.find(download_id)
        async with self._progress_feed(context) as feed:
            async for seen in self._service.downloads.watch(download_id, wait_s):
                download = seen
                feed.show(download, None)
        return download_result(download_answer(download))

    async def _cancel_job(self, request: CancelJobRequest, _: Context[Any, Any]) -> CallToolResult:
        if request.job_id is not None:
            return cancel_result(await self._service.cancel(request.job_id))
        return cancel_result(await self._service.cancel_session(request.session or ""))

    async def _search(self, request: SearchRequest, _: Context[Any, Any]) -> CallToolResult:
        answer, preview = await self._service.gallery.search(request), self._preview(request)
        if preview == "none":
            return search_result(answer, preview, self._sheets)
        return await asyncio.to_thread(search_result, answer, preview, self._sheets)

    # --- shared --------------------------------------------------------------------------------

    def _preview(self, request: DrawRequest | GetJobRequest | SearchRequest) -> PreviewSize:
        """Return the size of image that a call asks for, else what its client can show."""
        return request.preview or current_fit(self._fit_overrides).preview

    async def _wait(self, job: Job, wait_s: float, context: Context[Any, Any]) -> Job:
        """Wait for a job to end, with progress notifications; return its newest state."""
        if wait_s <= 0 or job.is_final:
            return job
        async with self._progress_feed(context) as feed:
            async for seen in self._service.watch(job.id, wait_s):
                job = seen
                feed.show(job, await self._service.position(job))
        return job

    def _usual_wait_s(self) -> float:
        """Return how long a call that generates images waits where it says nothing."""
        setting_s = self._service.settings.default_wait_s
        return USUAL_WAIT_S if setting_s is None else setting_s

    def _once(self, notices: tuple[str, ...], context: Context[Any, Any] | None) -> tuple[str, ...]:
        """Return notices without the one about the demonstration, if the session has had it.

        A session is what its transport calls so; callers without one share that of their name.
        """
        is_said = any(notice.startswith(DEMONSTRATION_NOTICE) for notice in notices)
        if not is_said or context is None:  # the result of a task is asked for once
            return notices
        session = acting(), _session_id(context)
        is_told = session in self._told
        self._told[session] = None
        self._told.move_to_end(session)
        if len(self._told) > MOST_SESSIONS:
            self._told.popitem(last=False)
        if not is_told:
            return notices
        return tuple(one for one in notices if not one.startswith(DEMONSTRATION_NOTICE))

    async def _job_result(
        self, answer: JobAnswer, preview: PreviewSize, context: Context[Any, Any] | None
    ) -> CallToolResult:
        is_demo = self._service.registry.is_demonstration(answer.kind, answer.model)
        answer = answer.model_copy(update={"notices": self._once(answer.notices, context)})
        path = self._service.preview_path(answer.job_id)
        if answer.images or (answer.status == "running" and preview != "none"):
            return await asyncio.to_thread(
                job_result, answer, preview, path, self._sheets, is_demo=is_demo
            )
        # It reads no file: it need not wait for a thread behind calls that make images smaller.
        return job_result(answer, preview, path, self._sheets, is_demo=is_demo)

    @asynccontextmanager
    async def _progress_feed(self, context: Context[Any, Any]) -> AsyncIterator[ProgressFeed]:
        """Give a feed whose states are sent to the client for as long as the block lasts."""

        async def send(progress: float, total: float, message: str) -> None:
            # Notifications go around the middleware that all answers pass through.
            said = message if only() is None else self._paths.hidden_in(message)
            await context.report_progress(progress, total, said)

        feed = ProgressFeed(send)
        sending = asyncio.create_task(feed.run())
        try:
            yield feed
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


def _session_id(context: Context[Any, Any]) -> str | None:
    """Return the id that a client's session has over HTTP; `None` where there is none."""
    headers = None
    with suppress(ValueError):  # what the SDK raises for a context without a request
        headers = context.headers
    return None if headers is None else headers.get(SESSION_HEADER)
