"""Tools that send messages while they run: log, progress, requests, a closed stream.

Log and sampling are deprecated as of 2026-07-28 (SEP-2577); 2025-11-25 has them, so they are sent
without the SDK's deprecated shorthands.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp.types import CreateMessageResult, InputRequiredResult

from tests.conformance.server.clients import log
from tests.conformance.server.elicitations import (
    CHOICES,
    CONTACT,
    DEFAULTS,
    Schema,
    filled_in,
    form,
    form_request,
    sampling_request,
)

PAUSE_S = 0.05
"""Between messages; the suite's scenarios ask for about 50 ms, so that they arrive one by one."""


async def logging_tool(ctx: Context[Any, Any]) -> str:
    """Send three messages for the log while running."""
    await log(ctx, "info", "Tool execution started")
    await asyncio.sleep(PAUSE_S)
    await log(ctx, "info", "Tool processing data")
    await asyncio.sleep(PAUSE_S)
    await log(ctx, "info", "Tool execution completed")
    return "Three messages were logged, if the client wants them."


async def progress_tool(ctx: Context[Any, Any]) -> str:
    """Report progress three times."""
    await ctx.report_progress(0, 100, "Completed step 0 of 100")
    await asyncio.sleep(PAUSE_S)
    await ctx.report_progress(50, 100, "Completed step 50 of 100")
    await asyncio.sleep(PAUSE_S)
    await ctx.report_progress(100, 100, "Completed step 100 of 100")
    return "Progress was reported, if the client gave a token."


async def sampling(prompt: str, ctx: Context[Any, Any]) -> str:
    """Ask the client's model, and answer with what it says."""
    # The related request names the stream: without it the question would go to the client's
    # standing stream, which need not be open yet.
    try:
        answer = await ctx.session.send_request(
            sampling_request(prompt, 100),
            CreateMessageResult,
            metadata=ServerMessageMetadata(related_request_id=ctx.request_id),
        )
    except MCPError as error:
        raise ToolError(f"The client cannot sample: {error}") from error
    said = answer.content.text if answer.content.type == "text" else answer.content.type
    return f"LLM response: {said}"


async def _asked(ctx: Context[Any, Any], message: str, schema: Schema) -> str:
    try:
        answer = await ctx.session.elicit_form(message, dict(schema), ctx.request_id)
    except MCPError as error:
        raise ToolError(f"The client cannot ask its user: {error}") from error
    return f"action={answer.action}, content={json.dumps(answer.content or {})}"


async def elicitation(message: str, ctx: Context[Any, Any]) -> str:
    """Ask the user something, and answer with the answer."""
    return f"User response: {await _asked(ctx, message, CONTACT)}"


async def elicitation_defaults(ctx: Context[Any, Any]) -> str:
    """Ask with a default for every primitive type (SEP-1034)."""
    asked = await _asked(ctx, "Please review and update the form fields with defaults", DEFAULTS)
    return f"Elicitation completed: {asked}"


async def elicitation_choices(ctx: Context[Any, Any]) -> str:
    """Ask with every way to write a choice (SEP-1330)."""
    asked = await _asked(ctx, "Please select options from the enum fields", CHOICES)
    return f"Elicitation completed: {asked}"


async def streaming_elicitation(ctx: Context[Any, Any]) -> str | InputRequiredResult:
    """Report progress, then ask by answering: today's streams carry no requests (SEP-2575)."""
    name = filled_in(ctx.input_responses, "user_name", "name")
    await ctx.report_progress(1, 2, "Asking")
    if name is None:
        asked = form_request("What is your name?", form("name"))
        return InputRequiredResult(input_requests={"user_name": asked})
    return f"Hello, {name}!"


async def reconnection(ctx: Context[Any, Any]) -> str:
    """Close the stream while running: the client fetches the rest when it comes back (SEP-1699)."""
    await log(ctx, "info", "Before the stream is closed")
    await ctx.close_sse_stream()
    await log(ctx, "info", "After the stream was closed")
    return "Reconnection test completed"


DURING_TOOLS: Mapping[str, Callable[..., Any]] = {
    "test_tool_with_logging": logging_tool,
    "test_logging_tool": logging_tool,
    "test_tool_with_progress": progress_tool,
    "test_sampling": sampling,
    "test_elicitation": elicitation,
    "test_elicitation_sep1034_defaults": elicitation_defaults,
    "test_elicitation_sep1330_enums": elicitation_choices,
    "test_streaming_elicitation": streaming_elicitation,
    "test_reconnection": reconnection,
}
