"""A folder of its own for each test, and the event loop of these tests."""

from pathlib import Path

import pytest

from flux_mcp.settings.settings import Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", device="cpu", torch_threads=1, cancel_grace_s=30.0)
