"""build_server: the MCP server of one process, over one service, for every transport."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from mcp.server import MCPServer, NotificationOptions
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    PromptReference,
    Resource,
    Tool,
)
from opentelemetry import trace

from flux_mcp import __version__
from flux_mcp.errors import FluxMcpError, InternalError
from flux_mcp.jobs.journal import mark_failed
from flux_mcp.observability.logs import log_fields
from flux_mcp.principals import LOCAL, acting_as
from flux_mcp.requests.validation import parse_request
from flux_mcp.server.calls import ToolCalls
from flux_mcp.server.job_tasks import JobTasks
from flux_mcp.server.prompts import (
    PromptFeed,
    completed,
    found_prompt,
    listed_prompts,
    matching,
)
from flux_mcp.server.resources import LORA_URI, PACK_URI, add_resources, listed_resources
from flux_mcp.server.results import error_result
from flux_mcp.server.tasks import TaskBackend, Tasks, refuse_undeclared_listening
from flux_mcp.server.tools import TOOLS, ToolRow, published_tools
from flux_mcp.server.transports.sessions import MAX_SESSIONS, RETRY_MS, Sessions
from flux_mcp.service.service import Service

logger = logging.getLogger(__name__)

FLUSH_S = 0.2
"""From an answer to the wire: the SDK does not say when it has written."""
INSTRUCTIONS = (
    "Draws images with FLUX on this machine's own GPU; one job at a time, the rest "
    "wait in a queue that survives restarts. flux_generate draws from words, flux_edit changes a "
    "image by instruction, flux_fill draws inside a mask, flux_variation varies images, "
    "flux_structural follows edges. Every image is kept with prompt, seed and model: use "
    "flux_search_gallery to find it, and its id wherever a tool takes an image. When an answer has "
    "a job_id and no images yet, call flux_get_job. A prompt pack keeps the style of many "
    "images: name one in the argument pack instead of writing a prompt; flux://packs/{name} says "
    "what it takes. Tell the user the notices of an answer."
)


class FluxServer(MCPServer[Any]):
    """The SDK's server with our tool list and our reading of arguments.

    Args:
        service: What it serves.
        task_backends: Of tools that are added to the eight.
    """

    def __init__(self, service: Service, *, task_backends: Sequence[TaskBackend] = ()) -> None:
        bus = InMemorySubscriptionBus()
        self._feed = PromptFeed(service.packs, bus)
        self._calls = ToolCalls(service)
        super().__init__(
            name="flux-mcp",
            title="flux-mcp",
            instructions=INSTRUCTIONS,
            version=__version__,
            subscriptions=bus,
            middleware=[_for_principal, refuse_undeclared_listening, self._feed],
            extensions=[Tasks(JobTasks(service, self._calls), *task_backends)],
        )
        self._service = service
        self._rows = {row.name: row for row in TOOLS}
        self._published = published_tools()
        add_resources(self, service)
        self._lowlevel_server.add_request_handler(
            "completion/complete", CompleteRequestParams, self._complete
        )
        # Every transport asks this for what it tells a client at the handshake.
        self._lowlevel_server.create_initialization_options = partial(  # type: ignore[method-assign]
            self._lowlevel_server.create_initialization_options,
            NotificationOptions(prompts_changed=True),
        )

    async def list_tools(self) -> list[Tool]:
        """Return exactly the eight tools."""
        return self._published

    async def list_resources(self) -> list[Resource]:
        """Return packs, LoRAs and the newest images; flux_search_gallery finds older ones."""
        return await listed_resources(self._service)

    async def list_prompts(self) -> list[Prompt]:
        """Return the guide and every pack that can be used, as the disk has them now."""
        return await asyncio.to_thread(listed_prompts, self._service.packs)

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,  # noqa: ARG002 - the SDK's signature
    ) -> GetPromptResult | InputRequiredResult:
        """Return a prompt's message.

        Raises:
            MCPError: there is no such prompt, or it cannot be composed so; the message says why.
        """
        try:
            return await asyncio.to_thread(found_prompt, self._service.packs, name, arguments or {})
        except FluxMcpError as error:
            raise MCPError(code=INVALID_PARAMS, message=str(error)) from error

    async def _complete(self, _: Any, asked: CompleteRequestParams) -> CompleteResult:
        """Complete what a user has begun to type: arguments of prompts, names of packs, LoRAs."""
        packs, reference, argument = self._service.packs, asked.ref, asked.argument
        found = Completion(values=[])
        if isinstance(reference, PromptReference):
            name, value = argument.name, argument.value
            found = await asyncio.to_thread(completed, packs, reference.name, name, value)
        elif argument.name == "name" and reference.uri in (PACK_URI, LORA_URI):
            of_packs = reference.uri == PACK_URI
            names = await asyncio.to_thread(
                lambda: [one.name for one in packs] if of_packs else self._service.loras.names()
            )
            found = matching(names, argument.value)
        return CompleteResult(completion=found)

    def http_sessions(self, max_body_bytes: int) -> StreamableHTTPSessionManager:
        """Return what serves streamable HTTP, both protocol eras; run it, then hand it requests."""
        return Sessions(
            self._lowlevel_server,
            # The guard in front has checked Host and Origin, of every route in the same way.
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            max_request_body_size=max_body_bytes,
            retry_interval=RETRY_MS,
            max_sessions=MAX_SESSIONS,
        )

    async def finish_calls(self, timeout_s: float) -> None:
        """Have every open call answered, drawn or not, because the server ends.

        Args:
            timeout_s: A call that is not answered by then is cut off; its job is kept all the same.
        """
        self._service.begin_shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._calls.all_answered()
        listening = self._lowlevel_server.get_request_handler("subscriptions/listen")
        if listening is not None and isinstance(listening.handler, ListenHandler):
            listening.handler.close()
        await asyncio.sleep(FLUSH_S)

    async def announce_changes(self) -> None:
        """Tell clients when packs change on disk, until cancelled."""
        await self._feed.run()

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Answer a tool call; every mistake the caller can fix is a tool error it can read.

        Raises:
            MCPError: there is no such tool.
        """
        row = self._rows.get(name)
        if row is None:
            known = ", ".join(self._rows)
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool '{name}'. Tools: {known}.")
        asked = context or Context(mcp_server=self)
        with log_fields(tool=name, request_id=_request_id(context)):
            return await self._timed(row, arguments, asked)

    async def _timed(
        self, row: ToolRow, arguments: dict[str, Any], context: Context[Any, Any]
    ) -> CallToolResult:
        """Answer a call, and say in the log and in its span how that ended."""
        started_s = time.perf_counter()
        code, job_id = "cancelled", None
        try:
            result, code = await self._answered(row, arguments, context)
            job_id = (result.structured_content or {}).get("job_id")
            return result
        finally:
            seconds = time.perf_counter() - started_s
            logger.info(
                "tool call ended", extra={"code": code, "job_id": job_id, "seconds": seconds}
            )
            span = trace.get_current_span()
            if job_id is not None:
                span.set_attribute("flux.job_id", job_id)
            if code != "ok":
                mark_failed(span, code)

    async def _answered(
        self, row: ToolRow, arguments: dict[str, Any], context: Context[Any, Any]
    ) -> tuple[CallToolResult, str]:
        """Return the answer, and `ok` or the code of the error that it is."""
        try:
            request = parse_request(row.request, arguments)
            result = await self._calls.answer(request, context)
        except FluxMcpError as error:
            return error_result(error), error.code
        except Exception:
            # The last place before the wire: what is not in our tree is a bug of ours.
            logger.exception("a bug of ours")
            bug = InternalError("Something broke inside flux-mcp.", "The server's log has details.")
            return error_result(bug), bug.code
        return result, _code_of(result)


def _code_of(result: CallToolResult) -> str:
    """Return `ok`, or the code of the failed job that a result tells of."""
    if not result.is_error:
        return "ok"
    error = (result.structured_content or {}).get("error") or {}
    return str(error.get("code", InternalError.code))


def _request_id(context: Context[Any, Any] | None) -> str | None:
    """Return the id a client gave its request; `None` for a call of our own."""
    if context is None:
        return None
    try:
        return str(context.request_id)
    except ValueError:  # the SDK's word for a context without a request
        return None


async def _for_principal(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware, the outermost: everything a message leads to is done for who sent it."""
    user = None if ctx.request is None else ctx.request.scope.get("user")
    # Without the guard there is no network either: stdio, or a test in one process.
    name = user.access_token.client_id if isinstance(user, AuthenticatedUser) else LOCAL
    with acting_as(name):
        return await call_next(ctx)


def build_server(service: Service) -> FluxServer:
    """Return the server. The service's lifetime is the caller's: SSE would tie it to a client."""
    return FluxServer(service)
