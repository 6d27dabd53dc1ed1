"""What is read from nvidia-smi, whatever it answers; a program stands in that answers like it."""

import os
from pathlib import Path

import psutil
import pytest

from flux_mcp.models.planning import machine as driver
from flux_mcp.models.planning.machine import DriverGpu, ask_driver, nvidia_tool

from .nvidia import RTX_4090, gpu, program, put_nvidia_smi

NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)


def only(tool: str) -> DriverGpu:
    (found,) = ask_driver(tool).gpus
    return found


def test_a_gpu_is_told_with_its_driver_and_capability(tmp_path: Path):
    found = only(put_nvidia_smi(tmp_path, [gpu()]))
    assert (found.name, found.uuid, found.driver) == (RTX_4090, "GPU-1", "580.95.05")
    assert (found.compute, found.is_split) == (8.9, False)
    assert found.total_gib == pytest.approx(24564 / 1024)
    assert found.free_gib == pytest.approx(20000 / 1024)


def test_each_of_two_gpus_has_its_own_programs(tmp_path: Path):
    gpus = [gpu("GPU-1"), gpu("GPU-2", "NVIDIA T400, rev. 2", total_mib=4096, free_mib=3000)]
    programs = [
        program(os.getpid(), 512, uuid="GPU-1"),
        program(2**22 + 1, 96, uuid="GPU-2", name="C:\\Program Files\\Blender, 4\\blender.exe"),
    ]
    first, second = ask_driver(put_nvidia_smi(tmp_path, gpus, programs)).gpus
    assert second.name == "NVIDIA T400, rev. 2"
    (mine,), (gone,) = first.programs, second.programs
    assert (mine.pid, mine.name) == (os.getpid(), psutil.Process().name())
    assert (mine.used_gib, mine.data_dir) == (0.5, None)
    assert gone.name == "blender.exe", "the system does not know it; the driver does"
    assert second.other_gib == pytest.approx((4096 - 3000 - 96) / 1024)


def test_what_the_driver_does_not_tell_stays_unknown(tmp_path: Path):
    shared = gpu(name="NVIDIA GB10", total_mib="[N/A]", free_mib="[N/A]", compute="[N/A]")
    hidden = program(2**22 + 1, "[N/A]", name="[Insufficient Permissions]")
    found = only(put_nvidia_smi(tmp_path, [shared], [hidden]))
    assert (found.total_gib, found.free_gib, found.compute, found.other_gib) == (None,) * 4
    (one,) = found.programs
    assert (one.name, one.used_gib) == (None, None)


def test_a_gpu_split_into_instances_says_so(tmp_path: Path):
    assert only(put_nvidia_smi(tmp_path, [gpu(mig="Enabled")])).is_split
    assert not only(put_nvidia_smi(tmp_path, [gpu(mig="Disabled")])).is_split


@pytest.mark.parametrize("code", [0, 6])
def test_under_wsl_a_gpu_is_told_without_programs(tmp_path: Path, code: int):
    found = only(put_nvidia_smi(tmp_path, [gpu()], None, programs_code=code))
    assert found.programs == ()
    assert found.other_gib == pytest.approx((24564 - 20000) / 1024)


def test_why_no_gpu_is_known_is_told(tmp_path: Path):
    broken = ask_driver(put_nvidia_smi(tmp_path, [gpu()], code=9, words=NO_DRIVER))
    assert broken.gpus == ()
    assert broken.problem == f"nvidia-smi ended with 9: {NO_DRIVER}"
    assert ask_driver(put_nvidia_smi(tmp_path)).problem == "nvidia-smi lists no GPU."
    old = gpu()
    del old["compute_cap"]
    said = ask_driver(put_nvidia_smi(tmp_path, [old])).problem
    assert said == 'nvidia-smi ended with 2: Field "compute_cap" is not a valid field to query.'


def test_a_tool_that_hangs_is_left(tmp_path: Path):
    tool = put_nvidia_smi(tmp_path, [gpu()], hangs=True)
    assert ask_driver(tool, timeout_s=0.5).problem == "nvidia-smi did not answer within 0.5 s."


def test_a_tool_that_cannot_be_run_is_told(tmp_path: Path):
    assert ask_driver(None).problem is None
    gone = ask_driver(str(tmp_path / "gone"))
    assert gone.problem == "nvidia-smi cannot be run: No such file or directory."
    (tmp_path / "nvidia-smi").write_text("no program", encoding="utf-8")
    assert "Permission denied" in (ask_driver(str(tmp_path / "nvidia-smi")).problem or "")


def test_the_tool_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = put_nvidia_smi(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_tool() == tool


def test_under_wsl_it_is_found_off_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(driver, "WSL_TOOL", tmp_path / "nvidia-smi")
    assert nvidia_tool() is None
    tool = put_nvidia_smi(tmp_path)
    assert nvidia_tool() == tool
