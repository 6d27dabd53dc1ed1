"""One hub and one downloading process for all tests, and a data folder for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flux_mcp.settings.settings import Settings

from .hub_server import HubServer
from .pulls import TOKEN, Puller


@pytest.fixture(scope="session")
def running_hub() -> Iterator[HubServer]:
    with HubServer().running() as server:
        yield server


@pytest.fixture
def hub(running_hub: HubServer) -> HubServer:
    """A hub without files yet."""
    running_hub.clear()
    return running_hub


@pytest.fixture(scope="session")
def puller(running_hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Puller]:
    """A downloading process that is used again and again."""
    one = Puller(running_hub, Settings(data_dir=tmp_path_factory.mktemp("puller")))
    yield one
    running_hub.clear()
    one.close()


@pytest.fixture(scope="session")
def puller_with_token(
    running_hub: HubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Puller]:
    """A downloading process like the other one, in whose environment a token is."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("puller-with-token"))
    one = Puller(running_hub, settings, HF_TOKEN=TOKEN)
    yield one
    running_hub.clear()
    one.close()


@pytest.fixture
def folder(tmp_path: Path) -> Settings:
    """Settings on an empty data folder."""
    return Settings(data_dir=tmp_path / "data")
