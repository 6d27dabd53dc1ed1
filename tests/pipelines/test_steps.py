"""Counting, estimating, previewing, stopping."""

import io

import numpy as np
import pytest
from PIL import Image

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.registry import KINDS
from flux_mcp.pipelines.engine import draw
from flux_mcp.pipelines.previews import LatentColours, calibrate, fit_colours, unpack
from flux_mcp.pipelines.steps import StepClock, StepWatch


def quietly(_message):
    """Report to nobody."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_cancel_at_a_step_is_the_last_step(
    residency, texts_of, registry, task_for, recorder, kind, step
):
    """Whichever step it comes at: no further step, no decoding, and the pipeline is as new."""
    spec = registry.find(kind, "micro")
    resident = residency.pipeline(spec, "resident", quietly)
    task = task_for(spec, seeds=(1, 2))
    watch = StepWatch(task.plan, recorder, lambda: False)
    draw(task.plan, task.blobs, resident, texts_of(task.plan, resident), watch, recorder)
    before, recorder.images, recorder.steps = recorder.images, [], []

    watch = StepWatch(task.plan, recorder, lambda: step in recorder.steps)
    with pytest.raises(JobCancelledError):
        draw(task.plan, task.blobs, resident, texts_of(task.plan, resident), watch, recorder)
    assert recorder.steps[-1] == max(recorder.steps) == step
    # Step 4 ends the first pass: its image was not handed over, nor anything of the second.
    assert len(recorder.images) == (step - 1) // 4
    assert recorder.phases[-1] == "denoising"

    recorder.images = []
    watch = StepWatch(task.plan, recorder, lambda: False)
    draw(task.plan, task.blobs, resident, texts_of(task.plan, resident), watch, recorder)
    assert all((a == b).all() for a, b in zip(before, recorder.images, strict=True))


def test_a_cancel_during_decoding_hands_over_no_image(
    residency, texts_of, registry, task_for, recorder
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec)
    watch = StepWatch(task.plan, recorder, lambda: "decoding" in recorder.phases)
    resident = residency.pipeline(spec, "resident", quietly)
    with pytest.raises(JobCancelledError):
        draw(task.plan, task.blobs, resident, texts_of(task.plan, resident), watch, recorder)
    assert recorder.steps == [1, 2, 3, 4]
    assert recorder.images == []


def test_a_job_that_is_cancelled_already_is_not_encoded(
    residency, texts_of, registry, task_for, recorder
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec)
    watch = StepWatch(task.plan, recorder, lambda: True)
    resident = residency.pipeline(spec, "resident", quietly)
    with pytest.raises(JobCancelledError):
        draw(task.plan, task.blobs, resident, texts_of(task.plan, resident), watch, recorder)
    assert recorder.phases == []


def draw_with_previews(residency, texts_of, registry, task_for, recorder, every, colours=None):
    spec = registry.find("text2img", "micro")
    resident = residency.pipeline(spec, "resident", quietly)
    task = task_for(spec, steps=6)
    watch = StepWatch(
        task.plan,
        recorder,
        lambda: False,
        preview_every=every,
        colours=colours or residency.colours(resident),
    )
    draw(task.plan, task.blobs, resident, texts_of(task.plan, resident), watch, recorder)
    return resident


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (4, [4]), (9, [])])
def test_previews_come_as_often_as_asked(
    residency, texts_of, registry, task_for, recorder, every, steps
):
    draw_with_previews(residency, texts_of, registry, task_for, recorder, every)
    assert [step for _, step, _, _ in recorder.previews] == steps


def test_previews_do_not_change_the_image(residency, texts_of, registry, task_for, recorder):
    draw_with_previews(residency, texts_of, registry, task_for, recorder, 1)
    draw_with_previews(residency, texts_of, registry, task_for, recorder, 0)
    assert (recorder.images[0] == recorder.images[1]).all()


def test_a_preview_that_fails_does_not_fail_the_image(
    residency, texts_of, registry, task_for, recorder
):
    broken = LatentColours(np.zeros((3, 3)))
    draw_with_previews(residency, texts_of, registry, task_for, recorder, 1, broken)
    assert recorder.previews == []
    assert len(recorder.images) == 1


def test_a_preview_shows_the_colours_of_the_image():
    """As far as the latents tell them; here they tell them exactly."""
    random = np.random.default_rng(1)
    latents, weights = random.normal(size=(16, 12, 20)), random.uniform(-0.02, 0.02, (16, 3))
    colours = np.moveaxis(latents, 0, -1) @ weights + 0.5
    fitted = fit_colours(latents.reshape(16, -1).T, colours.reshape(-1, 3))
    shown = np.asarray(fitted.image(latents)).astype(float)
    assert shown.shape == (12, 20, 3)
    assert np.abs(shown - colours * 255).max() <= 0.5 + 1e-6


def test_the_map_of_a_vae_has_a_row_for_each_latent_channel_and_a_constant(residency, registry):
    pipe = residency.pipeline(registry.find("text2img", "micro"), "resident", quietly).pipe
    weights = calibrate(pipe).weights
    assert weights.shape == (pipe.vae.config.latent_channels + 1, 3)
    assert np.isfinite(weights).all()


def test_calibrating_does_not_touch_the_random_numbers_of_anybody(residency, registry):
    import torch

    pipe = residency.pipeline(registry.find("text2img", "micro"), "resident", quietly).pipe
    state = torch.random.get_rng_state()
    assert (calibrate(pipe).weights == calibrate(pipe).weights).all()
    assert torch.random.get_rng_state().equal(state)


def test_the_last_preview_is_made_of_the_finished_latents(residency, texts_of, registry, task_for):
    """The estimate along the last step's direction is exact at its end."""
    from flux_mcp.pipelines.steps import _expected_latents

    spec = registry.find("text2img", "micro")
    resident, plan = residency.pipeline(spec, "resident", quietly), task_for(spec).plan
    pipe, texts = resident.pipe, texts_of(plan, resident)
    texts.encode(lambda: None)
    seen = []

    def keep(_pipe, _step, _timestep, tensors):
        seen.append(tensors["latents"])
        return {}

    size = {"width": 64, "height": 32}
    pipe(**texts[plan.prompt], **size, num_inference_steps=4, callback_on_step_end=keep)
    expected = _expected_latents(pipe, 3, seen[2], seen[3])
    assert expected.allclose(seen[3], atol=1e-5)
    assert unpack(pipe, seen[3], 64, 32).shape == (8, 4, 8)


def test_a_long_image_gets_a_preview_of_at_most_256_pixels():
    from flux_mcp.pipelines.previews import encode_webp

    webp, size = encode_webp(Image.new("RGB", (256, 8)), 2048, 64)
    assert size == (256, 8)
    with Image.open(io.BytesIO(webp)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (256, 8))


def test_seconds_left_follow_the_steps_and_not_the_preparation_before_them():
    clock = StepClock(steps_per_pass=4, passes=2)
    assert clock.seconds_left(0) is None
    clock.start_pass(0.0)
    clock.end_step(10.0)
    assert clock.seconds_left(1) == 70.0  # nothing better is known yet
    for now in (12.0, 14.0, 16.0):
        clock.end_step(now)
    assert clock.seconds_left(4) == 8.0
    clock.end_pass(19.0)
    clock.start_pass(19.0)
    assert clock.seconds_left(4) == 4 * 2.0 + 3.0  # one more decoding
    for now in (21.0, 23.0, 25.0, 27.0):
        clock.end_step(now)
    assert clock.seconds_left(8) == 3.0
    clock.end_pass(30.0)
    assert clock.seconds_left(8) == 0.0
