"""The conformance server is the product's server with fixtures beside it, and they really work.

What the suite asks of the fixtures is asked by the suite itself (tests/conformance); here is what
it does not ask.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import (
    INVALID_PARAMS,
    ElicitResult,
    LoggingMessageNotificationParams,
    ResourceUpdatedNotification,
    TextContent,
)

from flux_mcp.server.app import build_server
from flux_mcp.server.tools import TOOLS
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.conformance.server.app import build_conformance_server
from tests.conformance.server.resources import WATCHED

# Log levels and subscriptions of 2025-11-25 are deprecated, and what is tested.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")]

DEADLINE_S = 30
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    service = Service(settings, executes=False)
    yield service
    await service.close()


@asynccontextmanager
async def connected(service: Service, mode: str, **callbacks: Any) -> AsyncIterator[Client]:
    async with Client(build_conformance_server(service), mode=mode, **callbacks) as client:
        yield client


async def text_of(client: Client, tool: str, **arguments: Any) -> str:
    (content,) = (await client.call_tool(tool, arguments)).content
    assert isinstance(content, TextContent)
    return content.text


@MODES
async def test_the_products_tools_prompts_and_errors_stand_beside_the_fixtures(
    service: Service, mode: str
) -> None:
    async with connected(service, mode) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert tools[: len(TOOLS)] == [row.name for row in TOOLS]
        assert "test_simple_text" in tools[len(TOOLS) :]
        prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
        assert {"how-to-prompt-flux", "test_simple_prompt"} <= prompts
        assert (await client.get_prompt("how-to-prompt-flux")).messages

        refused = await text_of(client, "flux_get_job", job_id="job_x")
        assert refused.startswith("[unknown_job]")
        with pytest.raises(MCPError, match="Unknown tool 'test_nothing'") as error:
            await client.call_tool("test_nothing", {})
        assert error.value.code == INVALID_PARAMS


@MODES
async def test_the_product_has_no_fixtures(service: Service, mode: str) -> None:
    async with Client(build_server(service), mode=mode) as client:
        assert len((await client.list_tools()).tools) == len(TOOLS)
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("test_simple_text", {})


async def test_a_client_hears_the_log_from_the_level_it_has_set(service: Service) -> None:
    heard: list[object] = []

    async def hear(line: LoggingMessageNotificationParams) -> None:
        heard.append(line.data)

    async with connected(service, "legacy", logging_callback=hear) as client:
        await client.set_logging_level("warning")
        await client.call_tool("test_tool_with_logging", {})
        assert heard == []
        await client.set_logging_level("info")
        await client.call_tool("test_tool_with_logging", {})
    assert len(heard) == 3


@pytest.mark.parametrize(("level", "lines"), [(None, 0), ("warning", 0), ("debug", 3)])
async def test_a_client_of_today_hears_the_log_only_if_its_request_says_so(
    service: Service, level: Any, lines: int
) -> None:
    heard: list[object] = []

    async def hear(line: LoggingMessageNotificationParams) -> None:
        heard.append(line.data)

    async with connected(service, "auto", logging_callback=hear, log_level=level) as client:
        await client.call_tool("test_logging_tool", {})
    assert len(heard) == lines


async def test_a_subscribed_client_hears_of_changes_until_it_unsubscribes(service: Service) -> None:
    heard: list[str] = []
    rang = asyncio.Event()

    async def on_message(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.append(str(message.params.uri))
            rang.set()

    async with connected(service, "legacy", message_handler=on_message) as client:
        await client.subscribe_resource(WATCHED)
        await client.subscribe_resource(WATCHED)
        await client.call_tool("test_change_watched_resource", {})
        async with asyncio.timeout(DEADLINE_S):
            await rang.wait()
        await client.unsubscribe_resource(WATCHED)
        await client.call_tool("test_change_watched_resource", {})
        (content,) = (await client.read_resource(WATCHED)).contents
    assert content.text == "Changed 2 times."
    assert heard == [WATCHED]


async def test_a_listening_client_hears_of_changes(service: Service) -> None:
    async with (
        connected(service, "auto") as client,
        client.listen(resource_subscriptions=[WATCHED]) as events,
    ):
        await client.call_tool("test_change_watched_resource", {})
        async with asyncio.timeout(DEADLINE_S):
            event = await anext(aiter(events))
    assert event.uri == WATCHED


async def test_rounds_go_on_from_what_they_remember(service: Service) -> None:
    answers = {"name": "Ada", "color": "green"}

    async def answer(_: Any, asked: Any) -> ElicitResult:
        (field,) = asked.requested_schema["properties"]
        return ElicitResult(action="accept", content={field: answers[field]})

    async with connected(service, "auto", elicitation_callback=answer) as client:
        said = await text_of(client, "test_input_required_result_multi_round")
    assert said == "Ada likes green."


async def test_a_client_that_cannot_be_asked_gets_a_tool_error(service: Service) -> None:
    async with connected(service, "legacy") as client:
        result = await client.call_tool("test_elicitation", {"message": "Who?"})
        assert result.is_error
        result = await client.call_tool("test_sampling", {"prompt": "Say hello"})
        assert result.is_error
