"""One server process for every test that does not break it."""

from collections.abc import Iterator

import pytest

from .transports import Server, listening


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with listening(tmp_path_factory.mktemp("clients") / "data") as server:
        yield server
        assert not server.errors(), "".join(server.said)
