"""A real worker holds weights as the plan says, and tells how far it has read."""

import pytest

from flux_mcp.worker_protocol.messages import Done, Progress

pytestmark = pytest.mark.anyio


async def test_it_tells_how_much_is_loaded_and_names_the_same_weights(worker, task_for, micro):
    plain = await worker.draw(task_for(micro, precision="bf16"))
    drawing = await worker.draw(task_for(micro, precision="fp8", text_precision="bf16"))
    assert isinstance(drawing.final, Done), drawing.final
    told = [event.message for event in drawing.of(Progress) if event.phase == "loading"]
    assert "loading transformer, 5 of 5 MB, 100 %" in told
    assert not any("text_encoder" in line or "vae" in line for line in told)
    assert drawing.final.weights_sha256 == plain.final.weights_sha256
    assert drawing.pixels != plain.pixels


async def test_the_text_encoder_has_a_precision_of_its_own(worker, task_for, micro):
    plain = await worker.draw(task_for(micro, precision="bf16"))
    drawing = await worker.draw(task_for(micro, precision="bf16", text_precision="fp8"))
    told = [event.message for event in drawing.of(Progress) if event.phase == "loading"]
    assert any(line.startswith("loading text_encoder_2,") for line in told)
    assert not any(line.startswith("loading transformer") for line in told)
    assert drawing.pixels != plain.pixels


@pytest.mark.parametrize("precision", ["nf4", "fp8dq", "svdq_nvfp4"])
async def test_what_the_device_cannot_hold_fails_the_job_and_not_the_worker(
    worker, task_for, micro, precision
):
    before = await worker.draw(task_for(micro))
    refused = await worker.draw(task_for(micro, precision=precision))
    assert refused.final.error.code == "format_unsupported"
    assert "Use one of: " in refused.final.error.hint
    assert refused.final.loaded == before.final.loaded
    assert (await worker.draw(task_for(micro))).pixels == before.pixels
