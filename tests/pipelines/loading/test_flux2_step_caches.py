"""FLUX.2's transformers skip steps as their row says, and draw as before when they do not."""

import numpy as np
import pytest

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.planning.switches import Drawing, SwitchSettings, TargetDevice, choose_switches
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.switches import SwitchBoard
from tests.pipelines.conftest import image
from tests.pipelines.loading.test_flux2 import BASE, DEV
from tests.pipelines.loading.tiny_flux2 import klein_row

pytestmark = pytest.mark.usefixtures("torch_here")

STEPS = 12
"""Guidance above 1 gives klein's base model two passes a step, each with a state of its own."""


@pytest.mark.parametrize("kind", ["text2img", "kontext"])
@pytest.mark.parametrize(("weights", "changes"), [("base", BASE), ("dev", DEV)])
def test_taylorseer_skips_steps_and_leaves_nothing_behind(
    bench, klein_dir, task_for, recorder, weights, changes, kind
):
    spec = klein_row(kind, klein_dir / weights, **{**changes, "max_steps": 64})
    wanted = Drawing(spec, spec.precision, "resident", STEPS, has_true_cfg=False)
    switches = choose_switches(
        wanted, TargetDevice("cpu"), SwitchSettings(step_cache="taylorseer")
    ).switches
    inputs = [("reference", image())] if kind == "kontext" else []
    task = task_for(spec, inputs=inputs, width=96, height=160, steps=STEPS)
    resident, board = bench.load(spec), SwitchBoard(Device("cpu"))
    ran: list[None] = []
    block = resident.pipe.transformer.single_transformer_blocks[0].attn
    block.register_forward_hook(lambda *_: ran.append(None))

    def drawn(task, **watching):
        recorder.images.clear()
        recorder.steps.clear()
        ran.clear()
        with board.active(task.plan, resident):
            return bench.draw(spec, task, recorder, **watching).images[0]

    before = drawn(task)
    every_time = len(ran)
    cached = task.changed(switches=switches)
    approximate = drawn(cached)
    assert 0 < len(ran) < every_time
    assert not np.array_equal(approximate, before)
    with pytest.raises(JobCancelledError):
        drawn(cached, stop_after=7, preview_every=0)
    assert np.array_equal(drawn(cached), approximate)
    assert np.array_equal(drawn(task), before)
