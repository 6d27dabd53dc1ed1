"""Rows, and files of every format made from micro."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.settings.settings import Settings
from tests.models.control_lora_files import bfl
from tests.models.lora_files import write
from tests.pipelines.harness import Studio
from tests.pipelines.loading.gguf_files import write_gguf
from tests.pipelines.loading.tiny_flux2 import build_dev, build_klein

CHANNELS = 64
"""What micro's control transformer takes in; 32 of them are the control image's."""


@pytest.fixture(scope="session")
def micro(registry: Registry) -> ModelSpec:
    return registry.find("text2img", "micro")


@pytest.fixture(scope="session")
def micro_folder(settings: Settings, micro: ModelSpec) -> Path:
    return settings.weights_dir / str(micro.folder)


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    tensors = load_file(next(folder.glob("*.safetensors")))
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


@pytest.fixture(scope="session")
def micro_gguf(
    micro_folder: Path, tmp_path_factory: pytest.TempPathFactory, torch_here: None
) -> Callable[[str], Path]:
    """Micro's transformer as a GGUF file of a block type."""
    made = tmp_path_factory.mktemp("gguf")

    def make(block_type: str) -> Path:
        path = made / f"micro-{block_type}.gguf"
        if not path.exists():
            write_gguf(path, "flux", tensors_of(micro_folder / "transformer"), block_type)
        return path

    return make


@pytest.fixture(scope="session")
def klein_dir(tmp_path_factory: pytest.TempPathFactory, torch_here: None) -> Path:
    """A weights folder with tiny pipelines of FLUX.2 in it: `klein`, `base`, `dev`."""
    root = tmp_path_factory.mktemp("flux2")
    build_klein(root / "klein")
    build_klein(root / "base", is_distilled=False)
    build_dev(root / "dev")
    return root


@pytest.fixture(scope="session")
def config(settings: Settings, micro: ModelSpec) -> dict[str, Any]:
    folder = settings.weights_dir / str(micro.folder) / "transformer"
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded


@pytest.fixture(scope="session")
def row_for(registry: Registry) -> Callable[..., ModelSpec]:
    """A row whose file is merged onto micro."""
    columns = registry.find("control", "micro").model_dump(exclude={"folder", "parts_folder"})

    def make(file: Path, **changes: Any) -> ModelSpec:
        own = {"id": file.stem, "lora": True, "base": "micro", "file": file}
        return ModelSpec.model_validate(columns | own | changes)

    return make


@pytest.fixture(scope="session")
def edges(
    config: dict[str, Any],
    row_for: Callable[..., ModelSpec],
    tmp_path_factory: pytest.TempPathFactory,
) -> ModelSpec:
    """A row with everything the files of Black Forest Labs have."""
    folder = tmp_path_factory.mktemp("control")
    return row_for(write(folder / "edges.safetensors", bfl(config, CHANNELS)))


@pytest.fixture
def fresh(settings: Settings, torch_here: None) -> Studio:
    """An engine in this process that has loaded nothing yet."""
    return Studio(settings)
