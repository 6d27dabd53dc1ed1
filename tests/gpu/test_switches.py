"""Speed switches that need a CUDA GPU or its compiler; micro's transformer, in bf16."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from flux_mcp.models.planning.machine import target_device
from flux_mcp.models.planning.switches import Drawing, SwitchSettings, choose_switches, why_not
from flux_mcp.models.registry import load_registry
from flux_mcp.models.switches import Switches
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings
from tests.pipelines.harness import Studio, Task, make_task

STEPS = 12
ROW = load_registry().find("text2img", "micro").model_copy(update={"precision": "bf16"})
DRAWING = Drawing(ROW, "bf16", "resident", STEPS, has_true_cfg=False)


@dataclass
class Easel:
    """An engine on the GPU, and a task that it draws with switches."""

    studio: Studio
    task: Task

    @property
    def compilations(self) -> list[str]:
        return [line for line in self.studio.said if line.startswith("compiling")]

    def draw(self, switches: Switches, **changes: Any) -> np.ndarray:
        return self.studio.draw(self.task, switches=switches, **changes).images[0].astype(int)


@pytest.fixture(scope="module")
def easel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Easel]:
    import torch

    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs a CUDA GPU of compute capability 8.0 or more")
    from flux_mcp.pipelines.device import Device

    settings = Settings(
        data_dir=tmp_path_factory.mktemp("switches"),
        weights_dir=PACKAGE_DIR / "weights",
        device="cuda",
    )
    task = make_task(ROW, width=128, height=128, steps=STEPS)
    yield Easel(Studio(settings, device=Device("cuda:0")), task)
    torch._dynamo.reset()


def site() -> Any:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return target_device("cuda", float(f"{major}.{minor}"))


def test_compiled_blocks_draw_the_same_image_and_compile_once(easel: Easel) -> None:
    from torch._dynamo.utils import counters

    assert choose_switches(DRAWING, site(), SwitchSettings()).switches.compiled
    exact = easel.draw(Switches())
    compiled = easel.draw(Switches(compiled=True))
    assert len(easel.compilations) == 1
    # bf16 rounds in another order; the image is the same to the eye.
    assert np.abs(compiled - exact).mean() < 2
    easel.draw(Switches(compiled=True), width=192, height=160)
    graphs = counters["stats"]["unique_graphs"]
    easel.draw(Switches(compiled=True), width=256, height=224)
    assert np.array_equal(easel.draw(Switches(compiled=True)), compiled)
    assert np.array_equal(easel.draw(Switches()), exact)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("name", ["native_cudnn", "native_flash", "flash", "sage", "xformers"])
def test_every_backend_that_can_be_used_draws_about_the_same(easel: Easel, name: str) -> None:
    switches = Switches(attention=name)
    reason = why_not(switches, DRAWING, site())
    if reason is not None:
        pytest.skip(reason)
    exact = easel.draw(Switches())
    assert np.abs(easel.draw(switches) - exact).mean() < (8 if name == "sage" else 2)
    assert np.array_equal(easel.draw(Switches()), exact)


def test_channels_last_rounds_and_can_be_taken_back(easel: Easel) -> None:
    exact = easel.draw(Switches())
    assert np.abs(easel.draw(Switches(channels_last=True)) - exact).max() <= 4
    assert np.array_equal(easel.draw(Switches()), exact)


@pytest.mark.parametrize("name", ["first_block", "taylorseer", "magcache"])
def test_a_step_cache_leaves_nothing_behind(easel: Easel, name: str) -> None:
    exact = easel.draw(Switches())
    chosen = choose_switches(DRAWING, site(), SwitchSettings(step_cache=name)).switches
    easel.draw(chosen)
    assert np.array_equal(easel.draw(Switches()), exact)
