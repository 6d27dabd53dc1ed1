"""FluxServer: the MCP server of one process, over one service, for every transport.

It answers the handshake and the list of tools itself. Everything else is answered by `Handlers`,
which is imported, and the service made, when the first request needs them: together they take
longer to import than the SDK, and a client that has just started a server waits for it.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mcp.server import MCPServer, NotificationOptions
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    Resource,
    Tool,
)

from flux_mcp import __version__
from flux_mcp.principals import LOCAL, acting_as
from flux_mcp.server.clients import asked_by, current_fit, overrides_of
from flux_mcp.server.links import base_url, reached_at
from flux_mcp.server.on_demand import OnDemand
from flux_mcp.server.prompt_feed import PromptFeed
from flux_mcp.server.published import (
    ResourceKind,
    add_resource_templates,
    instructions,
    published_tools,
)
from flux_mcp.server.tasks import (
    CallNow,
    Support,
    Task,
    TaskBackend,
    Tasks,
    refuse_undeclared_listening,
)
from flux_mcp.server.timeouts import CancelReasons

if TYPE_CHECKING:
    from flux_mcp.server.asking import OpenPage
    from flux_mcp.server.handlers import Handlers
    from flux_mcp.server.redaction import ServerPaths
    from flux_mcp.service.service import Service
    from flux_mcp.settings.settings import Settings

MAX_OPEN = 256
"""Requests of one caller over HTTP that are being answered at the same time."""
FLUSH_S = 0.2
"""From an answer to the pipe: the SDK does not say when it has written."""


class FluxServer(MCPServer[Any]):
    """The SDK's server with our tool list and our reading of arguments.

    Args:
        service: What it serves; its lifetime is the caller's, SSE would tie it to a client.
        settings: Its settings, which decide the list of tools before it is made.
        task_backends: Of tools that are added to the eight.
        open_page: Opens a page on which the user gives an image; `None` where nobody sees one.
    """

    def __init__(
        self,
        service: "OnDemand[Service]",
        settings: "Settings",
        *,
        task_backends: Sequence[TaskBackend] = (),
        open_page: "OpenPage | None" = None,
    ) -> None:
        self._service = service
        self._open_page = open_page
        self._public_url = settings.public_url
        self._fit_overrides = overrides_of(settings)
        self._handlers = OnDemand(self._load_handlers)
        self._published = published_tools(settings.tools, compact=settings.compact_schemas)
        self._server_paths = OnDemand(self._find_paths)
        self._open: Counter[str] = Counter()
        self._reasons = CancelReasons()
        bus = InMemorySubscriptionBus()
        self._feed = PromptFeed(self._changed_packs, bus)
        drawing = _JobTasksOnDemand([tool.name for tool in self._published], self._handlers)
        super().__init__(
            name="flux-mcp",
            title="flux-mcp",
            instructions=instructions(settings.tools),
            version=__version__,
            subscriptions=bus,
            middleware=[
                self._for_principal,
                self._reasons.listen,
                refuse_undeclared_listening,
                self._feed,
            ],
            extensions=[Tasks(drawing, *task_backends)],
        )
        add_resource_templates(self, self._read_resource)
        self._lowlevel_server.add_request_handler(
            "completion/complete", CompleteRequestParams, self._complete
        )
        # Every transport asks this for the capabilities of the handshake.
        self._lowlevel_server.create_initialization_options = partial(  # type: ignore[method-assign]
            self._lowlevel_server.create_initialization_options,
            NotificationOptions(prompts_changed=True),
        )

    @property
    def protocol_server(self) -> Server[Any]:
        """The SDK's server below this one, for a transport to run."""
        return self._lowlevel_server

    # --- lifetime ------------------------------------------------------------------------------

    async def serve_streams(self, streams: AbstractAsyncContextManager[tuple[Any, Any]]) -> None:
        """Serve one client until it is gone.

        Args:
            streams: Its messages, and where to send it others, as the SDK's transports give them.
        """
        async with streams as (received, sent):
            server = self._lowlevel_server
            await server.run(received, sent, server.create_initialization_options())

    async def load(self) -> None:
        """Import and make everything that answers calls, instead of at the first of them."""
        await self._handlers.get()

    def load_in_background(self) -> None:
        """Begin to do so; what goes wrong is logged, and the first call tries again."""
        self._handlers.begin()

    async def _load_handlers(self) -> "Handlers":
        service = await self._service.get()
        handlers = await asyncio.to_thread(_import_handlers)
        return handlers(service, self._reasons, self._open_page)

    async def announce_changes(self) -> None:
        """Announce to clients when packs change on disk, until cancelled."""
        await self._feed.run()

    async def finish_calls(self, timeout_s: float) -> None:
        """Have every open call answered, finished or not, because the server ends.

        Args:
            timeout_s: A call that is not answered by then is cut off; its job is kept all the same.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                handlers = await self._handlers.if_begun()
                if handlers is not None:
                    await handlers.finish_calls()
        listening = self._lowlevel_server.get_request_handler("subscriptions/listen")
        if listening is not None and isinstance(listening.handler, ListenHandler):
            listening.handler.close()
        await asyncio.sleep(FLUSH_S)

    # --- requests ------------------------------------------------------------------------------

    async def list_tools(self) -> list[Tool]:
        """Return the tools that are published: the eight, or those of the setting `tools`.

        A client that is sent no structured content is told of none: the SDKs of clients refuse a
        result without it of a tool with an output schema.
        """
        if current_fit(self._fit_overrides).structured:
            return [*self._published]
        return [tool.model_copy(update={"output_schema": None}) for tool in self._published]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Answer a tool call; every mistake the caller can fix is a tool error it can read.

        Raises:
            MCPError: there is no such tool.
        """
        handlers = await self._handlers.get()
        asked = context or Context(mcp_server=self)
        return await handlers.call_tool(name, arguments, asked, _request_id(context))

    async def list_resources(self) -> list[Resource]:
        """Return packs, LoRAs and the newest images; flux_search_gallery finds older ones."""
        return await (await self._handlers.get()).resources.listed()

    async def list_prompts(self) -> list[Prompt]:
        """Return the guide and every pack that can be used, as the disk has them now."""
        return await (await self._handlers.get()).list_prompts()

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
        return await (await self._handlers.get()).get_prompt(name, arguments or {})

    async def _complete(self, _: Any, asked: CompleteRequestParams) -> CompleteResult:
        return CompleteResult(completion=await (await self._handlers.get()).complete(asked))

    async def _read_resource(self, kind: ResourceKind, key: str) -> str | bytes:
        return await (await self._handlers.get()).resources.read(kind, key)

    async def _for_principal(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Middleware, the outermost: everything a message leads to is done for who sent it."""
        said = ctx.session.client_params
        with asked_by(ctx.protocol_version, None if said is None else said.client_info.name):
            return await self._for_caller(ctx, call_next)

    async def _for_caller(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        user = None if ctx.request is None else ctx.request.scope.get("user")
        # Without the guard there is no network either: stdio, or a test in one process.
        if ctx.request is None or not isinstance(user, AuthenticatedUser):
            with acting_as(LOCAL):
                return await call_next(ctx)
        name = user.access_token.client_id
        with reached_at(base_url(ctx.request, self._public_url)):
            return await self._for_name(ctx, call_next, name)

    async def _for_name(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext, name: str
    ) -> HandlerResult:
        # Not only what HTTP has open: a call goes on when a client of 2025-11-25 disconnects.
        if self._open[name] >= MAX_OPEN:
            raise MCPError(
                code=INTERNAL_ERROR,
                message=f"[too_many_open] {MAX_OPEN} requests of this caller are being answered. "
                "Wait for answers.",
            )
        self._open[name] += 1
        try:
            with acting_as(name, over_network=True):
                return await self._without_paths(ctx, call_next, name)
        finally:
            self._open[name] -= 1
            self._open += Counter()  # forgets who has none

    async def _without_paths(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext, name: str
    ) -> HandlerResult:
        if name == LOCAL:
            return await call_next(ctx)
        paths = await self._server_paths.get()
        try:
            result: HandlerResult = paths.hidden(await call_next(ctx))
        except MCPError as error:
            raise paths.hidden_error(error) from error
        return result

    async def _find_paths(self) -> "ServerPaths":
        service = await self._service.get()
        from flux_mcp.server.redaction import ServerPaths

        return ServerPaths.of(service.settings)

    async def _changed_packs(self) -> str:
        return await (await self._handlers.get()).changed_packs()


def build_server(service: "Service") -> FluxServer:
    """Return the product's own server, over a service that is there."""
    return FluxServer(OnDemand.ready(service), service.settings)


def _import_handlers() -> "type[Handlers]":
    from flux_mcp.server.handlers import Handlers

    return Handlers


class _JobTasksOnDemand:
    """`JobTasks` before it is loaded: only calls of our tools become tasks, and those load it."""

    def __init__(self, tools: Sequence[str], handlers: "OnDemand[Handlers]") -> None:
        self._tools = frozenset(tools)
        self._handlers = handlers

    def support(self, tool: str) -> Support | None:
        """Return `optional` for our tools; only a drawing call ever leaves a task behind."""
        return "optional" if tool in self._tools else None

    async def begin(self, call_now: CallNow) -> Task | HandlerResult:
        return await (await self._handlers.get()).tasks.begin(call_now)

    async def find(self, task_id: str) -> Task:
        return await (await self._handlers.get()).tasks.find(task_id)

    async def update(self, task_id: str, responses: dict[str, Any]) -> None:
        await (await self._handlers.get()).tasks.update(task_id, responses)

    async def cancel(self, task_id: str) -> None:
        await (await self._handlers.get()).tasks.cancel(task_id)


def _request_id(context: Context[Any, Any] | None) -> str | None:
    """Return the id a client gave its request; `None` for a call of our own."""
    if context is None:
        return None
    try:
        return str(context.request_id)
    except ValueError:  # what the SDK raises for a context without a request
        return None
