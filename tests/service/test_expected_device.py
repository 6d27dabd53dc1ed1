"""Calls count with a GPU only where a worker would use it, as `doctor` says."""

from pathlib import Path

import pytest

from flux_mcp.models.planning import device
from flux_mcp.models.planning.device import Torch
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.models.nvidia import RTX_4090, gpu, put_nvidia_smi

CUDA = Torch(version="2.13.0", build="cuda", cuda="13.0", least_driver=580)


@pytest.mark.parametrize(
    ("torch", "driver", "is_counted"),
    [
        (CUDA, "580.95.05", True),
        (CUDA.model_copy(update={"build": "cpu"}), "580.95.05", False),
        (CUDA, "535.10", False),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_not_planned_for(
    torch: Torch,
    driver: str,
    *,
    is_counted: bool,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_nvidia_smi(tmp_path, [gpu(driver=driver)])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "installed_torch", lambda: torch)
    found = Service(settings).runtime.find_machine()
    assert (found is not None and found.gpu.name == RTX_4090) == is_counted
