"""build_server: the MCP server of one process, over one service, for every transport."""

import logging
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, InputRequiredResult, Resource, Tool

from flux_mcp import __version__
from flux_mcp.errors import FluxMcpError, InternalError
from flux_mcp.requests.invalid import parse_request
from flux_mcp.server.resources import add_resources, listed_resources
from flux_mcp.server.results import error_result
from flux_mcp.server.tools import TOOLS, ToolCalls, published_tools
from flux_mcp.service import Service

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "Draws pictures with FLUX on this machine's own graphics card; one job at a time, the rest "
    "wait in a queue that survives restarts. flux_generate draws from words, flux_edit changes a "
    "picture by instruction, flux_fill draws inside a mask, flux_variation varies pictures, "
    "flux_structural follows edges. Every picture is kept with prompt, seed and model: use "
    "flux_search_gallery to find it, and its id wherever a tool takes an image. When an answer has "
    "a job_id and no pictures yet, call flux_get_job. Tell the user the notices of an answer."
)


class FluxServer(MCPServer[Any]):
    """The SDK's server with our tool list and our reading of arguments."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            name="flux-mcp",
            title="flux-mcp",
            instructions=INSTRUCTIONS,
            version=__version__,
        )
        self._service = service
        self._calls = ToolCalls(service)
        self._rows = {row.name: row for row in TOOLS}
        self._published = published_tools()
        add_resources(self, service)

    async def list_tools(self) -> list[Tool]:
        """Return exactly the eight tools."""
        return self._published

    async def list_resources(self) -> list[Resource]:
        """Return the newest pictures; older ones are found with flux_search_gallery."""
        return await listed_resources(self._service)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Answer a tool call; every mistake the caller can mend is a tool error it can read.

        Raises:
            MCPError: there is no such tool.
        """
        row = self._rows.get(name)
        if row is None:
            known = ", ".join(self._rows)
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool '{name}'. Tools: {known}.")
        try:
            request = parse_request(row.request, arguments)
            return await self._calls.answer(request, context or Context(mcp_server=self))
        except FluxMcpError as error:
            logger.info("%s was refused: %s", name, error.code)
            return error_result(error)
        except Exception:
            # The last place before the wire: what is not in our tree is a bug of ours.
            logger.exception("%s met a bug of ours", name)
            return error_result(
                InternalError("Something broke inside flux-mcp.", "The server's log has details.")
            )


def build_server(service: Service) -> FluxServer:
    """Return the server. The service's lifetime is the caller's: SSE would tie it to a client."""
    return FluxServer(service)
