"""A worker without torch: it speaks the real protocol and draws black images at once.

It holds a job of many steps at its second one, if told to: until the job is cancelled, or somebody
ends this process or the server it belongs to.
"""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from flux_mcp.worker_protocol.frames import encode, read_frame_blocking
from flux_mcp.worker_protocol.messages import (
    Cancelled,
    CancelMessage,
    Done,
    Environment,
    GeneratedImage,
    Progress,
    RunMessage,
    WorkerReady,
    parse_command,
)

MANY = 64
ENVIRONMENT = Environment(
    torch="2.0",
    diffusers="0",
    transformers="5",
    device="cpu",
    device_name="light",
    threads=1,
    platform="light",
)


def send(message: Any, blobs: Mapping[str, bytes] | None = None) -> None:
    for piece in encode(message.model_dump(mode="json"), blobs):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def hold(job_id: str) -> None:
    """Wait for a cancel of the job; end with the server."""
    while (frame := read_frame_blocking(sys.stdin.buffer)) is not None:
        if parse_command(frame.header) == CancelMessage(job_id=job_id):
            return
    os._exit(0)


def run(message: RunMessage) -> None:
    plan = message.plan
    stamp: dict[str, Any] = {"job_id": message.job_id, "attempt": message.attempt, "seq": 0}
    loaded = (f"{plan.kind}/{plan.model}",)
    for phase, step in (("loading", 0), ("encoding", 0), ("denoising", min(2, plan.total_steps))):
        send(Progress(**stamp, phase=phase, step=step, total_steps=plan.total_steps))
    if plan.steps >= MANY and os.environ["LIGHT_WORKER_HOLDS"] == "yes":
        hold(message.job_id)
        send(Cancelled(**stamp, loaded=loaded))
        return
    for index, seed in enumerate(plan.seeds):
        size = {"width": plan.width, "height": plan.height}
        send(
            GeneratedImage(**stamp, **size, index=index, seed=seed, seconds=0.1),
            {"pixels": bytes(3 * plan.width * plan.height)},
        )
    send(Done(**stamp, load_s=0.1, draw_s=0.1, weights_sha256="0" * 64, loaded=loaded))


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # as the real one: Ctrl-C is the server's to answer
    send(WorkerReady(pid=os.getpid(), environment=ENVIRONMENT))
    while (frame := read_frame_blocking(sys.stdin.buffer)) is not None:
        command = parse_command(frame.header)
        if isinstance(command, RunMessage):
            run(command)


if __name__ == "__main__":
    main()
