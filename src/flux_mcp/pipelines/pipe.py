"""The worker's end of the wire: commands from stdin, events to what was stdout when it started.

Both are frames. Owns the streams and the thread that reads, which ends the process at once when
stdin ends, so a killed server leaves no orphan. Knows not how a job is drawn.
"""

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from flux_mcp.worker_protocol.frames import encode, read_frame_blocking
from flux_mcp.worker_protocol.messages import (
    CancelMessage,
    GeneratedImage,
    Phase,
    Preview,
    Progress,
    RunMessage,
    Weights,
    parse_command,
)

BROKEN_STREAM_EXIT = 3
"""Exit code after a command that is not one of ours."""


def claim_stdout() -> BinaryIO:
    """Return the stream to the executor, and point everything else that is printed at stderr.

    File descriptor 1 is moved as well: native libraries print without asking Python.
    """
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Only now: what a start-up file printed goes to stderr as well.
    sys.stdout.flush()
    sys.stdout = sys.stderr
    return wire


class Pipe:
    """Writes events; the main thread is its only user."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def send(self, message: BaseModel, blobs: Mapping[str, bytes] | None = None) -> None:
        """Write one event. A reader that is gone ends this process."""
        try:
            for piece in encode(message.model_dump(mode="json"), blobs):
                self._stream.write(piece)
            self._stream.flush()
        except OSError:
            os._exit(0)


@dataclass(frozen=True)
class WorkerJob:
    """A run command with its images, and whether it was cancelled since."""

    message: RunMessage
    blobs: Mapping[str, bytes]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Inbox:
    """Commands from stdin: jobs in their order, and the flags that cancel them.

    Args:
        stream: Where frames come from.
        prefetch: Told at once which weights to read ahead; returns at once.
    """

    def __init__(self, stream: BinaryIO, prefetch: Callable[[Weights | None], None]) -> None:
        self._stream = stream
        self._prefetch = prefetch
        self._jobs: queue.SimpleQueue[WorkerJob] = queue.SimpleQueue()
        self._unfinished: dict[str, WorkerJob] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to read, on a thread of its own: a cancel must arrive while a job is drawn."""
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next_job(self) -> WorkerJob:
        """Wait for the next job."""
        return self._jobs.get()

    def finish(self, job: WorkerJob) -> None:
        """Forget a job: a cancel for it is of no effect from here on."""
        with self._lock:
            if self._unfinished.get(job.message.job_id) is job:
                del self._unfinished[job.message.job_id]

    def _read(self) -> NoReturn:
        try:
            while (frame := read_frame_blocking(self._stream)) is not None:
                command = parse_command(frame.header)
                if isinstance(command, RunMessage):
                    job = WorkerJob(command, frame.blobs)
                    with self._lock:
                        self._unfinished[command.job_id] = job
                    self._jobs.put(job)
                elif isinstance(command, CancelMessage):
                    with self._lock:
                        job_to_stop = self._unfinished.get(command.job_id)
                    if job_to_stop is not None:
                        job_to_stop.cancelled.set()
                else:
                    self._prefetch(command.weights)
        except BaseException:  # noqa: BLE001 - whatever it was, nobody can command us any more
            traceback.print_exc()
            os._exit(BROKEN_STREAM_EXIT)
        # Not sys.exit: the main thread may be inside a kernel, and nothing is left to be saved.
        os._exit(0)


class _Stamp(TypedDict):
    job_id: str
    attempt: int
    seq: int


class JobEvents:
    """Numbers one job's events and writes them: the `Reports` of steps.py."""

    def __init__(self, message: RunMessage, wire: Pipe) -> None:
        self._message = message
        self._wire = wire
        self._seq = 0

    def progress(
        self,
        phase: Phase,
        step: int,
        *,
        eta_s: float | None = None,
        message: str = "",
        loaded: tuple[str, ...] | None = None,
    ) -> None:
        """Send how far the job is."""
        event = Progress(
            **self.stamp(),
            phase=phase,
            step=step,
            total_steps=self._message.plan.total_steps,
            eta_s=eta_s,
            message=message,
            loaded=loaded,
        )
        self._wire.send(event)

    def preview(self, index: int, step: int, webp: bytes, size: tuple[int, int]) -> None:
        """Send a small image of how it stands."""
        width, height = size
        event = Preview(**self.stamp(), index=index, step=step, width=width, height=height)
        self._wire.send(event, {"preview": webp})

    def image(self, index: int, seed: int, seconds: float, pixels: NDArray[np.uint8]) -> None:
        """Send a finished image."""
        height, width, _channels = pixels.shape
        event = GeneratedImage(
            **self.stamp(), index=index, seed=seed, width=width, height=height, seconds=seconds
        )
        self._wire.send(event, {"pixels": pixels.tobytes()})

    def stamp(self) -> _Stamp:
        """Return the fields every event has, with the next sequence number."""
        stamp = _Stamp(job_id=self._message.job_id, attempt=self._message.attempt, seq=self._seq)
        self._seq += 1
        return stamp
