"""What every kind of the registry promises, proved on its micro row through a real worker."""

import io
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flux_mcp.jobs.fleet import WorkerLost
from flux_mcp.models.families import MICRO as FAMILY_SPEC
from flux_mcp.models.registry import KINDS, ModelSpec, Registry, load_registry
from flux_mcp.models.switches import Switches
from flux_mcp.pipelines.families.flux1 import FAMILY
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Cancelled, Done, Failed, GeneratedImage, Progress
from tests.pipelines.harness import SIDE, TINY, finished

pytestmark = pytest.mark.anyio

MICRO = [load_registry().find(kind, "micro") for kind in KINDS]
every_kind = pytest.mark.parametrize("spec", MICRO, ids=[row.kind for row in MICRO])

EVERY_THIRD = Switches(
    step_cache="taylorseer",
    step_cache_options={
        "cache_interval": 3,
        "disable_cache_before_step": 2,
        "max_order": 1,
        "use_lite_mode": True,
    },
)


def embeddings_in(settings: Settings) -> set[Path]:
    return set(settings.paths.embeddings.rglob("*.safetensors"))


def steps_for(spec: ModelSpec, drawn: int) -> int:
    """The steps to ask for: image to image draws the last half of them, which counts as all."""
    return 2 * drawn if spec.kind == "img2img" else drawn


def as_array(pixels: bytes, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3).astype(int)


async def test_every_kind_has_a_micro_row_and_an_adapter():
    assert {row.kind for row in MICRO} == set(KINDS) == set(FAMILY.adapters)
    assert all(row.is_demonstration for row in MICRO)


@every_kind
async def test_it_renders_the_size_of_the_plan_and_tells_how_far_it_is(worker, task_for, spec):
    task = task_for(spec, width=96, height=160, steps=steps_for(spec, 3), seeds=(1, 2))
    drawing = await worker.draw(task)

    assert isinstance(drawing.final, Done), drawing.final
    assert drawing.steps == [1, 2, 3, 3, 4, 5, 6]  # 3 again: the second pass begins
    assert [event.total_steps for event in drawing.of(Progress)] == [6] * len(drawing.of(Progress))
    assert [(e.index, e.seed, e.width, e.height) for e in drawing.of(GeneratedImage)] == [
        (0, 1, 96, 160),
        (1, 2, 96, 160),
    ]
    assert [len(pixels) for pixels in drawing.pixels] == [96 * 160 * 3] * 2
    assert as_array(drawing.pixels[0], 96, 160).std() > 20
    assert drawing.pixels[0] != drawing.pixels[1]

    # Events are numbered, phases come in order, and what is left is estimated.
    assert [r.event.seq for r in drawing.reports] == list(range(len(drawing.reports)))
    phases = list(dict.fromkeys(event.phase for event in drawing.of(Progress)))
    assert phases == ["loading", "encoding", "denoising", "decoding"]
    known = [e.eta_s for e in drawing.of(Progress) if e.phase == "denoising" and e.step]
    assert all(eta is not None and eta >= 0 for eta in known)

    # Previews are small WebP images.
    assert [(event.index, event.step) for event, _ in drawing.previews] == [
        *((0, step) for step in (1, 2, 3)),
        *((1, step) for step in (4, 5, 6)),
    ]
    for event, data in drawing.previews:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as preview:
            assert preview.size == (event.width, event.height) == (96, 160)
        assert len(data) < 16_000


@every_kind
async def test_it_stops_when_cancelled_and_draws_the_same_pixels_afterwards(worker, task_for, spec):
    task = task_for(spec, steps=2)
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
async def test_each_seed_draws_the_same_alone_as_one_of_several_and_in_one_pass(
    worker, task_for, spec
):
    task = task_for(spec, steps=steps_for(spec, 2), seeds=(5, 6, 7))
    several = await worker.draw(task)
    alone = await worker.draw(task.changed(seeds=(6,)))
    batched = await worker.draw(task.changed(batched=True))

    assert alone.pixels == [several.pixels[1]]
    assert batched.steps == [1, 2]
    assert [(e.index, e.seed) for e in batched.of(GeneratedImage)] == [(0, 5), (1, 6), (2, 7)]
    # A batch rounds differently (facts: 1/255 in fp32), but must not mix up seeds or images.
    for together, one_by_one in zip(batched.pixels, several.pixels, strict=True):
        assert np.abs(as_array(together) - as_array(one_by_one)).max() <= 2


@every_kind
@pytest.mark.parametrize("size", [(64, 64), (256, 256), (64, 256), (208, 80)])
async def test_it_draws_the_smallest_the_largest_and_odd_shapes(worker, task_for, spec, size):
    width, height = size
    drawing = await worker.draw(task_for(spec, width=width, height=height, steps=1))
    assert [(e.width, e.height) for e in drawing.of(GeneratedImage)] == [size]


@every_kind
async def test_the_prompt_changes_the_image(worker, task_for, spec):
    task = task_for(spec, steps=1)
    one = await worker.draw(task)
    other = await worker.draw(task.changed(prompt="a green star on a yellow background"))
    assert one.pixels != other.pixels


@pytest.mark.parametrize(
    "spec", [row for row in MICRO if row.takes_negative_prompt], ids=lambda row: row.kind
)
async def test_a_negative_prompt_changes_the_image(worker, task_for, spec):
    task = task_for(spec, steps=1)
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
    pixels = as_array((await worker.draw(task)).pixels[0])
    (drawn,) = finished(task, [pixels.astype(np.uint8)])
    assert (drawn[hole == 0] == original[hole == 0]).all()
    assert np.abs(drawn[hole == 255] - original[hole == 255].astype(int)).mean() > 10


async def test_an_image_that_is_no_image_fails_the_job_and_not_the_worker(
    worker, task_for, registry
):
    task = task_for(registry.find("kontext", "micro"), steps=1)
    broken = replace(task, inputs=dict.fromkeys(task.inputs, b"not an image"))
    assert (await worker.draw(broken)).final.error.code == "invalid_image"
    missing = replace(task, inputs={})
    assert (await worker.draw(missing)).final.error.code == "invalid_image"
    assert isinstance((await worker.draw(task)).final, Done)


async def test_a_job_that_does_not_fit_unloads_everything_and_the_next_one_works(
    worker, task_for, registry
):
    task = task_for(registry.find("text2img", "micro"), steps=1)
    before = await worker.draw(task)
    # 17 TB of noise: refused by the allocator at once.
    too_large = await worker.draw(task.changed(width=2**22, height=2**22))
    assert too_large.final.error.code == "out_of_memory"
    assert too_large.final.error.hint
    assert too_large.final.loaded == ()
    assert (await worker.draw(task)).pixels == before.pixels


async def test_an_error_nobody_foresaw_fails_the_job_and_not_the_worker(worker, task_for, registry):
    task = task_for(registry.find("text2img", "micro"), steps=1)
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
        k: (await worker.draw(task_for(micro(k), steps=1))).final
        for k in ("text2img", "redux", "fill")
    }
    assert drawn["redux"].weights_sha256 == drawn["text2img"].weights_sha256  # one transformer
    assert drawn["fill"].weights_sha256 != drawn["text2img"].weights_sha256
    assert {"text2img/micro", "redux/micro", "fill/micro"} <= set(drawn["fill"].loaded)
    assert worker.fleet.worker().loaded == drawn["fill"].loaded
    assert drawn["fill"].draw_s > 0


# --- what a plan may ask of it besides -----------------------------------------------------------


async def test_a_lora_and_a_step_cache_are_gone_when_the_next_plan_has_none(
    worker, task_for, put, registry
):
    """In the process itself; test_loras.py and test_switches.py ask each of them for more."""
    task = task_for(registry.find("text2img", "micro"), steps=9)
    before = await worker.draw(task)
    with_lora = task.changed(loras=(put("striped"),))
    cached = task.changed(switches=EVERY_THIRD)
    drawn = []
    for other in (with_lora, cached):
        drawn.append(await worker.draw(other))
        assert isinstance(drawn[-1].final, Done), drawn[-1].final
        assert (await worker.draw(task)).pixels == before.pixels
    assert len({one.pixels[0] for one in (before, *drawn)}) == 3
    long = with_lora.changed(width=256, height=256, steps=64, seeds=(1, 2, 3, 4))
    stopped = await worker.draw(long, cancel_after_step=2)
    assert isinstance(stopped.final, Cancelled)
    assert (await worker.draw(task)).pixels == before.pixels
    assert [(await worker.draw(other)).pixels for other in (with_lora, cached)] == [
        one.pixels for one in drawn
    ]


async def test_it_holds_each_part_as_the_plan_says_and_tells_how_far_it_has_read(
    worker, task_for, registry
):
    spec = registry.find("text2img", "micro")
    plain = await worker.draw(task_for(spec, precision="bf16", **TINY))
    smaller = await worker.draw(task_for(spec, precision="fp8", text_precision="bf16", **TINY))
    assert isinstance(smaller.final, Done), smaller.final
    assert "loading transformer, 5 of 5 MB, 100 %" in smaller.loading
    assert not any("text_encoder" in line or "vae" in line for line in smaller.loading)
    assert smaller.final.weights_sha256 == plain.final.weights_sha256
    assert smaller.pixels != plain.pixels

    await worker.draw(task_for(spec, precision="bf16", **TINY))
    encoded = await worker.draw(task_for(spec, precision="bf16", text_precision="fp8", **TINY))
    assert any(line.startswith("loading text_encoder_2,") for line in encoded.loading)
    assert not any(line.startswith("loading transformer") for line in encoded.loading)
    assert encoded.pixels != plain.pixels


@pytest.mark.parametrize("precision", ["nf4", "fp8dq", "svdq_nvfp4"])
async def test_what_the_device_cannot_hold_fails_the_job_and_not_the_worker(
    worker, task_for, registry, precision
):
    task = task_for(registry.find("text2img", "micro"), steps=1)
    before = await worker.draw(task)
    refused = await worker.draw(task.changed(precision=precision))
    assert refused.final.error.code == "format_unsupported"
    assert "Use one of: " in refused.final.error.hint
    assert refused.final.loaded == before.final.loaded
    assert (await worker.draw(task)).pixels == before.pixels


# --- when it is killed ---------------------------------------------------------------------------


@pytest.mark.torture  # its parts: tests/pipelines/test_texts.py and tests/e2e/test_processes.py
async def test_the_worker_after_a_killed_one_draws_the_same_without_loading_a_text_encoder(
    worker, studio, settings, task_for, registry
):
    """What was encoded once is on the disk for every process that follows."""
    tasks = [
        task_for(registry.find(kind, "micro"), steps=1, precision=precision, prompt="a blue boat")
        for kind, precision in [*((kind, "fp32") for kind in KINDS), ("text2img", "bf16")]
    ]
    tasks[-1] = tasks[-1].changed(**TINY)
    known = embeddings_in(settings)
    before = [(await worker.draw(task)).pixels for task in tasks]
    # One for each precision: the kinds share their encoders, and so their entries.
    assert len(embeddings_in(settings) - known) == 2
    # This engine caches nothing.
    assert before == [studio.draw(task).pixels for task in tasks]

    long = tasks[0].changed(width=256, height=256, steps=64, seeds=tuple(range(8)))
    victim = worker.fleet.worker().pid
    events = worker.fleet.run(worker.assign(long))
    while (await anext(events)).event.step < 2:
        pass
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        [report async for report in events]
    assert not worker.fleet.worker().is_running

    after = [await worker.draw(task) for task in tasks]
    assert [drawing.pixels for drawing in after] == before
    told = {line for drawing in after for line in drawing.loading}
    assert "loading transformer" in told
    assert not told & {f"loading {name}" for name in FAMILY_SPEC.text_parts}
    assert worker.fleet.worker().pid != victim
    # And is loaded when a text is new.
    new = await worker.draw(tasks[0].changed(prompt="a red boat"))
    assert "loading text_encoder_2" in new.loading
