"""Tool calls: each validated request answered through the service, as a tool result.

A call that generates images submits a job and then waits for it; it never is the job. What becomes
of the job when its call ends without an answer is decided here: a client that ran out of time
keeps it, and gets it when it calls again; otherwise the setting `on_disconnect` decides.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from flux_mcp.errors import FluxMcpError
from flux_mcp.gallery.previews import Sheets
from flux_mcp.gallery.store import is_image_id
from flux_mcp.jobs.downloads import is_download_id
from flux_mcp.jobs.job import FINAL, Job, PreviewSize
from flux_mcp.principals import acting, only
from flux_mcp.requests.lookups import CancelJobRequest, GetJobRequest, SearchRequest
from flux_mcp.requests.plan import DEMONSTRATION_NOTICE
from flux_mcp.requests.schemas import DRAW_REQUESTS, DrawRequest
from flux_mcp.requests.validation import USUAL_POLL_S, USUAL_WAIT_S
from flux_mcp.server.asking import OpenPage, WantedImages
from flux_mcp.server.clients import current_fit, overrides_of
from flux_mcp.server.progress import ProgressFeed
from flux_mcp.server.redaction import ServerPaths
from flux_mcp.server.results import (
    MAX_PREVIEWS,
    cancel_result,
    download_result,
    dry_run_result,
    job_result,
    overlay_limits,
    queue_result,
    search_result,
)
from flux_mcp.server.tasks import declares_tasks
from flux_mcp.server.timeouts import CancelReasons, Session, says_timeout, session_of
from flux_mcp.server.waiting import REPEAT_S, ClientTimeouts, wanted_wait_s
from flux_mcp.service.answers import JobAnswer
from flux_mcp.service.service import Service
from flux_mcp.service.views import download_answer

REPEATED_NOTICE = (
    "The same call was made before and its answer was not received: this is its job, and no second "
    "one was queued. For another image change the seed or the prompt."
)
SHORTENED_NOTICE = (
    "Answered before wait_s has passed: this client has ended a call before its answer came."
)
MOST_SESSIONS = 1000
"""Sessions that are remembered; an older one is told again what it has been told."""
CAPTION_WAIT_S = 3.0
"""An answer waits no longer for what a model says of its images: the shortest time-out of a client
that is known is 5 s. What comes later is told by the next call."""
TASK_GRACE_S = 0.25
"""A call whose client takes tasks waits this long: what ends by then is answered directly."""


class DeferredResult(CallToolResult):
    """The result of a call that stopped waiting because a task will stand for its job."""

    job: Job = Field(exclude=True)
    position: int | None = Field(exclude=True)
    """Its place in the queue, 1 for the next."""


@dataclass(eq=False)
class OpenCall:
    """A call that waits for a job, until it is answered or has ended otherwise."""

    session: Session | None
    context: Context[Any, Any]
    asked: BaseModel
    """The request, without how its caller waits for the answer."""
    submitting: asyncio.Task[Job] | None = None
    """Stores its job, or finds that of an earlier call."""
    is_given_up: bool = False
    """Whether its client has made the call again."""
    notices: tuple[str, ...] = ()
    """What its answer says besides that of the job."""
    began_s: float = field(default_factory=time.monotonic)
    lost: asyncio.Event | None = None
    """Set when it was cancelled, and what becomes of its job is decided; `None` before."""

    def age_s(self) -> float:
        """Return how long it has been open."""
        return time.monotonic() - self.began_s


_Handler = Callable[[Any, OpenCall], Awaitable[CallToolResult]]


class ToolCalls:
    """Answers tool calls; keeps how many are open, and how many wait for each job.

    Args:
        service: Makes, finds and ends jobs.
        reasons: Why calls were cancelled.
        open_page: Opens a page on which the user gives an image; `None` where nobody sees one.
    """

    def __init__(
        self, service: Service, reasons: CancelReasons, open_page: OpenPage | None = None
    ) -> None:
        self._service = service
        self._wanted = WantedImages(service, open_page)
        self._reasons = reasons
        self._timeouts = ClientTimeouts()
        self._calls: list[OpenCall] = []
        self._waiting: Counter[str] = Counter()
        self._sheets = Sheets()
        self._told: OrderedDict[Session, None] = OrderedDict()
        self._paths = ServerPaths.of(service.settings)
        self._fit_overrides = overrides_of(service.settings)
        published = service.settings.tools
        # Without flux_get_job, who is answered with a job's id never gets the image.
        self._is_polled = published is None or "flux_get_job" in published
        self._open = 0
        self._answered = asyncio.Event()
        self._handlers: dict[type[BaseModel], _Handler] = {
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
        call = OpenCall(session_of(context), context, _without_waiting(request))
        self._calls.append(call)
        try:
            return await self._handlers[type(request)](request, call)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                if says_timeout(await self._reasons.of(context)):
                    self._timeouts.timed_out(call.session, call.age_s())
            raise
        finally:
            self._calls.remove(call)
            self._open -= 1
            if not self._open:
                self._answered.set()

    async def all_answered(self) -> None:
        """Return when no call is open; none waits for the user any longer."""
        self._wanted.stop()
        while self._open:
            self._answered.clear()
            await self._answered.wait()

    # --- generating images ---------------------------------------------------------------------

    async def _draw(self, request: DrawRequest, call: OpenCall) -> CallToolResult:
        request = await self._with_wanted(request, call)
        if request.dry_run:
            limits = overlay_limits(self._preview(request))
            answer = await self._service.dry_run(request, limits)
            notices = self._once((*call.notices, *answer.notices), call.context)
            told = answer.model_copy(update={"notices": notices})
            return dry_run_result(told, current_fit(self._fit_overrides).budget)
        # A task of its own: a call cancelled while its job is being stored must still find out
        # which job that is, to cancel it.
        call.submitting = asyncio.create_task(self._submit(request, call))
        try:
            job = await asyncio.shield(call.submitting)
            return await self._answer_for_job(job, request, call)
        except asyncio.CancelledError:
            call.lost = asyncio.Event()
            with anyio.CancelScope(shield=True):
                await self._abandon(call.submitting, call)
                call.lost.set()
            raise

    async def _with_wanted(self, request: DrawRequest, call: OpenCall) -> DrawRequest:
        """Return a request with the image that the user is asked for; see `WantedImages.fill`."""

        async def tell(message: str) -> None:
            await call.context.report_progress(0, 1, message)

        wait_s = wanted_wait_s(request.wait_s, self._client_wait_s(), USUAL_WAIT_S)
        filled = await self._wanted.fill(request, self._bounded(wait_s, call), tell)
        if filled is request:
            return request
        # What it waited for the image, it does not wait for the job.
        return filled.model_copy(update={"wait_s": max(0.0, wait_s - call.age_s())})

    async def _submit(self, request: DrawRequest, call: OpenCall) -> Job:
        """Store a job, or find that of an earlier call; count this call among those that wait.

        In one step: a call with the same key that comes now already finds it waited for.
        """
        job = await self._job_of_earlier_call(request, call)
        if job is None:
            job = await self._service.submit(request, self._is_waited_for)
        else:
            call.notices = (REPEATED_NOTICE,)
        self._waiting[job.id] += 1
        return job

    async def _job_of_earlier_call(self, request: DrawRequest, call: OpenCall) -> Job | None:
        """Return the job of the same call made before, if its client did not get the answer."""
        if request.idempotency_key is not None:
            return None  # its caller says which calls are the same
        earlier = self._given_up_for(call)
        if earlier is not None and earlier.submitting is not None:
            with suppress(FluxMcpError):  # it was refused; this one need not be
                stored = await asyncio.shield(earlier.submitting)
                job = await self._service.find_job(stored.id)
                if not job.cancel_requested:
                    return job
        # What becomes of the jobs of calls that have just ended is known first.
        for one in self._before(call):
            if one.lost is not None:
                await one.lost.wait()
        return await self._service.take_unanswered(request)

    def _before(self, call: OpenCall) -> list[OpenCall]:
        """Return the calls of the same session that were open when this one came."""
        older = self._calls[: self._calls.index(call)]
        return [one for one in older if one.session == call.session]

    def _given_up_for(self, call: OpenCall) -> OpenCall | None:
        """Return the open call of the same session that this one repeats, and remember that.

        Older SDKs of Python do not say that they have stopped waiting.
        """
        if call.session is None:
            return None
        for one in self._before(call):
            is_over = one.is_given_up or one.lost is not None
            if one.asked == call.asked and not is_over and one.age_s() >= REPEAT_S:
                one.is_given_up = True
                self._timeouts.gave_up(call.session)
                return one
        return None

    async def _answer_for_job(
        self, job: Job, request: DrawRequest, call: OpenCall
    ) -> CallToolResult:
        """Wait for a job and answer; a cancelled call still counts among those that wait."""
        try:
            result = await self._wait_and_answer(job, request, call)
        except Exception as error:
            error.add_note(f"The call waited for job {job.id}.")  # for the log
            self._stop_waiting(job.id)
            raise
        self._stop_waiting(job.id)
        return result

    async def _wait_and_answer(
        self, job: Job, request: DrawRequest, call: OpenCall
    ) -> CallToolResult:
        # A caller that does not want to wait is answered with the job's id, tasks or not.
        wait_s = wanted_wait_s(request.wait_s, self._client_wait_s(), USUAL_WAIT_S)
        defers = wait_s > TASK_GRACE_S and declares_tasks(call.context)
        job = await self._wait(job, TASK_GRACE_S if defers else wait_s, call)
        call.notices += self._shortened(job, request.wait_s, call)
        preview = self._preview(request)
        result, position = (
            await self.result_of(
                job,
                preview,
                call.context,
                call.notices,
                captions_s=self._captions_s(wait_s, call),
            ),
            await self._service.position(job),
        )
        await self._service.mark_id_given(job.id, preview)
        # Nothing is awaited from here on: a call that is cancelled now has been told the id.
        if defers and not job.is_final:
            return DeferredResult(job=job, position=position, **dict(result))
        return result

    async def result_of(
        self,
        job: Job,
        preview: PreviewSize,
        context: Context[Any, Any] | None = None,
        notices: tuple[str, ...] = (),
        *,
        captions_s: float = CAPTION_WAIT_S,
    ) -> CallToolResult:
        """Return the result of a call whose job is as given; a failed job is an error.

        Args:
            job: Its newest state.
            preview: How large an image to put inside.
            context: Of the call; `None` for the result of a task.
            notices: What is said besides those of the job.
            captions_s: How long to wait for captions, where no image is inside.
        """
        answer = await self._service.describe_job(job)
        answer = answer.model_copy(update={"notices": (*notices, *answer.notices)})
        result = await self._job_result(answer, preview, context, captions_s)
        if job.status == "failed":
            return result.model_copy(update={"is_error": True})
        return result

    def _is_waited_for(self, job_id: str) -> bool:
        return self._waiting[job_id] > 0

    def _stop_waiting(self, job_id: str) -> None:
        self._waiting[job_id] -= 1
        self._waiting += Counter()  # drops jobs that no call waits for

    async def _abandon(self, submitting: "asyncio.Task[Job]", call: OpenCall) -> None:
        """Let go of the job of a call that was cancelled, timed out, or whose client is gone."""
        is_timeout = says_timeout(await self._reasons.of(call.context))
        try:
            job = await submitting
        except Exception:  # noqa: BLE001 - nothing was stored, and no caller is left to read why
            return
        self._stop_waiting(job.id)
        if is_timeout or not self._is_waited_for(job.id):
            await self._service.let_go(job.id, keep=is_timeout)

    # --- the other three -----------------------------------------------------------------------

    async def _get_job(self, request: GetJobRequest, call: OpenCall) -> CallToolResult:
        if request.job_id is None:
            return queue_result(await self._service.describe_queue())
        self._given_up_for(call)
        poll_s = current_fit(self._fit_overrides).poll_s
        wait_s = wanted_wait_s(request.wait_s, poll_s, USUAL_POLL_S)
        if is_download_id(request.job_id):
            return await self._get_download(request.job_id, wait_s, call)
        job_id = await self._job_id(request.job_id)
        answer = await self._service.look(job_id)
        if wait_s > 0 and answer.status not in FINAL:
            job = await self._service.find_job(job_id)
            job = await self._wait(job, wait_s, call)
            answer = await self._service.describe_job(job)
            notices = (*self._shortened(job, request.wait_s, call), *answer.notices)
            answer = answer.model_copy(update={"notices": notices})
        captions_s = self._captions_s(wait_s, call)
        return await self._job_result(answer, self._preview(request), call.context, captions_s)

    async def _job_id(self, asked: str) -> str:
        """Return the id of a job that is named by its own id or by that of an image it made.

        Raises:
            UnknownImageError: there is no such image.
        """
        if not is_image_id(asked):
            return asked
        return (await self._service.gallery.find_image(asked)).job_id

    async def _get_download(
        self, download_id: str, wait_s: float, call: OpenCall
    ) -> CallToolResult:
        download = await self._service.downloads.find(download_id)
        async with self._progress_feed(call.context) as feed:
            wait_s = self._bounded(wait_s, call)
            async for seen in self._service.downloads.watch(download_id, wait_s):
                download = seen
                feed.show(download, None)
        return download_result(download_answer(download))

    async def _cancel_job(self, request: CancelJobRequest, _: OpenCall) -> CallToolResult:
        if request.job_id is not None:
            return cancel_result(await self._service.cancel(request.job_id))
        return cancel_result(await self._service.cancel_session(request.session or ""))

    async def _search(self, request: SearchRequest, _: OpenCall) -> CallToolResult:
        answer, preview = await self._service.gallery.search(request), self._preview(request)
        if preview == "none":
            return search_result(answer, preview, self._sheets)
        budget = current_fit(self._fit_overrides).budget
        return await asyncio.to_thread(search_result, answer, preview, self._sheets, budget)

    # --- shared --------------------------------------------------------------------------------

    def _preview(self, request: DrawRequest | GetJobRequest | SearchRequest) -> PreviewSize:
        """Return the size of image that a call asks for, else what its client can show."""
        return request.preview or current_fit(self._fit_overrides).preview

    async def _wait(self, job: Job, wait_s: float, call: OpenCall) -> Job:
        """Wait for a job to end, with progress notifications; return its newest state."""
        bounded_s = self._bounded(wait_s, call)
        if bounded_s <= 0 or job.is_final:
            return job
        async with self._progress_feed(call.context) as feed:
            async for seen in self._service.watch(job.id, bounded_s):
                job = seen
                feed.show(job, await self._service.position(job))
        return job

    def _client_wait_s(self) -> float | None:
        """Return how long calls of this client wait for images where they do not say, if known."""
        if self._is_polled:
            return current_fit(self._fit_overrides).wait_s
        return self._service.settings.default_wait_s

    def _most_s(self, call: OpenCall) -> float | None:
        """Return how long after its begin a call is answered at the latest, if there is a reason.

        Where a job's id is of no use, the client rather calls again when its time is up.
        """
        return self._timeouts.most_s(call.session) if self._is_polled else None

    def _shortened(self, job: Job, given_s: float | None, call: OpenCall) -> tuple[str, ...]:
        """Return what is said of a call that said how long it waits, and did not."""
        most_s = self._most_s(call)
        is_shortened = given_s is not None and most_s is not None and most_s < given_s
        return (SHORTENED_NOTICE,) if is_shortened and not job.is_final else ()

    def _bounded(self, wait_s: float, call: OpenCall) -> float:
        """Return how long a call may wait so that its client is still there for the answer."""
        most_s = self._most_s(call)
        return wait_s if most_s is None else min(wait_s, max(0.0, most_s - call.age_s()))

    def _captions_s(self, wait_s: float, call: OpenCall) -> float:
        """Return how long the answer of a call that waits so long in all may wait for captions."""
        return min(CAPTION_WAIT_S, self._bounded(max(0.0, wait_s - call.age_s()), call))

    def _once(self, notices: tuple[str, ...], context: Context[Any, Any] | None) -> tuple[str, ...]:
        """Return notices without the one about the demonstration, if the session has had it.

        A session is what its transport calls so; callers without one share that of their name.
        """
        is_said = any(notice.startswith(DEMONSTRATION_NOTICE) for notice in notices)
        if not is_said or context is None:  # the result of a task is asked for once
            return notices
        session = session_of(context) or (acting(), "")
        is_told = session in self._told
        self._told[session] = None
        self._told.move_to_end(session)
        if len(self._told) > MOST_SESSIONS:
            self._told.popitem(last=False)
        if not is_told:
            return notices
        return tuple(one for one in notices if not one.startswith(DEMONSTRATION_NOTICE))

    async def _job_result(
        self,
        answer: JobAnswer,
        preview: PreviewSize,
        context: Context[Any, Any] | None,
        captions_s: float,
    ) -> CallToolResult:
        is_demo = self._service.registry.is_demonstration(answer.kind, answer.model)
        answer = answer.model_copy(update={"notices": self._once(answer.notices, context)})
        path = self._service.preview_path(answer.job_id)
        if answer.images or (answer.status == "running" and preview != "none"):
            budget = current_fit(self._fit_overrides).budget
            if preview == "none" and len(answer.images) <= MAX_PREVIEWS:
                answer = await self._service.captioned(answer, captions_s)

            def made() -> CallToolResult:
                limits = overlay_limits(preview) if answer.images else None
                overlay = None if limits is None else self._service.overlay(answer, limits)
                return job_result(
                    answer,
                    preview,
                    path,
                    self._sheets,
                    overlay=overlay,
                    is_demo=is_demo,
                    budget=budget,
                )

            return await asyncio.to_thread(made)
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


def _without_waiting(request: BaseModel) -> BaseModel:
    """Return what a call asks for, without how its caller waits for the answer."""
    fields = type(request).model_fields
    as_usual: dict[str, Any] = {
        name: fields[name].default for name in ("wait_s", "preview") if name in fields
    }
    return request.model_copy(update=as_usual)
