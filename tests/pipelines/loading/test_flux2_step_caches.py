"""FLUX.2's transformers skip steps as their row says, and draw as before when they do not."""

import pytest

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.planning.switches import Drawing, SwitchSettings, TargetDevice, choose_switches
from tests.pipelines.harness import image
from tests.pipelines.loading.test_flux2 import BASE, DEV
from tests.pipelines.loading.tiny_flux2 import klein_row

pytestmark = pytest.mark.usefixtures("torch_here")

STEPS = 9
"""Guidance above 1 gives klein's base model two passes a step, each with a state of its own."""


@pytest.mark.parametrize(
    ("weights", "changes", "kind"),
    [
        ("base", BASE, "text2img"),
        pytest.param("dev", DEV, "kontext", marks=pytest.mark.torture),
        pytest.param("base", BASE, "kontext", marks=pytest.mark.torture),
        pytest.param("dev", DEV, "text2img", marks=pytest.mark.torture),
    ],
)
def test_taylorseer_skips_steps_and_leaves_nothing_behind(
    fresh, klein_dir, task_for, weights, changes, kind
):
    spec = klein_row(kind, klein_dir / weights, **{**changes, "max_steps": 64})
    wanted = Drawing(spec, spec.precision, "resident", STEPS, has_true_cfg=False)
    switches = choose_switches(
        wanted, TargetDevice("cpu"), SwitchSettings(step_cache="taylorseer")
    ).switches
    inputs = [("reference", image())] if kind == "kontext" else []
    task = task_for(spec, inputs=inputs, steps=STEPS)
    ran: list[None] = []
    block = fresh.load(spec).pipe.transformer.single_transformer_blocks[0].attn
    block.register_forward_hook(lambda *_: ran.append(None))

    def drawn(task):
        ran.clear()
        return fresh.pixels(task)

    before = drawn(task)
    every_time = len(ran)
    cached = task.changed(switches=switches)
    approximate = drawn(cached)
    assert 0 < len(ran) < every_time
    assert approximate != before
    with pytest.raises(JobCancelledError):
        fresh.draw(cached, stop_after=7)
    assert drawn(cached) == approximate
    assert drawn(task) == before
