"""Isolation for every test, and the shared real parts: weights, settings, one service."""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as sampling
from xdist.scheduler import LoadFileScheduling

from flux_mcp.service.service import Service
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings

# No test asserts how long something takes: a loaded machine is no mistake of the code.
sampling.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
sampling.load_profile("any machine")

ONE_SERVICE = tuple(
    f"tests/{name}.py"
    for name in (
        *("e2e/test_tools", "e2e/test_semantics", "e2e/test_packs", "e2e/test_loras"),
        *("e2e/test_photographs", "e2e/test_structure", "e2e/test_switches", "test_principals"),
        "e2e/test_upscaling",
    )
)
"""Files whose tests use `shared_service`."""
SLOW_FIRST = (*ONE_SERVICE, "tests/e2e", "tests/examples", "tests/jobs", "tests/pipelines")


class Scheduling(LoadFileScheduling):
    """The tests of a file in one process, and of all files that share the service in one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "shared_service" if file in ONE_SERVICE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is alone with it at the end."""
    rank = {name: place for place, name in enumerate(SLOW_FIRST)}

    def place(item: pytest.Item) -> int:
        file = item.nodeid.split("::", 1)[0]
        uses_service = "shared_service" in getattr(item, "fixturenames", ())
        assert not uses_service or file in ONE_SERVICE, f"{file} belongs into ONE_SERVICE"
        return rank.get(file, rank.get("/".join(file.split("/")[:2]), len(rank)))

    items.sort(key=place)


def pytest_sessionstart() -> None:
    """Import torch and all tests without the collector: a fifth of that time was its."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the collector from looking through torch and all tests again and again."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def isolated_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the developer's shell reaches a test, nor a test the developer's data."""
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("FLUX_MCP_")]:
        del os.environ[name]
    os.environ["FLUX_MCP_DATA_DIR"] = str(tmp_path_factory.mktemp("unwanted"))
    os.environ["FLUX_MCP_CONFIG"] = os.devnull
    # The SDK's client has a name that many have, some of which end calls after 5 s: it is answered
    # sooner than others (server/clients.toml), and perhaps before a test's image is there.
    os.environ["FLUX_MCP_DEFAULT_WAIT_S"] = "45"
    # One thread: images stay the same to the bit, and tiny models run ten times faster.
    os.environ["FLUX_MCP_TORCH_THREADS"] = "1"
    yield
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The package's own weights."""
    return PACKAGE_DIR / "weights"


@pytest.fixture
def settings(tmp_path: Path, weights_dir: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", weights_dir=weights_dir, allowed_dirs=())


@pytest.fixture(scope="session")
async def shared_service(
    tmp_path_factory: pytest.TempPathFactory, weights_dir: Path
) -> AsyncIterator[Service]:
    """One open service with one real worker, for every test that does not break it."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("shared") / "data",
        weights_dir=weights_dir,
        allowed_dirs=(tmp_path_factory.mktemp("images"),),
        queue_limit=20,
        preview_every_steps=1,
    )
    service = Service(settings)
    await service.open()
    yield service
    await service.close()
