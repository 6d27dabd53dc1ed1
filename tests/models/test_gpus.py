"""What plans count with: the GPU that draws, its free memory, what is ours on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flux_mcp.models.planning.machine import GpuReader

from .nvidia import RTX_4090, gpu, program, put_nvidia_smi


def test_memory_name_and_capability_are_read(tmp_path):
    found = GpuReader(tmp_path, put_nvidia_smi(tmp_path, [gpu()])).read()
    assert found.gpu.name == "NVIDIA GeForce RTX 4090"
    assert found.gpu.total_gib == pytest.approx(23.99, abs=0.01)
    assert found.gpu.free_gib == pytest.approx(19.53, abs=0.01)
    assert found.gpu.compute == 8.9
    assert found.ram_gib > 0.5


def test_the_gpu_a_worker_named_is_taken_among_several(tmp_path):
    small = gpu("GPU-0", "NVIDIA T400", total_mib=4096, free_mib=4000, compute="7.5")
    reader = GpuReader(tmp_path, put_nvidia_smi(tmp_path, [small, gpu()]))
    assert reader.read().gpu.name == "NVIDIA T400"
    assert reader.read(RTX_4090).gpu.free_gib > 19, "also within the time an answer is kept"


def test_an_answer_is_kept_for_some_seconds(tmp_path):
    now_s = [0.0]
    reader = GpuReader(tmp_path, put_nvidia_smi(tmp_path, [gpu()]), lambda: now_s[0])
    for now_s[0] in (0.0, 1.0, 4.9):
        assert reader.read() is not None
    asked = (tmp_path / "asked").stat().st_size
    now_s[0] = 6.0
    reader.read()
    assert (tmp_path / "asked").stat().st_size == 2 * asked


def test_what_our_own_worker_holds_counts_as_free_and_nothing_else_does(tmp_path):
    """Three real processes: our worker, another folder's worker, and some other program."""
    wait = "import sys; print('up', flush=True); sys.stdin.read()"

    def start(*words: str, data_dir: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", wait, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "FLUX_MCP_DATA_DIR": str(data_dir)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    ours = start("-m", "flux_mcp.pipelines.worker", data_dir=tmp_path)
    theirs = start("-m", "flux_mcp.pipelines.worker", data_dir=tmp_path / "elsewhere")
    other = start(data_dir=tmp_path)
    try:
        held = [
            program(process.pid, mib)
            for process, mib in ((ours, 1024), (theirs, 512), (other, 256))
        ]
        elsewhere = program(ours.pid, 4096, uuid="GPU-2")
        tool = put_nvidia_smi(tmp_path, [gpu()], [*held, elsewhere])
        found = GpuReader(tmp_path, tool).read()
    finally:
        for process in (ours, theirs, other):
            process.communicate()
    assert found.gpu.free_gib == pytest.approx((20000 + 1024) / 1024)


@pytest.mark.parametrize(
    "told",
    [
        gpu("GPU-1", "NVIDIA GB10", total_mib="[N/A]", free_mib="[N/A]", compute="12.1"),
        gpu("GPU-1", "NVIDIA A100-SXM4-40GB", total_mib=40960, free_mib=40000, mig="Enabled"),
    ],
    ids=["memory of the machine", "split into instances"],
)
def test_a_gpu_whose_memory_is_not_its_own_or_not_all_ours_is_planned_without(tmp_path, told):
    reader = GpuReader(tmp_path, put_nvidia_smi(tmp_path, [told]))
    assert reader.read() is None
    assert reader.ask().gpus[0].name == told["name"]


def test_a_tool_that_does_not_tell_is_no_gpu(tmp_path):
    assert GpuReader(tmp_path, put_nvidia_smi(tmp_path, [])).read() is None
    assert GpuReader(tmp_path, put_nvidia_smi(tmp_path, [gpu()], code=9)).read() is None


def test_without_the_tool_there_is_no_gpu(tmp_path):
    assert GpuReader(tmp_path, None).read() is None
    assert GpuReader(tmp_path, str(tmp_path / "gone")).read() is None
