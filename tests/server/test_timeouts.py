"""How long calls wait, and what becomes of those whose client ran out of time."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from mcp import Client

from flux_mcp.requests.validation import MAX_WAIT_S
from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.e2e.calls import FAST, job

pytestmark = pytest.mark.anyio

Serving = Callable[..., AbstractAsyncContextManager[tuple[Service, Client]]]


@pytest.fixture
def serving(settings: Settings) -> Serving:
    """Serve one client with some settings; nothing draws, so jobs stay as they are."""

    @asynccontextmanager
    async def serve(**changes: Any) -> AsyncIterator[tuple[Service, Client]]:
        chosen = settings.model_copy(update=changes)
        service = Service(chosen, executes=False)
        await service.open()
        try:
            async with Client(build_server(service)) as client:
                yield service, client
        finally:
            await service.close()

    return serve


# --- how long a call waits ---------------------------------------------------------------------


async def test_a_call_that_says_nothing_waits_as_long_as_the_setting_says(serving: Serving) -> None:
    async with serving(default_wait_s=0) as (_, client):
        assert (await job(client, "flux_generate", **FAST)).status == "queued"


def test_the_setting_takes_what_the_argument_takes() -> None:
    limits = Settings.model_json_schema()["properties"]["default_wait_s"]["anyOf"][0]
    assert (limits["minimum"], limits["maximum"]) == (0, MAX_WAIT_S)
