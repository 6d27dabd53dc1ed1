"""Tools that change what is listed, so that clients which listen are told (SEP-2575).

What is added is taken away again: clients hear of a change, later listings are as before.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt

DYNAMIC_TOOL, DYNAMIC_PROMPT = "test_dynamic_tool", "test_dynamic_prompt"


def _dynamic() -> str:
    """Be listed for a moment."""
    return "dynamic"


async def trigger_tool_change(ctx: Context[Any, Any]) -> str:
    """Add a tool and take it away, and tell who listens."""
    ctx.mcp_server.add_tool(_dynamic, name=DYNAMIC_TOOL)
    ctx.mcp_server.remove_tool(DYNAMIC_TOOL)
    await ctx.notify_tools_changed()
    return "The list of tools changed."


async def trigger_prompt_change(ctx: Context[Any, Any]) -> str:
    """Add a prompt and take it away, and tell who listens."""
    ctx.mcp_server.add_prompt(Prompt.from_function(_dynamic, name=DYNAMIC_PROMPT))
    ctx.mcp_server.remove_prompt(DYNAMIC_PROMPT)
    await ctx.notify_prompts_changed()
    return "The list of prompts changed."


LIST_TOOLS: Mapping[str, Callable[..., Any]] = {
    "test_trigger_tool_change": trigger_tool_change,
    "test_trigger_prompt_change": trigger_prompt_change,
}
