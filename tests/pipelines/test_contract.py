"""What every kind of the registry promises, proved on its micro row through a real worker."""

import io
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flux_mcp.jobs.fleet import WorkerLost
from flux_mcp.models.registry import KINDS, ModelSpec, Registry, load_registry
from flux_mcp.pipelines.families.flux1 import FAMILY
from flux_mcp.worker_protocol.messages import Cancelled, Done, Failed, GeneratedImage, Progress

pytestmark = pytest.mark.anyio

MICRO = [row for row in load_registry() if row.is_demonstration]
every_kind = pytest.mark.parametrize("spec", MICRO, ids=[row.kind for row in MICRO])


def as_array(pixels: bytes, width: int = 128, height: int = 128) -> np.ndarray:
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3).astype(int)


async def test_every_kind_has_a_micro_row_and_an_adapter():
    assert {row.kind for row in MICRO} == set(KINDS) == set(FAMILY.adapters)


@every_kind
async def test_it_renders_the_size_of_the_plan_and_reports_each_step(worker, task_for, spec):
    task = task_for(spec, width=96, height=160, seeds=(1, 2))
    drawing = await worker.draw(task)

    assert isinstance(drawing.final, Done), drawing.final
    assert drawing.steps == [1, 2, 3, 4, 4, 5, 6, 7, 8]  # 4 again: the second pass begins
    assert [event.total_steps for event in drawing.of(Progress)] == [8] * len(drawing.of(Progress))
    assert [(e.index, e.seed, e.width, e.height) for e in drawing.of(GeneratedImage)] == [
        (0, 1, 96, 160),
        (1, 2, 96, 160),
    ]
    assert [len(pixels) for pixels in drawing.pixels] == [96 * 160 * 3] * 2
    assert as_array(drawing.pixels[0], 96, 160).std() > 20
    assert drawing.pixels[0] != drawing.pixels[1]


@every_kind
async def test_its_events_are_numbered_and_its_phases_come_in_order(worker, task_for, spec):
    drawing = await worker.draw(task_for(spec))
    assert [r.event.seq for r in drawing.reports] == list(range(len(drawing.reports)))
    phases = list(dict.fromkeys(event.phase for event in drawing.of(Progress)))
    assert phases == ["loading", "encoding", "denoising", "decoding"]
    known = [e.eta_s for e in drawing.of(Progress) if e.phase == "denoising" and e.step]
    assert all(eta is not None and eta >= 0 for eta in known)


@every_kind
async def test_it_stops_when_cancelled_and_draws_the_same_pixels_afterwards(worker, task_for, spec):
    task = task_for(spec)
    before = await worker.draw(task)
    # Long enough that a cancel sent after the third step cannot come too late.
    long = task.changed(width=256, height=256, steps=64, seeds=tuple(range(8)))
    stopped = await worker.draw(long, cancel_after_step=3)
    after = await worker.draw(task)

    assert isinstance(stopped.final, Cancelled)
    assert stopped.steps[-1] < long.plan.total_steps
    assert f"{spec.kind}/{spec.id}" in stopped.final.loaded
    assert after.pixels == before.pixels


@every_kind
async def test_the_same_seed_gives_the_same_pixels_alone_or_as_one_of_several(
    worker, task_for, spec
):
    several = await worker.draw(task_for(spec, seeds=(5, 6, 7)))
    alone = await worker.draw(task_for(spec, seeds=(6,)))
    assert alone.pixels == [several.pixels[1]]


@every_kind
async def test_a_batched_plan_draws_every_seed_in_one_pass(worker, task_for, spec):
    task = task_for(spec, seeds=(5, 6, 7), batched=True)
    batched = await worker.draw(task)
    one_by_one = await worker.draw(task.changed(batched=False))

    assert batched.steps == [1, 2, 3, 4]
    assert [(e.index, e.seed) for e in batched.of(GeneratedImage)] == [(0, 5), (1, 6), (2, 7)]
    # A batch rounds differently (facts: 1/255 in fp32), but must not mix up seeds or images.
    for drawn, alone in zip(batched.pixels, one_by_one.pixels, strict=True):
        assert np.abs(as_array(drawn) - as_array(alone)).max() <= 2


@every_kind
async def test_its_previews_are_small_webp_images(worker, task_for, spec):
    drawing = await worker.draw(task_for(spec, seeds=(1, 2)))
    assert [(event.index, event.step) for event, _ in drawing.previews] == [
        *((0, step) for step in (1, 2, 3, 4)),
        *((1, step) for step in (5, 6, 7, 8)),
    ]
    for event, data in drawing.previews:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as preview:
            assert preview.size == (event.width, event.height) == (128, 128)
        assert len(data) < 16_000


@every_kind
@pytest.mark.parametrize("size", [(64, 64), (256, 256), (64, 256), (208, 80)])
async def test_it_draws_the_smallest_the_largest_and_odd_shapes(worker, task_for, spec, size):
    width, height = size
    drawing = await worker.draw(task_for(spec, width=width, height=height, steps=1))
    assert [(e.width, e.height) for e in drawing.of(GeneratedImage)] == [size]


@every_kind
async def test_the_prompt_changes_the_image(worker, task_for, spec):
    task = task_for(spec)
    one = await worker.draw(task)
    other = await worker.draw(task.changed(prompt="a green star on a yellow background"))
    assert one.pixels != other.pixels


@pytest.mark.parametrize(
    "spec", [row for row in MICRO if row.takes_negative_prompt], ids=lambda row: row.kind
)
async def test_a_negative_prompt_changes_the_image(worker, task_for, spec):
    task = task_for(spec)
    plain = await worker.draw(task)
    steered = await worker.draw(task.changed(negative_prompt="a star", true_cfg_scale=4.0))
    assert isinstance(steered.final, Done)
    assert plain.pixels != steered.pixels


@pytest.mark.parametrize(
    "spec", [row for row in MICRO if not row.takes_negative_prompt], ids=lambda row: row.kind
)
async def test_a_negative_prompt_is_refused_where_the_pipeline_has_none(worker, task_for, spec):
    drawing = await worker.draw(task_for(spec, negative_prompt="a star", true_cfg_scale=4.0))
    assert drawing.final.error.code == "unsupported_option"


async def test_fill_keeps_every_pixel_outside_the_mask(worker, task_for, registry):
    spec = registry.find("fill", "micro")
    task = task_for(spec)
    original, hole = (
        np.asarray(Image.open(io.BytesIO(task.inputs[item.sha256]))) for item in task.plan.inputs
    )
    drawn = as_array((await worker.draw(task)).pixels[0])
    assert (drawn[hole == 0] == original[hole == 0]).all()
    assert np.abs(drawn[hole == 255] - original[hole == 255].astype(int)).mean() > 10


async def test_an_image_that_is_no_image_fails_the_job_and_not_the_worker(
    worker, task_for, registry
):
    task = task_for(registry.find("kontext", "micro"))
    broken = replace(task, inputs=dict.fromkeys(task.inputs, b"not an image"))
    assert (await worker.draw(broken)).final.error.code == "invalid_image"
    missing = replace(task, inputs={})
    assert (await worker.draw(missing)).final.error.code == "invalid_image"
    assert isinstance((await worker.draw(task)).final, Done)


async def test_a_job_that_does_not_fit_unloads_everything_and_the_next_one_works(
    worker, task_for, registry
):
    task = task_for(registry.find("text2img", "micro"))
    before = await worker.draw(task)
    # 17 TB of noise: refused by the allocator at once.
    too_large = await worker.draw(task.changed(width=2**22, height=2**22))
    assert too_large.final.error.code == "out_of_memory"
    assert too_large.final.error.hint
    assert too_large.final.loaded == ()
    assert (await worker.draw(task)).pixels == before.pixels


async def test_an_error_nobody_foresaw_fails_the_job_and_not_the_worker(worker, task_for, registry):
    task = task_for(registry.find("text2img", "micro"))
    before = await worker.draw(task)
    pid = worker.fleet.worker().pid
    assert (await worker.draw(task.changed(vae_tile_px=1))).final.error.code == "internal"
    assert (await worker.draw(task)).pixels == before.pixels
    assert worker.fleet.worker().pid == pid


async def test_weights_that_are_not_installed_fail_the_job_with_the_command_that_installs_them(
    worker, task_for, registry
):
    drawing = await worker.draw(task_for(registry.find("text2img", "flux1-dev")))
    assert isinstance(drawing.final, Failed)
    assert drawing.final.error.code == "weights_missing"
    assert "models pull flux1-dev" in drawing.final.error.hint


async def test_done_names_the_weights_and_what_is_loaded(worker, task_for, registry: Registry):
    def micro(kind) -> ModelSpec:
        return registry.find(kind, "micro")

    drawn = {
        k: (await worker.draw(task_for(micro(k)))).final for k in ("text2img", "redux", "fill")
    }
    assert drawn["redux"].weights_sha256 == drawn["text2img"].weights_sha256  # one transformer
    assert drawn["fill"].weights_sha256 != drawn["text2img"].weights_sha256
    assert {"text2img/micro", "redux/micro", "fill/micro"} <= set(drawn["fill"].loaded)
    assert worker.fleet.worker().loaded == drawn["fill"].loaded
    assert drawn["fill"].draw_s > 0


async def test_a_killed_worker_is_reported_and_the_next_run_draws_the_same(
    worker, task_for, registry
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec)
    before = await worker.draw(task)
    long = task.changed(width=256, height=256, steps=64, seeds=tuple(range(8)))
    victim = worker.fleet.worker().pid
    events = worker.fleet.run(worker.assign(long))
    while (await anext(events)).event.step < 2:
        pass
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        [report async for report in events]
    assert not worker.fleet.worker().is_running

    after = await worker.draw(task)
    assert after.pixels == before.pixels
    assert worker.fleet.worker().pid != victim
