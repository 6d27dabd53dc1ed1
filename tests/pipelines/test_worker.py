"""The worker process by itself: what it writes, and when it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from flux_mcp.jobs.process_fleet import worker_environment
from flux_mcp.models.user_rows import open_registry
from flux_mcp.worker_protocol.frames import encode, read_frame_blocking
from flux_mcp.worker_protocol.messages import (
    Cancelled,
    CancelMessage,
    Done,
    Failed,
    GeneratedImage,
    PrefetchMessage,
    Progress,
    RunMessage,
    WorkerReady,
    parse_event,
    weights_of,
)
from tests.pipelines.harness import Studio
from tests.pipelines.rows import add_own_model, darker

WORKER = [sys.executable, "-P", "-m", "flux_mcp.pipelines.worker"]


def send(process, message, blobs=None):
    process.stdin.write(b"".join(encode(message.model_dump(mode="json"), blobs)))
    process.stdin.flush()


def receive(process):
    return parse_event(read_frame_blocking(process.stdout).header)


def drawn(process, job_id, plan):
    """Draw a job to its end: its events, and the bytes of its images."""
    send(process, RunMessage(job_id=job_id, attempt=1, plan=plan))
    events, pixels = [], []
    while not events or events[-1].type not in ("done", "failed", "cancelled"):
        frame = read_frame_blocking(process.stdout)
        events.append(parse_event(frame.header))
        if isinstance(events[-1], GeneratedImage):
            pixels.append(frame.blobs["pixels"])
    return events, pixels


@pytest.fixture
def own_settings(settings, tmp_path):
    """A data folder with a model of its own, and no threshold for reading ahead."""
    changed = settings.model_copy(update={"data_dir": tmp_path, "prefetch_min_mb": 0})
    add_own_model(changed, "mine", darker)
    return changed


@pytest.fixture
def process(own_settings):
    with subprocess.Popen(
        WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=worker_environment(own_settings),
    ) as process:
        yield process
        process.kill()


def test_it_reads_ahead_what_comes_next_and_ends_in_the_middle_of_a_step_when_stdin_closes(
    process, own_settings, task_for, registry, torch_here
):
    task = task_for(registry.find("text2img", "micro"), steps=2)
    mine = open_registry(own_settings).find("text2img", "mine")
    other = task_for(mine, steps=2)
    # Cancelled while it waits for the libraries: it must never start.
    send(process, RunMessage(job_id="stopped", attempt=1, plan=task.plan))
    send(process, CancelMessage(job_id="stopped"))
    assert isinstance(receive(process), WorkerReady)
    assert isinstance(receive(process), Cancelled)

    # Weights that were read ahead draw the same image.
    send(process, RunMessage(job_id="first", attempt=1, plan=task.plan))
    while (first := receive(process)).type != "done":
        if first.type == "progress" and first.phase == "denoising":
            # The same message again changes nothing.
            send(process, PrefetchMessage(weights=weights_of(other.plan)))
    events, pixels = drawn(process, "second", other.plan)
    again, pixels_again = drawn(process, "third", other.plan)
    final = events[-1]
    assert all(isinstance(last, Done) for last in (first, final, again[-1]))
    assert first.prefetched_bytes == again[-1].prefetched_bytes == 0
    assert final.prefetched_bytes > 4_000_000
    changes = [e.loaded for e in events if isinstance(e, Progress) and e.loaded is not None]
    assert changes == [("text2img/micro", "text2img/mine")]
    assert not [e for e in again if isinstance(e, Progress) and e.loaded is not None]
    # What an engine draws that reads the files when the job comes.
    here = Studio(own_settings).draw(other)
    assert pixels == pixels_again == here.pixels
    assert final.weights_sha256 == here.figures.weights_sha256

    long = task.changed(width=256, height=256, steps=64, seeds=tuple(range(8)))
    send(process, RunMessage(job_id="long", attempt=1, plan=long.plan), long.inputs)
    while (event := receive(process)).type != "progress" or event.step < 2:
        assert event.job_id == "long"
    process.stdin.close()
    assert process.wait(60) == 0
    last = event
    while (frame := read_frame_blocking(process.stdout)) is not None:
        last = parse_event(frame.header)
    assert getattr(last, "step", 0) < long.plan.total_steps
    process.stdin = None  # closed above; Popen would close it again


def test_a_command_that_is_no_frame_ends_it(settings):
    result = subprocess.run(
        WORKER,
        input=b"\xff\xff\xff\xff nonsense",
        capture_output=True,
        env=worker_environment(settings),
        check=False,
    )
    assert result.returncode == 3
    assert b"BrokenFrameError" in result.stderr


@pytest.fixture
def noisy_broken_torch(tmp_path: Path) -> Path:
    """A start-up file that prints; a torch that prints in every way a library can, and fails."""
    (tmp_path / "sitecustomize.py").write_text("print('noise from a start-up file')\n")
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, sys\n"
        "print('noise from Python')\n"
        "os.write(1, b'noise from a native library\\n')\n"
        "os.system('echo noise from a child')\n"
        "sys.__stdout__.write('noise from stdout\\n')\n"
        "sys.__stdout__.flush()\n"
        "raise ImportError('libcudart.so.13: cannot open shared object file')\n"
    )
    return tmp_path


def test_nothing_but_frames_is_written_and_broken_libraries_fail_every_run(
    settings, task_for, registry, noisy_broken_torch
):
    plan = task_for(registry.find("text2img", "micro")).plan
    environment = {**worker_environment(settings), "PYTHONPATH": str(noisy_broken_torch)}
    with subprocess.Popen(
        WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        ready = receive(process)
        assert isinstance(ready, WorkerReady)
        assert ready.environment is None
        for job_id in ("one", "two"):
            send(process, RunMessage(job_id=job_id, attempt=1, plan=plan))
            failed = receive(process)
            assert isinstance(failed, Failed)
            assert failed.job_id == job_id
            assert failed.error.code == "engine_unavailable"
            assert "libcudart" in failed.error.message
            assert failed.error.hint
        output, log = process.communicate()
    assert output == b""
    for source in (b"a start-up file", b"Python", b"a native library", b"a child", b"stdout"):
        assert b"noise from " + source in log


def test_it_can_be_imported_without_torch():
    code = (
        "import sys, flux_mcp.pipelines.worker\n"
        "assert not {'torch', 'diffusers', 'transformers', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
