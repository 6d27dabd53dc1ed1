"""A data folder and a hub for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flux_mcp.settings.settings import Settings

from .hub_server import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    with server.running():
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Settings:
    """Settings on an empty data folder."""
    return Settings(data_dir=tmp_path / "data")
