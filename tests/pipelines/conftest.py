"""Fixtures for drawing: micro's weights, an engine in this process, one worker process."""

import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.models.loras.library import open_loras
from flux_mcp.models.registry import ModelSpec, Registry, load_registry
from flux_mcp.requests.render_plan import PlanLora
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings
from tests.models.lora_files import STRIPED, Tensors, put_striped, write
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
def short_micro(
    settings: Settings, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> ModelSpec:
    """Micro with the first of each sort of block alone: torch takes seconds to trace a block."""
    from safetensors.torch import load_file, save_file

    micro = registry.find("text2img", "micro")
    folder = tmp_path_factory.mktemp("short") / "text2img"
    shutil.copytree(settings.weights_dir / str(micro.folder), folder)
    config, (file,) = (
        folder / "transformer" / "config.json",
        folder.glob("transformer/*.safetensors"),
    )
    counts = {"num_layers": 1, "num_single_layers": 1}
    config.write_text(json.dumps(json.loads(config.read_text()) | counts))
    tensors = load_file(file)
    save_file({name: one for name, one in tensors.items() if is_in_short_micro(name)}, file)
    return micro.model_copy(update={"folder": str(folder)})


def is_in_short_micro(tensor: str) -> bool:
    return "transformer_blocks." not in tensor or "transformer_blocks.0." in tensor


@pytest.fixture(scope="session")
async def worker(settings: Settings) -> AsyncIterator[WorkerStudio]:
    """One worker process for the whole session."""
    fleet = ProcessFleet(settings)
    yield WorkerStudio(fleet)
    await fleet.close()


@pytest.fixture
def short_striped(put: PutLora) -> PlanLora:
    """The package's LoRA, as far as it is one of `short_micro`."""
    from safetensors.numpy import load_file

    tensors = load_file(STRIPED)
    return put("striped", {name: one for name, one in tensors.items() if is_in_short_micro(name)})


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
