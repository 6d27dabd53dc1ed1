"""build_conformance_server: the product's server, and the suite's fixtures beside what it has.

Fixtures are registered with the SDK, where the product registers no tools and no prompts; a name
that is not a fixture's goes to the product.
"""

from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts import Prompt as RegisteredPrompt
from mcp.types import (
    CallToolResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    Resource,
    SetLevelRequestParams,
    SubscribeRequestParams,
    Tool,
    UnsubscribeRequestParams,
)

from flux_mcp.server.app import FluxServer
from flux_mcp.server.on_demand import OnDemand
from flux_mcp.service.service import Service
from tests.conformance.server.clients import Watchers, set_level
from tests.conformance.server.contents import CONTENT_TOOLS, INPUT_SCHEMAS
from tests.conformance.server.during import DURING_TOOLS
from tests.conformance.server.lists import LIST_TOOLS
from tests.conformance.server.prompts import PROMPTS
from tests.conformance.server.resources import add_resources
from tests.conformance.server.rounds import ROUND_TOOLS
from tests.conformance.server.tasks import add_task_tools, task_fixtures


class ConformanceServer(FluxServer):
    """The product's server that also knows the fixtures."""

    def __init__(self, service: Service) -> None:
        super().__init__(OnDemand.ready(service), service.settings, task_backends=[task_fixtures()])
        add_task_tools(self)
        for tools in (CONTENT_TOOLS, DURING_TOOLS, ROUND_TOOLS, LIST_TOOLS):
            for name, tool in tools.items():
                self.add_tool(tool, name=name)
        for name, prompt in PROMPTS.items():
            self.add_prompt(RegisteredPrompt.from_function(prompt, name=name))
        watchers = Watchers()
        add_resources(self, watchers)
        # 2025-11-25 only; the SDK's server has no public place for these (2.3).
        handle = self._lowlevel_server.add_request_handler
        handle("logging/setLevel", SetLevelRequestParams, set_level)
        handle("resources/subscribe", SubscribeRequestParams, watchers.subscribe)
        handle("resources/unsubscribe", UnsubscribeRequestParams, watchers.unsubscribe)

    async def list_tools(self) -> list[Tool]:
        """Return the eight tools, then the fixtures."""
        fixtures = [
            tool.model_copy(
                update={"input_schema": INPUT_SCHEMAS.get(tool.name, tool.input_schema)}
            )
            for tool in await MCPServer.list_tools(self)
        ]
        return [*await super().list_tools(), *fixtures]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a fixture, or one of the eight tools.

        Raises:
            MCPError: there is no such tool, or a fixture answers with an error of the protocol.
            ToolError: a fixture fails.
        """
        if name in {tool.name for tool in await MCPServer.list_tools(self)}:
            return await MCPServer.call_tool(self, name, arguments, context)
        return await super().call_tool(name, arguments, context)

    async def list_prompts(self) -> list[Prompt]:
        """Return the product's prompts, then the fixtures."""
        return [*await super().list_prompts(), *await MCPServer.list_prompts(self)]

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,
    ) -> GetPromptResult | InputRequiredResult:
        """Return a fixture's prompt, or one of the product's.

        Raises:
            MCPError: there is no such prompt, or it cannot be composed so.
        """
        if name in PROMPTS:
            return await MCPServer.get_prompt(self, name, arguments, context)
        return await super().get_prompt(name, arguments, context)

    async def list_resources(self) -> list[Resource]:
        """Return the product's resources, then the fixtures."""
        return [*await super().list_resources(), *await MCPServer.list_resources(self)]


def build_conformance_server(service: Service) -> ConformanceServer:
    """Return the server. The service's lifetime is the caller's."""
    return ConformanceServer(service)
