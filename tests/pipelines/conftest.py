"""Fixtures for drawing: micro's weights, an engine in this process, one worker process."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.models.loras.library import open_loras
from flux_mcp.models.registry import Registry, load_registry
from flux_mcp.requests.plan import PlanLora
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings
from tests.models.lora_files import Tensors, put_striped, write
from tests.pipelines.harness import Studio, Task, WorkerStudio, make_task

PutLora = Callable[..., PlanLora]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The package's own weights."""
    return PACKAGE_DIR / "weights"


@pytest.fixture(scope="session")
def settings(weights_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        weights_dir=weights_dir,
        device="cpu",
        torch_threads=1,
        preview_every_steps=1,
        preview_interval_s=0.0,
    )


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="session")
def task_for() -> Callable[..., Task]:
    return make_task


@pytest.fixture(scope="session")
def torch_here() -> Iterator[None]:
    """torch in this process, with one thread: pixels and speed are then the same everywhere."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def studio(settings: Settings, torch_here: None) -> Studio:
    """An engine in this process, shared by the tests that only draw; it caches no embeddings."""
    return Studio(settings)


@pytest.fixture(scope="session")
async def worker(settings: Settings) -> AsyncIterator[WorkerStudio]:
    """One worker process for the whole session."""
    fleet = ProcessFleet(settings)
    yield WorkerStudio(fleet)
    await fleet.close()


@pytest.fixture
def put(settings: Settings, registry: Registry) -> PutLora:
    """Put a LoRA into the folder and return it as a plan names it."""
    folder = settings.paths.loras
    folder.mkdir(parents=True, exist_ok=True)

    def put_one(name: str, *tensors: Tensors, weight: float = 1.0) -> PlanLora:
        if tensors:
            write(folder / f"{name}.safetensors", *tensors)
        else:
            put_striped(folder, name)
        sha256 = open_loras(settings, registry).find(name).sha256
        return PlanLora(name=name, sha256=sha256, weight=weight)

    return put_one
