"""Resources of the suite: a text, an image, a template, and one that changes while watched."""

import json
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from tests.conformance.server.clients import Watchers
from tests.conformance.server.samples import image_bytes

WATCHED = "test://watched-resource"


def add_resources(server: MCPServer[Any], watchers: Watchers) -> None:
    """Register the resources, and the tool that changes the watched one."""
    changes = 0

    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """Give a text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """Give an image."""
        return image_bytes()

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def templated(id: str) -> str:  # noqa: A002 - the variable of the suite's template
        """Give what the URI names."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource(WATCHED, mime_type="text/plain")
    def watched() -> str:
        """Give how often it has changed."""
        return f"Changed {changes} times."

    @server.tool(name="test_change_watched_resource")
    async def change(ctx: Context[Any, Any]) -> str:
        """Change the watched resource and tell who watches it."""
        nonlocal changes
        changes += 1
        await ctx.notify_resource_updated(WATCHED)
        await watchers.announce(WATCHED)
        return f"Changed {changes} times."
