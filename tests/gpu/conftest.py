"""Real GPUs for these tests: `make gpu-test`. Without a GPU nothing of them runs, and that fails.

`--gpu-device cpu` runs what a CPU can run of them, to see that they are in order; tests of the
GPU's own memory are then skipped.
"""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.models.registry import Registry, load_registry
from flux_mcp.pipelines.device import Device
from flux_mcp.settings.settings import Settings
from tests.pipelines.harness import Studio, Task, WorkerStudio, make_task

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NO_GPU_EXIT = 2
NO_GPU = (
    "No CUDA GPU: torch finds none, so nothing was tested. "
    "With --gpu-device cpu, what a CPU can run of these tests is run."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gpu-device", choices=("cuda", "cpu"), default="cuda", help="where tests/gpu draws"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Show warnings instead of failing: which the libraries have for a GPU, the GPU decides."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_runtestloop(session: pytest.Session) -> None:
    """Refuse to run without a GPU; collecting needs none."""
    import torch

    config = session.config
    if config.option.collectonly or config.option.gpu_device == "cpu":
        return
    if not torch.cuda.is_available():
        pytest.exit(NO_GPU, NO_GPU_EXIT)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    """Where everything here draws."""
    import torch

    torch.set_num_threads(1)
    return Device("cpu" if request.config.option.gpu_device == "cpu" else "cuda:0")


@pytest.fixture
def gpu(device: Device) -> Device:
    """The device, for what only a GPU has."""
    if device.kind != "cuda":
        pytest.skip("asks for the memory of a CUDA GPU")
    return device


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="session")
def gpu_settings(
    device: Device, weights_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of a worker that draws here."""
    return Settings(
        data_dir=tmp_path_factory.mktemp("gpu"),
        weights_dir=weights_dir,
        device=device.kind,
        torch_threads=1,
        embedding_cache_disk_mb=0,
    )


@pytest.fixture(scope="session")
async def worker(gpu_settings: Settings) -> AsyncIterator[WorkerStudio]:
    """A real worker process with micro."""
    from flux_mcp.jobs.process_fleet import ProcessFleet

    fleet = ProcessFleet(gpu_settings)
    yield WorkerStudio(fleet)
    await fleet.close()


@pytest.fixture(scope="session")
def task_of(registry: Registry) -> Callable[..., Task]:
    """Makes a small task of a kind, held in bf16 as on a GPU unless told otherwise."""
    usual = {"precision": "bf16", "width": 128, "height": 128}

    def make(kind: Any, **changes: Any) -> Task:
        return make_task(registry.find(kind, "micro"), **(usual | changes))

    return make


@pytest.fixture(scope="session")
def bench(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What the cases of benchmarks/gpu.py are given, at the tiny scale."""
    # Behind everything else: the names of the benchmarks must not hide those of a library.
    sys.path.append(str(BENCHMARKS))
    from gpu_checks.bench import Bench
    from gpu_checks.scale import TINY

    yield Bench(
        scale=TINY,
        device=device,
        scratch=tmp_path_factory.mktemp("scratch"),
        report=lambda _figure: None,
        say=lambda _text: None,
    )
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def micro_studio(gpu_settings: Settings, device: Device) -> Iterator[Studio]:
    """The worker's engine in this process, with micro."""
    studio = Studio(gpu_settings, device=device)
    yield studio
    studio.engine.recover_memory()


@pytest.fixture
def studio(bench: Any) -> Iterator[Studio]:
    """The worker's engine in this process, with tiny models in rows of FLUX.1."""
    from gpu_checks.folders import open_folders
    from gpu_checks.studio import settings_for

    from flux_mcp.models.user_rows import open_registry

    settings = settings_for(bench, open_folders(bench))
    studio = Studio(settings, open_registry(settings), device=bench.device)
    yield studio
    studio.engine.recover_memory()
    bench.free()


@pytest.fixture
def tiny_task(bench: Any, studio: Studio) -> Task:
    """A task for the tiny model of FLUX.1 that draws images from words."""
    from gpu_checks.folders import ROWS

    scale = bench.scale
    size = {"width": scale.side_px, "height": scale.side_px, "steps": scale.dev_steps}
    return make_task(studio.rows.find("text2img", ROWS["text2img"][0]), **size)
