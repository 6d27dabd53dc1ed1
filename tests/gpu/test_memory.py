"""The GPU's memory: what a switch copies, what happens when there is none left, what is freed."""

import pytest

from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.pipelines.device import GIB
from flux_mcp.worker_protocol.messages import Done, Failed
from tests.gpu.copies import copied_bytes, copied_in
from tests.pipelines.harness import WorkerStudio

TINY_TRANSFORMER_BYTES = 2 * 2_400_000
"""micro's, in bf16 (parts.toml)."""
CONTEXT_MIB = 100.0
"""Less than the driver takes for any process that draws."""
JITTER_MIB = 16.0


def test_copies_are_counted_by_what_the_trace_says():
    events = [
        {"name": "Memcpy HtoD (Pinned -> Device)", "args": {"bytes": 100}},
        {"name": "Memcpy HtoD (Pageable -> Device)", "args": {"bytes": 20}},
        {"name": "Memcpy DtoH (Device -> Pinned)", "args": {"bytes": 7}},
        {"name": "aten::copy_"},
    ]
    assert copied_in({"traceEvents": events}) == 120


def test_a_switch_between_kinds_that_are_loaded_copies_no_weights(micro_studio, task_of, tmp_path):
    one, other = task_of("text2img", steps=1), task_of("kontext", steps=1)
    for task in (one, other, one):
        micro_studio.draw(task)
    assert len(micro_studio.engine.state["loaded"]) == 2
    copied = copied_bytes(lambda: micro_studio.draw(other), tmp_path)
    assert copied < TINY_TRANSFORMER_BYTES / 4


def test_a_load_copies_what_the_weights_weigh(gpu, micro_studio, task_of, tmp_path):
    """The other side of the test above: the counter sees weights that are copied."""
    copied = copied_bytes(lambda: micro_studio.draw(task_of("text2img", steps=1)), tmp_path)
    assert copied >= TINY_TRANSFORMER_BYTES


def test_an_engine_that_forgets_leaves_nothing_on_the_gpu(gpu, micro_studio, task_of):
    import torch

    for kind in ("text2img", "kontext", "fill", "control", "redux"):
        micro_studio.draw(task_of(kind))
    micro_studio.engine.recover_memory()
    # cuBLAS keeps its workspace for as long as the process lives.
    assert torch.cuda.memory_allocated(gpu.name) < TINY_TRANSFORMER_BYTES + 64 * 2**20


@pytest.mark.anyio
async def test_a_job_that_runs_out_of_the_gpus_memory_fails_and_the_next_one_draws(
    gpu, bench, gpu_settings, task_of
):
    from gpu_checks.studio import ballast

    fleet = ProcessFleet(gpu_settings)
    worker = WorkerStudio(fleet)
    try:
        task = task_of("text2img")
        before = await worker.draw(task)
        pid = fleet.worker().pid
        with ballast(bench, 0.25):
            failed = (await worker.draw(task.changed(width=8192, height=8192))).final
        after = await worker.draw(task)
        assert isinstance(failed, Failed)
        assert failed.error.code == "out_of_memory"
        assert failed.error.hint
        assert failed.loaded == ()
        assert isinstance(after.final, Done)
        assert after.pixels == before.pixels
        assert fleet.worker().pid == pid
    finally:
        await fleet.close()


@pytest.mark.anyio
async def test_a_worker_that_ended_holds_nothing_of_the_gpu(gpu, bench, gpu_settings, task_of):
    from gpu_checks.gpu import read_gpu

    def used_mib() -> float:
        bench.free()
        return float(read_gpu()["used_mib"])

    before = used_mib()
    fleet = ProcessFleet(gpu_settings)
    try:
        drawing = await WorkerStudio(fleet).draw(task_of("text2img"))
        assert drawing.final.memory.total_bytes > GIB
        assert used_mib() > before + CONTEXT_MIB
    finally:
        await fleet.close()
    assert used_mib() < before + JITTER_MIB
