"""The yardstick: a server that is nothing but the SDK and eight tools that do nothing.

Run as a process of its own by start.py and status.py: `bare_server.py [ANSWER]`. With ANSWER, the
JSON of a tool's result with its output schema, a ninth tool returns that result.
"""

import json
import sys
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.types import CallToolResult, TextContent, Tool


class BareServer(MCPServer):
    """The SDK's server; `same` is published with the output schema of the tool it imitates."""

    same_schema: dict[str, Any] | None = None

    async def list_tools(self) -> list[Tool]:
        """Return the tools."""
        tools = await super().list_tools()
        for tool in tools:
            if tool.name == "same":
                tool.output_schema = self.same_schema
        return tools


server = BareServer("bare")


def _add(number: int) -> None:
    @server.tool(name=f"noop_{number}", description=f"Do nothing, the {number}. way.")
    def noop(text: str = "") -> dict[str, str]:
        return {"text": text}


def _add_same(answer: Path) -> None:
    """Add the tool that returns what another server's tool has returned."""
    given = json.loads(answer.read_bytes())
    server.same_schema = given["outputSchema"]

    @server.tool(name="same", description="Return the same.")
    def same(query: str) -> CallToolResult:  # noqa: ARG001 - it is sent what the other is sent
        content = [TextContent.model_validate(block) for block in given["content"]]
        return CallToolResult(content=content, structured_content=given["structuredContent"])


for _number in range(8):
    _add(_number)
if len(sys.argv) > 1:
    _add_same(Path(sys.argv[1]))

if __name__ == "__main__":
    server.run("stdio")
