"""Counting, estimating, previewing, stopping."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flux_mcp.errors import JobCancelledError
from flux_mcp.pipelines.families.family import family_of
from flux_mcp.pipelines.previews import LatentColours, calibrate, fit_colours
from flux_mcp.pipelines.steps import PreviewSettings, StepClock, StepWatch
from tests.pipelines.harness import Recorder, Studio


@pytest.fixture
def task(task_for, registry):
    return task_for(registry.find("text2img", "micro"), width=64, height=64, steps=4)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_cancel_at_a_step_is_the_last_step(studio, task, step):
    """Whichever step it comes at: no further step, no decoding, and the pipeline is as new."""
    task = task.changed(seeds=(1, 2))
    before = studio.pixels(task)
    with pytest.raises(JobCancelledError):
        studio.draw(task, cancelled=lambda recorder: step in recorder.steps)
    stopped = studio.last
    assert stopped.steps[-1] == max(stopped.steps) == step
    # Step 4 ends the first pass: its image was not handed over, nor anything of the second.
    assert len(stopped.images) == (step - 1) // 4
    assert stopped.phases[-1] == "denoising"
    assert studio.pixels(task) == before


def test_a_cancel_during_decoding_hands_over_no_image(studio, task):
    with pytest.raises(JobCancelledError):
        studio.draw(task, cancelled=lambda recorder: "decoding" in recorder.phases)
    assert studio.last.steps == [1, 2, 3, 4]
    assert studio.last.images == []


def test_a_cancel_while_loading_loads_no_more_and_the_next_job_is_drawn(
    settings, torch_here, studio, task
):
    fresh = Studio(settings)
    with pytest.raises(JobCancelledError):
        fresh.draw(task, cancelled=lambda recorder: "loading transformer" in recorder.messages)
    assert fresh.last.phases == ["loading"] * len(fresh.last.phases)
    assert fresh.engine.state["loaded"] == ()
    assert fresh.pixels(task) == studio.pixels(task)


def test_a_job_that_is_cancelled_already_is_neither_loaded_nor_encoded(studio, task):
    with pytest.raises(JobCancelledError):
        studio.draw(task, cancelled=lambda _recorder: True)
    assert studio.last.phases == []


@pytest.mark.parametrize("sigmas", [[1.0, 0.75, 0.5, 0.25, 0.0], [0.5, 0.25, 0.0]])
def test_a_preview_of_image_to_image_counts_from_the_first_step_that_is_drawn(
    task_for, registry, sigmas
):
    """Whether its scheduler knows all the model's steps, as FLUX.1's does, or those that are left.

    A step of the last half moves straight on: the first shows nothing yet, the last is exact.
    """
    plan = task_for(registry.find("img2img", "micro"), steps=4, strength=0.5).plan
    pipe = SimpleNamespace(scheduler=SimpleNamespace(sigmas=sigmas))
    shown = []

    def unpack(_pipe, latents, _width, _height):
        shown.append(latents)
        return np.zeros((1, 8, 8), np.float32)

    recorder, colours = Recorder(), LatentColours(np.zeros((2, 3)), unpack)
    watch = StepWatch(plan, recorder, lambda: False, PreviewSettings(1), colours)
    watch.start_pass(0)
    for number in range(2):
        watch(pipe, number, None, {"latents": np.full((1, 4, 4), 10.0 * (number + 1))})
    assert [float(latents.mean()) for latents in shown] == [10.0, 20.0]
    assert recorder.phases[-1] == "decoding"
    assert recorder.steps == [1, 2]


def test_previews_come_as_often_as_asked_and_do_not_change_the_image(studio, task):
    task = task.changed(steps=6)
    drawn = {every: studio.draw(task, preview_every=every) for every in (0, 1, 4, 9)}
    shown = {every: [step for _, step, _, _ in one.previews] for every, one in drawn.items()}
    assert shown == {0: [], 1: [1, 2, 3, 4, 5, 6], 4: [4], 9: []}
    assert len({one.pixels[0] for one in drawn.values()}) == 1


def test_a_preview_that_fails_does_not_fail_the_image(studio, task, caplog):
    resident = studio.load(task.spec)
    known = {resident.vae_key: LatentColours(np.zeros((3, 3)), family_of(task.spec).unpack_latents)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio.residency, "_colours", known)
        drawn = studio.draw(task, preview_every=1)
    assert drawn.previews == []
    assert drawn.pixels == studio.draw(task).pixels
    assert caplog.text.count("making a preview failed") == 1


def test_a_preview_shows_the_colours_of_the_image():
    """As far as the latents tell them; here they tell them exactly."""
    random = np.random.default_rng(1)
    latents, weights = random.normal(size=(16, 12, 20)), random.uniform(-0.02, 0.02, (16, 3))
    colours = np.moveaxis(latents, 0, -1) @ weights + 0.5
    fitted = fit_colours(
        latents.reshape(16, -1).T, colours.reshape(-1, 3), lambda _pipe, whole, *_size: whole
    )
    shown = np.asarray(fitted.image(None, latents, 160, 96)).astype(float)
    assert shown.shape == (12, 20, 3)
    assert np.abs(shown - colours * 255).max() <= 0.5 + 1e-6


def test_the_map_of_a_vae_has_a_row_for_each_latent_channel_and_a_constant(studio, task):
    pipe = studio.load(task.spec).pipe
    weights = calibrate(task.spec, pipe).weights
    assert weights.shape == (pipe.vae.config.latent_channels + 1, 3)
    assert np.isfinite(weights).all()


def test_calibrating_does_not_touch_the_random_numbers_of_anybody(studio, task):
    import torch

    pipe = studio.load(task.spec).pipe
    state = torch.random.get_rng_state()
    first, second = (calibrate(task.spec, pipe).weights for _ in range(2))
    assert (first == second).all()
    assert torch.random.get_rng_state().equal(state)


def test_the_last_preview_is_made_of_the_finished_latents(studio, task):
    """The estimate along the last step's direction is exact at its end."""
    from flux_mcp.pipelines.steps import _expected_latents

    resident, plan = studio.load(task.spec), task.plan
    pipe, texts = resident.pipe, studio.texts(plan, resident)
    texts.encode(lambda: None)
    seen = []

    def keep(_pipe, _step, _timestep, tensors):
        seen.append(tensors["latents"])
        return {}

    size = {"width": 64, "height": 32}
    pipe(**texts[plan.prompt], **size, num_inference_steps=4, callback_on_step_end=keep)
    expected = _expected_latents(pipe, 3, seen[2], seen[3])
    assert expected.allclose(seen[3], atol=1e-5)
    unpacked = family_of(task.spec).unpack_latents(pipe, seen[3], 64, 32)
    assert unpacked.shape == (8, 4, 8)


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
