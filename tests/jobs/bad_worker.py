"""A worker process for tests: speaks the real protocol, with one bad habit given as argument.

good         draws black images
patient      draws black images; a job whose prompt begins with "wait" it only begins, until that
             is cancelled, or with "wait for the next attempt" until this one ends; with the
             variable LIGHT_WORKER_HOLDS=yes so does each job of many steps
deaf         reports one step, then neither listens nor draws
listens      reports one step, then waits for a cancel of that job
dies         exits in the middle of a job
garbage      writes bytes that are no frame
no images  says it is done without having drawn
no engine    cannot import torch
confused     mixes in events of another job and of an older attempt
"""

import os
import random
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from flux_mcp.requests.plan import RenderPlan
from flux_mcp.worker_protocol.frames import encode, read_frame_blocking
from flux_mcp.worker_protocol.messages import (
    Cancelled,
    CancelMessage,
    Done,
    Environment,
    ErrorInfo,
    Failed,
    GeneratedImage,
    Progress,
    RunMessage,
    WorkerReady,
    parse_command,
)

MANY_STEPS = 64
PATCH_PX = 4
REPORT_S = 0.5
"""How often a job that takes its time reports."""
ENVIRONMENT = Environment(
    torch="2.0",
    diffusers="0",
    transformers="5",
    device="cpu",
    device_name="test",
    threads=1,
    platform="test",
)


def send(message: Any, blobs: Mapping[str, bytes] | None = None) -> None:
    for piece in encode(message.model_dump(mode="json"), blobs):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def wait_for_cancel(job_id: str) -> None:
    while (frame := read_frame_blocking(sys.stdin.buffer)) is not None:
        if parse_command(frame.header) == CancelMessage(job_id=job_id):
            return
    os._exit(0)  # whoever wanted it is gone


def is_cancelled_within(seconds: float, job_id: str, report: Callable[..., None]) -> bool:
    """Take some time, report steps, and listen for a cancel of the job."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        report("denoising", 1)
        if select.select([sys.stdin], [], [], min(left, REPORT_S))[0]:
            frame = read_frame_blocking(sys.stdin.buffer)
            if frame is None:
                os._exit(0)  # whoever wanted it is gone
            if parse_command(frame.header) == CancelMessage(job_id=job_id):
                return True
    return False


def waits(message: RunMessage) -> bool:
    if os.environ.get("LIGHT_WORKER_HOLDS") == "yes" and message.plan.steps >= MANY_STEPS:
        return True
    prompt = message.plan.prompt
    return prompt.startswith("wait") and not (
        prompt.startswith("wait for the next attempt") and message.attempt > 1
    )


def is_cancelled(message: RunMessage, habit: str, report: Callable[..., None]) -> bool:
    """Whether a job that waits, or takes its time, ended with a cancel."""
    if habit == "listens" or (habit == "patient" and waits(message)):
        wait_for_cancel(message.job_id)
        return True
    takes = re.match(r"take (\d+) s\b", message.plan.prompt) if habit == "patient" else None
    return takes is not None and is_cancelled_within(int(takes[1]), message.job_id, report)


def pixels(plan: RenderPlan, seed: int) -> bytes:
    if "patches" not in plan.prompt:
        return bytes(3 * plan.width * plan.height)
    chance = random.Random(seed)
    lines = []
    for _ in range(plan.height // PATCH_PX):
        line = b"".join(chance.randbytes(3) * PATCH_PX for _ in range(plan.width // PATCH_PX))
        lines.append(line * PATCH_PX)
    return b"".join(lines)


def draw(plan: RenderPlan, stamp: Any, report: Callable[..., None]) -> None:
    size = {"width": plan.width, "height": plan.height}
    for index, seed in enumerate(plan.seeds):
        done, last = index * plan.steps, (index + 1) * plan.steps
        for step in range(done, last + 1):
            report("denoising", step)
        report("decoding", last)
        send(
            GeneratedImage(**stamp, **size, index=index, seed=seed, seconds=0.1),
            {"pixels": pixels(plan, seed)},
        )


def run(message: RunMessage, habit: str) -> None:
    plan = message.plan
    stamp = {"job_id": message.job_id, "attempt": message.attempt, "seq": 0}
    if habit == "no engine":
        error = ErrorInfo(code="engine_unavailable", message="no torch", hint="install it")
        send(Failed(**stamp, error=error))
        return
    loaded = (f"{plan.kind}/{plan.model}",)
    is_kept_waiting = habit == "patient" and waits(message)

    def report(phase: str, step: int = 0) -> None:
        send(Progress(**stamp, phase=phase, step=step, total_steps=plan.total_steps))

    report("loading")
    report("encoding")
    if habit not in ("good", "patient") or is_kept_waiting:
        report("denoising", 2 if is_kept_waiting else 1)
    if habit == "confused":
        send(Cancelled(**{**stamp, "attempt": message.attempt - 1}))
        send(Failed(**{**stamp, "job_id": "job_other"}, error=ErrorInfo(code="x", message="x")))
    if habit == "deaf":
        threading.Event().wait()
    if is_cancelled(message, habit, report):
        send(Cancelled(**stamp, loaded=loaded))
        return
    if habit == "dies":
        os._exit(7)
    if habit == "garbage":
        sys.stdout.buffer.write(b"\xff" * 64)
        sys.stdout.buffer.flush()
        threading.Event().wait()
    if habit != "no images":
        draw(plan, stamp, report)
    send(Done(**stamp, load_s=0.0, draw_s=0.1, weights_sha256="0" * 64, loaded=loaded))


def main() -> None:
    habit = sys.argv[1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the real one: Ctrl-C is the server's
    send(WorkerReady(pid=os.getpid(), environment=ENVIRONMENT))
    while (frame := read_frame_blocking(sys.stdin.buffer)) is not None:
        command = parse_command(frame.header)
        if isinstance(command, RunMessage):
            run(command, habit)


if __name__ == "__main__":
    main()
