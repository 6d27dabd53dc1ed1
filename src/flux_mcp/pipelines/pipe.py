"""The worker's end of the pipe to its server: commands are read, events are written, as frames.

`CommandReader` reads stdin on a thread of its own, which ends the process when stdin ends: a server
that is killed leaves no worker behind. `EventWriter` writes to what was stdout when the worker
started, and `EventReporter` turns what the engine reports about one job into events.
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
"""Exit code after bytes that are no valid command."""


def claim_stdout() -> BinaryIO:
    """Return stdout as a stream for events, and send all else that is printed to stderr.

    File descriptor 1 is moved as well: native libraries print without asking Python.
    """
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Only now: what a start-up file printed goes to stderr as well.
    sys.stdout.flush()
    sys.stdout = sys.stderr
    return stream


class EventWriter:
    """Writes events; used by the main thread only."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def send(self, message: BaseModel, blobs: Mapping[str, bytes] | None = None) -> None:
        """Write one event. If the server's end is closed, this process ends."""
        try:
            for piece in encode(message.model_dump(mode="json"), blobs):
                self._stream.write(piece)
            self._stream.flush()
        except OSError:
            os._exit(0)


@dataclass(frozen=True)
class RunCommand:
    """A job to run, with its images, and whether it was cancelled since."""

    message: RunMessage
    inputs: Mapping[str, bytes]
    cancelled: threading.Event = field(default_factory=threading.Event)


class CommandReader:
    """Reads commands: jobs in their order, and cancellations, which set the job's flag.

    Args:
        stream: The frames.
        prefetch: Called with the weights to read ahead; must return at once.
    """

    def __init__(self, stream: BinaryIO, prefetch: Callable[[Weights | None], None]) -> None:
        self._stream = stream
        self._prefetch = prefetch
        self._jobs: queue.SimpleQueue[RunCommand] = queue.SimpleQueue()
        self._unfinished: dict[str, RunCommand] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start to read, on a thread of its own: a cancel must arrive while a job is drawn."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def next_job(self) -> RunCommand:
        """Wait for the next job."""
        return self._jobs.get()

    def finish(self, job: RunCommand) -> None:
        """Forget a job: a cancel for it is of no effect from here on."""
        with self._lock:
            if self._unfinished.get(job.message.job_id) is job:
                del self._unfinished[job.message.job_id]

    def _read(self) -> NoReturn:
        try:
            while (frame := read_frame_blocking(self._stream)) is not None:
                command = parse_command(frame.header)
                if isinstance(command, RunMessage):
                    job = RunCommand(command, frame.blobs)
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
        except BaseException:  # noqa: BLE001 - whatever it was, no command can be read any more
            traceback.print_exc()
            os._exit(BROKEN_STREAM_EXIT)
        # Not sys.exit: the main thread may be inside a kernel, and nothing is left to be saved.
        os._exit(0)


class _EventStamp(TypedDict):
    job_id: str
    attempt: int
    seq: int


class EventReporter:
    """Numbers one job's events and writes them: the `Reporter` of a job in the worker."""

    def __init__(self, message: RunMessage, writer: EventWriter) -> None:
        self._message = message
        self._writer = writer
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
        """Write how far the job is."""
        event = Progress(
            **self.stamp(),
            phase=phase,
            step=step,
            total_steps=self._message.plan.total_steps,
            eta_s=eta_s,
            message=message,
            loaded=loaded,
        )
        self._writer.send(event)

    def preview(self, index: int, step: int, webp: bytes, size: tuple[int, int]) -> None:
        """Write a small image of how it stands."""
        width, height = size
        event = Preview(**self.stamp(), index=index, step=step, width=width, height=height)
        self._writer.send(event, {"preview": webp})

    def image(self, index: int, seed: int, seconds: float, pixels: NDArray[np.uint8]) -> None:
        """Write a finished image."""
        height, width, _channels = pixels.shape
        event = GeneratedImage(
            **self.stamp(), index=index, seed=seed, width=width, height=height, seconds=seconds
        )
        self._writer.send(event, {"pixels": pixels.tobytes()})

    def stamp(self) -> _EventStamp:
        """Return the fields every event has, with the next sequence number."""
        stamp = _EventStamp(
            job_id=self._message.job_id, attempt=self._message.attempt, seq=self._seq
        )
        self._seq += 1
        return stamp
