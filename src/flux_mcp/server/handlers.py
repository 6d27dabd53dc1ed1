"""Handlers: what answers the requests of clients, over one service.

`app.py` imports this module when the first request needs it, so that a server can list its tools
before the models of requests and answers, the packs, the planner and the queue are imported.
"""

import asyncio
import logging
import time
from typing import Any

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    CompleteRequestParams,
    Completion,
    GetPromptResult,
    Prompt,
    PromptReference,
)

from flux_mcp.errors import FluxMcpError, InternalError
from flux_mcp.observability.logs import log_fields
from flux_mcp.observability.tracing import mark_call
from flux_mcp.requests.validation import parse_request
from flux_mcp.server.asking import OpenPage
from flux_mcp.server.calls import ToolCalls
from flux_mcp.server.clients import current_fit, overrides_of
from flux_mcp.server.job_tasks import JobTasks
from flux_mcp.server.prompts import completed, found_prompt, listed_prompts, matching
from flux_mcp.server.published import LORA_URI, PACK_URI
from flux_mcp.server.resources import ResourceReader
from flux_mcp.server.results import error_result, error_text, fitted
from flux_mcp.server.timeouts import CancelReasons
from flux_mcp.server.tools import TOOLS, ToolRow
from flux_mcp.service.service import Service

logger = logging.getLogger(__name__)


class Handlers:
    """Answers tool calls, prompts, completions, resources and tasks of every client.

    Args:
        service: What they are answered through.
        reasons: Why calls were cancelled.
        open_page: Opens a page on which the user gives an image; `None` where nobody sees one.
    """

    def __init__(
        self, service: Service, reasons: CancelReasons, open_page: OpenPage | None = None
    ) -> None:
        self.resources = ResourceReader(service)
        self._service = service
        self._calls = ToolCalls(service, reasons, open_page)
        self.tasks = JobTasks(service, self._calls)
        published = service.settings.tools
        self._rows = {row.name: row for row in TOOLS if published is None or row.name in published}
        self._fit_overrides = overrides_of(service.settings)

    async def finish_calls(self) -> None:
        """Answer every open call with what there is so far, because the server ends."""
        self._service.begin_shutdown()
        await self._calls.all_answered()

    # --- tools ---------------------------------------------------------------------------------

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any],
        context: Context[Any, Any],
        request_id: str | None,
    ) -> CallToolResult:
        """Answer a tool call; every mistake the caller can fix is a tool error it can read.

        Raises:
            MCPError: there is no such tool.
        """
        row = self._rows.get(name)
        if row is None:
            is_off = any(name == row.name for row in TOOLS)
            problem = (
                f"The setting 'tools' leaves out '{name}'" if is_off else f"Unknown tool '{name}'"
            )
            known = ", ".join(self._rows)
            raise MCPError(code=INVALID_PARAMS, message=f"{problem}. Tools: {known}.")
        with log_fields(tool=name, request_id=request_id):
            result = await self._timed(row, arguments, context)
        return fitted(result, current_fit(self._fit_overrides))

    async def _timed(
        self, row: ToolRow, arguments: dict[str, Any], context: Context[Any, Any]
    ) -> CallToolResult:
        """Answer a call; write its end to the log and to its span."""
        started_s = time.perf_counter()
        code, job_id = "cancelled", None
        try:
            result, code = await self._answered(row, arguments, context)
            content = result.structured_content or {}
            job_id = content.get("job_id", content.get("download_id"))
            return result
        finally:
            seconds = time.perf_counter() - started_s
            logger.info(
                "tool call ended", extra={"code": code, "job_id": job_id, "seconds": seconds}
            )
            mark_call(code, job_id)

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
            # The last place before the protocol: whatever is not one of our errors ends here.
            logger.exception(
                "unexpected error in tool call", extra={"job_id": arguments.get("job_id")}
            )
            unexpected = InternalError(
                "Something broke inside flux-mcp.", "The server's log has details."
            )
            return error_result(unexpected), unexpected.code
        return result, _code_of(result)

    # --- prompts -------------------------------------------------------------------------------

    async def list_prompts(self) -> list[Prompt]:
        """Return the guide and every pack that can be used, as the disk has them now."""
        return await asyncio.to_thread(listed_prompts, self._service.packs)

    async def get_prompt(self, name: str, arguments: dict[str, Any]) -> GetPromptResult:
        """Return a prompt's message.

        Raises:
            MCPError: there is no such prompt, or it cannot be composed so; the message says why.
        """
        try:
            return await asyncio.to_thread(found_prompt, self._service.packs, name, arguments)
        except FluxMcpError as error:
            raise MCPError(code=INVALID_PARAMS, message=error_text(error)) from error

    async def changed_packs(self) -> str:
        """Read the packs again; return what changed since the last time, empty if nothing did."""
        changes = await asyncio.to_thread(self._service.packs.refresh)
        return str(changes) if changes else ""

    async def complete(self, asked: CompleteRequestParams) -> Completion:
        """Complete what a user has begun to type: arguments of prompts, names of packs, LoRAs."""
        packs, reference, argument = self._service.packs, asked.ref, asked.argument
        if isinstance(reference, PromptReference):
            name, value = argument.name, argument.value
            return await asyncio.to_thread(completed, packs, reference.name, name, value)
        if argument.name == "name" and reference.uri in (PACK_URI, LORA_URI):
            of_packs = reference.uri == PACK_URI
            names = await asyncio.to_thread(
                lambda: [one.name for one in packs] if of_packs else self._service.loras.names()
            )
            return matching(names, argument.value)
        return Completion(values=[])


def _code_of(result: CallToolResult) -> str:
    """Return `ok`, or the code of the failed job that a result is about."""
    if not result.is_error:
        return "ok"
    error = (result.structured_content or {}).get("error") or {}
    return str(error.get("code", InternalError.code))
