"""A router in front of flux-mcp: an agent's own MCP server that offers FLUX among its tools.

    callers --> router, 127.0.0.1:8420/mcp --> flux-mcp, 127.0.0.1:8421/mcp

Callers may use either protocol revision (2025-11-25 with its handshake, or 2026-07-28 without).
Calls, results, errors and progress are forwarded unchanged; a cancelled call is cancelled at
flux-mcp. Needs only the MCP SDK for Python, 2.3 or newer, and its dependencies. This module is the
server for callers; `upstream.py` is the connection to flux-mcp; the README says how to run it.
"""

import argparse
import asyncio
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from mcp import MCPError, types
from mcp.server import Server, ServerRequestContext
from pydantic import BaseModel
from upstream import Upstream, UpstreamError, Verbatim, command_transport, http_transport

logger = logging.getLogger("router")

OFFERED = ("flux_",)
"""Prefixes of the tools that are offered; other tools flux-mcp may list later are not."""
PASSED_ON: Mapping[str, type[types.RequestParams]] = {
    "resources/list": types.PaginatedRequestParams,
    "resources/templates/list": types.PaginatedRequestParams,
    "resources/read": types.ReadResourceRequestParams,
    "prompts/list": types.PaginatedRequestParams,
    "prompts/get": types.GetPromptRequestParams,
    "completion/complete": types.CompleteRequestParams,
}
"""Requests that are forwarded unchanged, and the models of their parameters."""

INSTRUCTIONS = (
    "Generates images with FLUX. When an answer has a job_id and no images yet, call flux_get_job "
    "with it. Results link to the full image as flux://images/{id}, which can be read here. Tell "
    "the user the notices of an answer."
)
TOOLS_FRESH_S = 5.0
"""How long a list of tools is reused before it is requested again."""
LARGEST_REQUEST_BYTES = 96 * 1024 * 1024
"""The limit of flux-mcp by default (its setting `max_body_bytes`): calls can carry images."""
END_TIMEOUT_S = 5
"""How long answers may take to be sent once the router is stopped."""


class Router:
    """The MCP server that callers see. Tools of your own go into `list_tools` and `call_tool`."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._tools: Verbatim | None = None
        self._tools_fresh_until = 0.0

    def server(self) -> Server[Any]:
        """Return the SDK's server with our answers."""
        server: Server[Any] = Server(
            "flux-router",
            version="1",
            instructions=INSTRUCTIONS,
            # Arguments mirrored in headers are for flux-mcp to check; without this line the SDK
            # would list the tools before every call.
            get_tool_input_schema=lambda _name: None,
        )
        server.add_request_handler("tools/list", types.PaginatedRequestParams, self.list_tools)
        server.add_request_handler("tools/call", types.CallToolRequestParams, self.call_tool)
        for method, params in PASSED_ON.items():
            server.add_request_handler(method, params, self.pass_on)
        return server

    async def list_tools(
        self, context: ServerRequestContext[Any], params: types.PaginatedRequestParams
    ) -> Verbatim:
        """Return flux-mcp's tools unchanged."""
        now = asyncio.get_running_loop().time()
        if params.cursor is None and self._tools is not None and now < self._tools_fresh_until:
            return self._tools
        found = await self.pass_on(context, params)
        listed = (found.model_extra or {}).get("tools", [])
        tools = [tool for tool in listed if tool["name"].startswith(OFFERED)]
        found = found.model_copy(update={"tools": tools})
        if params.cursor is None:
            self._tools, self._tools_fresh_until = found, now + TOOLS_FRESH_S
        return found

    async def call_tool(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> BaseModel:
        """Call one of flux-mcp's tools; if it cannot be reached, return a tool error."""
        if not params.name.startswith(OFFERED):
            raise MCPError(types.INVALID_PARAMS, f"There is no tool '{params.name}' here.")
        try:
            return await self._send(context)
        except UpstreamError as error:
            text = types.TextContent(type="text", text=str(error))
            return types.CallToolResult(content=[text], is_error=True)

    async def pass_on(
        self, context: ServerRequestContext[Any], _params: types.RequestParams
    ) -> Verbatim:
        """Answer as flux-mcp does."""
        try:
            return await self._send(context)
        except UpstreamError as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error

    async def _send(self, context: ServerRequestContext[Any]) -> Verbatim:
        """Forward a request, without the parts that belong to the caller's connection."""
        params = dict(context.params or {})
        meta = params.pop("_meta", None) or {}
        if kept := {name: value for name, value in meta.items() if not is_of_connection(name)}:
            params["_meta"] = kept
        # Progress is asked for only where the caller did; the client makes a token of its own.
        progress = context.session.report_progress if "progressToken" in meta else None
        return await self._upstream.send(context.method, params, progress)


def is_of_connection(name: str) -> bool:
    """Say whether an entry of a request's `_meta` is about the connection it came on.

    Those are the progress token, and the version, name and abilities of the caller.
    """
    return name == "progressToken" or name.startswith("io.modelcontextprotocol/")


class WebServer(uvicorn.Server):
    """uvicorn that first closes the connection to flux-mcp, so that waiting calls are answered."""

    def __init__(self, config: uvicorn.Config, upstream: Upstream) -> None:
        super().__init__(config)
        self._upstream = upstream

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down, after answering the waiting calls."""
        await self._upstream.close()
        await super().shutdown(sockets)


async def serve(upstream: Upstream, listener: socket.socket) -> None:
    """Serve callers on `listener` until SIGINT or SIGTERM."""
    # For a loopback address, the default, the SDK checks Host and Origin of each request: no page
    # in a browser can call us.
    app = Router(upstream).server().streamable_http_app(max_request_body_size=LARGEST_REQUEST_BYTES)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=END_TIMEOUT_S
    )
    # Once it has ended in order, uvicorn raises the signal again, for the handler it found.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    await WebServer(config, upstream).serve([listener])


def token_in(file: Path) -> str | None:
    """Return the first token of a file as flux-mcp keeps it: `TOKEN` or `NAME TOKEN` in a line."""
    lines = [line.split() for line in file.read_text("utf-8").splitlines()]
    return next((words[-1] for words in lines if words and not words[0].startswith("#")), None)


def http_url(text: str) -> str:
    """Return a URL unchanged.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        usable = httpx2.URL(text).scheme in {"http", "https"}
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"'{text}' is no http:// or https:// URL.")
    return text


def command_line(text: str) -> list[str]:
    """Return the words of a command.

    Raises:
        argparse.ArgumentTypeError: there are none.
    """
    if not (words := shlex.split(text)):
        raise argparse.ArgumentTypeError("there is no command.")
    return words


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Offers flux-mcp's tools on a port of its own.")
    parser.add_argument("--port", type=int, default=8420, help="to listen on (%(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--upstream",
        type=http_url,
        default="http://127.0.0.1:8421/mcp",
        help="flux-mcp's URL (%(default)s)",
    )
    where.add_argument(
        "--upstream-command", type=command_line, help="start flux-mcp instead: 'flux-mcp serve'"
    )
    parser.add_argument(
        "--token-file", type=Path, help="flux-mcp's file of tokens (else: FLUX_MCP_TOKEN)"
    )
    return parser.parse_args()


def main() -> None:
    """Run the router."""
    # Everything goes to stderr; libraries log from warnings on.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger.setLevel(logging.INFO)
    flags = parse()

    def token() -> str | None:
        file: Path | None = flags.token_file
        return token_in(file) if file else os.environ.get("FLUX_MCP_TOKEN")

    if command := flags.upstream_command:
        upstream = Upstream(shlex.join(command), lambda: command_transport(command))
    else:
        upstream = Upstream(flags.upstream, lambda: http_transport(flags.upstream, token))
    try:
        listener = socket.create_server(("127.0.0.1", flags.port))
    except (OSError, OverflowError) as error:
        sys.exit(f"Port {flags.port} cannot be used ({error}). Choose another with --port.")
    logger.info("router on http://127.0.0.1:%d/mcp", listener.getsockname()[1])
    asyncio.run(serve(upstream, listener))


if __name__ == "__main__":
    main()
