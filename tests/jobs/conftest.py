"""A folder of its own for each test; a module may share what its tests do not break."""

from pathlib import Path

import pytest

from flux_mcp.settings.settings import Settings


def settings_in(folder: Path) -> Settings:
    return Settings(data_dir=folder / "data", device="cpu", torch_threads=1, cancel_grace_s=30.0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)
