"""One server process of each kind for every test that does not break it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from mcp import Client

from .transports import STDIO, Server, connected, listening


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with listening(tmp_path_factory.mktemp("clients") / "data") as server:
        yield server
        assert not server.errors(), "".join(server.said)


@pytest.fixture(scope="session")
async def stdio(server: Server) -> AsyncIterator[Client]:
    """A client of one more server, over stdio, on the folder of the one that listens."""
    async with connected(server, STDIO) as client:
        yield client
