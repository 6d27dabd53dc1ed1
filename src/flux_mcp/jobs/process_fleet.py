"""ProcessFleet: the worker as a child process, started when needed, replaced when lost.

`ProcessFleet` decides which process is the current one and who may use it. `WorkerProcess` is one
such process: its pipes, the task that reads its events, and what it last said of itself.
`worker_environment` is the environment a worker is started with.

The protocol is frames over stdin and stdout (worker_protocol/). A worker ends when its stdin is
closed: a server that is killed leaves no orphan.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextvars import Context
from pathlib import Path
from typing import IO, TypeVar

from pydantic import ValidationError

from flux_mcp.jobs.fleet import Assignment, Report, WorkerInfo, WorkerLost, WorkerNotStarted
from flux_mcp.settings.environment import all_variables
from flux_mcp.settings.settings import WORKER_SETTINGS, Settings
from flux_mcp.worker_protocol.frames import BrokenFrameError, encode, read_frame
from flux_mcp.worker_protocol.messages import (
    FINAL_EVENTS,
    CancelMessage,
    Environment,
    Event,
    Memory,
    PrefetchMessage,
    Progress,
    RunMessage,
    Weights,
    WorkerReady,
    parse_event,
    pipeline_key,
)

logger = logging.getLogger(__name__)

S = TypeVar("S", asyncio.StreamReader, asyncio.StreamWriter)

STREAM_LIMIT_BYTES = 8 * 1024 * 1024
"""Read ahead from the worker before it is made to wait (a 1 MP image is 3 MB); a frame may be
larger."""
MAX_LOG_BYTES = 2 * 1024 * 1024
EXIT_PATIENCE_S = 5.0
"""A worker whose stdin was closed ends at once; one that is stuck in a driver is ended."""
WORKER_ID = "worker-0"
"""Names the one worker in metrics."""
# -P: the folder the server was started in must not shadow torch or the standard library.
WORKER_COMMAND = (sys.executable, "-P", "-m", "flux_mcp.pipelines.worker")
TOKEN_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""Only the downloading process gets them (downloads.py)."""


# --- the fleet ---------------------------------------------------------------------------------


class ProcessFleet:
    """One worker, started when it is first needed. Implements `fleet.Fleet`."""

    def __init__(self, settings: Settings, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._process: WorkerProcess | None = None
        self._environment: Environment | None = None
        self._starts = 0
        self._starting = asyncio.Lock()
        self._slot = asyncio.Lock()
        self._is_closed = False

    def worker(self) -> WorkerInfo:
        """Return how the worker stands, without asking it."""
        process = self._live_process()
        return WorkerInfo(
            worker_id=WORKER_ID,
            is_running=process is not None,
            loaded=() if process is None else process.loaded,
            waiting=() if process is None else process.waiting,
            environment=self._environment,
            pid=None if process is None else process.pid,
            memory=None if process is None else process.memory,
            starts=self._starts,
            used=() if process is None else process.used,
        )

    async def warm(self) -> None:
        """Start the worker and wait until it is ready.

        Raises:
            WorkerLost: it died while starting.
        """
        process = await self._started()
        await process.ready()

    async def run(self, assignment: Assignment) -> AsyncGenerator[Report, None]:
        """Draw, yielding every event of this job and attempt; the last is a final one.

        A consumer that stops early cancels the job; the next run waits until the worker has
        stopped, or ends it.

        Raises:
            WorkerNotStarted: the worker died before it was ready.
            WorkerLost: the worker died before a final event.
        """
        async with self._slot:
            process = await self._started()
            if not await process.is_idle_within(self._settings.cancel_grace_s):
                await process.end()
            if process.is_lost:
                process = await self._started()
            events = process.begin(assignment)
            try:
                await process.send(
                    RunMessage(
                        job_id=assignment.job_id,
                        attempt=assignment.attempt,
                        plan=assignment.plan,
                        preview_every_steps=self._settings.preview_every_steps,
                        preview_interval_s=self._settings.preview_interval_s,
                    ),
                    assignment.inputs,
                )
                while True:
                    report = await events.get()
                    if report is None:
                        raise process.lost()
                    yield report
                    if isinstance(report.event, FINAL_EVENTS):
                        return
            finally:
                process.abandon(assignment)

    async def cancel(self, job_id: str) -> None:
        """Ask for the job to stop at the next step; harmless for a job that is not running."""
        process = self._live_process()
        if process is not None:
            process.cancel(job_id)

    async def prefetch(self, weights: Weights | None) -> None:
        """Have the worker read weights into its memory while it draws; `None` for no more."""
        process = self._live_process()
        if process is not None:
            process.prefetch(weights)

    async def kill(self) -> None:
        """End the worker at once; a job running on it raises `WorkerLost`."""
        async with self._starting:
            if self._process is not None:
                await self._process.end()

    async def release(self) -> None:
        """Let an idle worker exit. One that is drawing is left alone."""
        async with self._starting:
            if self._process is not None and not self._slot.locked():
                await self._process.release()

    async def close(self) -> None:
        """End the worker and wait until it is gone; a job running on it raises `WorkerLost`."""
        self._is_closed = True
        async with self._starting:
            if self._process is not None:
                await self._process.release()

    def _live_process(self) -> "WorkerProcess | None":
        return None if self._process is None or self._process.is_lost else self._process

    async def _started(self) -> "WorkerProcess":
        async with self._starting:
            if self._is_closed:
                raise WorkerLost("The fleet is closed.")
            process = self._live_process()
            if process is None:
                if self._process is not None:
                    await self._process.end()
                process = self._process = await WorkerProcess.start(
                    self._settings, self._command, self._remember
                )
                self._starts += 1
            return process

    def _remember(self, environment: Environment | None) -> None:
        self._environment = environment


# --- one process -------------------------------------------------------------------------------


class WorkerProcess:
    """One process and the task that reads its events. Once lost it is never used again."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        remember: Callable[[Environment | None], None],
    ) -> None:
        self._process = process
        self._remember = remember
        self._up = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._current: tuple[str, int] | None = None
        self._events: asyncio.Queue[Report | None] | None = None
        self._broken = ""
        self._was_ready = False
        self.is_lost = False
        self.loaded: tuple[str, ...] = ()
        self.used: tuple[str, ...] = ()
        self._pipeline = ""
        self.waiting: tuple[str, ...] = ()
        self.memory: Memory | None = None
        # In a context of its own: it outlives the job that the process was started for.
        self._reader = asyncio.create_task(
            self._read(), name=f"worker {process.pid}", context=Context()
        )

    @classmethod
    async def start(
        cls,
        settings: Settings,
        command: Sequence[str],
        remember: Callable[[Environment | None], None],
    ) -> "WorkerProcess":
        """Start a worker; it takes commands at once and draws when its libraries are there."""
        try:
            with open_worker_log(settings.paths.worker_log) as log:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env=worker_environment(settings),
                    limit=STREAM_LIMIT_BYTES,
                )
        except OSError as error:
            raise WorkerNotStarted(f"The worker cannot be started: {error}.") from error
        logger.info("worker started", extra={"pid": process.pid})
        return cls(process, remember)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ready(self) -> None:
        """Wait until the worker has said that it is ready.

        Raises:
            WorkerLost: it died before.
        """
        await self._up.wait()
        if self.is_lost:
            raise self.lost()

    async def is_idle_within(self, seconds: float) -> bool:
        """Wait for a job whose consumer is gone to end."""
        # Not wait_for: in Python 3.11 it loses a cancellation that comes as the wait ends
        # (python/cpython#86296), and the executor would then never stop.
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def begin(self, assignment: Assignment) -> "asyncio.Queue[Report | None]":
        """Take a job's events from here on; `None` comes when the worker is lost."""
        self._current = (assignment.job_id, assignment.attempt)
        self._pipeline = pipeline_key(assignment.plan)
        self._mark_used()
        self._idle.clear()
        self._events = asyncio.Queue()
        if self.is_lost:
            self._events.put_nowait(None)
        return self._events

    def abandon(self, assignment: Assignment) -> None:
        """Stop waiting for a job, and cancel it if it still runs."""
        self._events = None
        if self._current == (assignment.job_id, assignment.attempt):
            self.cancel(assignment.job_id)

    async def send(self, message: RunMessage, blobs: Mapping[str, bytes]) -> None:
        """Write a command and wait until the pipe has taken it.

        Raises:
            WorkerLost: the pipe is closed at its other end.
        """
        stdin = _pipe(self._process.stdin)
        try:
            # All pieces before the first await: a cancel must not come between them.
            for piece in encode(message.model_dump(mode="json"), blobs):
                stdin.write(piece)
            await stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            await self.end()
            raise self.lost() from error

    def cancel(self, job_id: str) -> None:
        """Write a cancel; a pipe that is closed is noticed by the reader."""
        self._write(CancelMessage(job_id=job_id))

    def prefetch(self, weights: Weights | None) -> None:
        """Write which weights to read ahead; nothing answers it."""
        self._write(PrefetchMessage(weights=weights))

    def _write(self, message: CancelMessage | PrefetchMessage) -> None:
        stdin = _pipe(self._process.stdin)
        if self.is_lost or stdin.is_closing():
            return
        for piece in encode(message.model_dump(mode="json")):
            stdin.write(piece)

    async def release(self) -> None:
        """Close stdin, which ends an intact worker; end it if it does not."""
        _pipe(self._process.stdin).close()
        await asyncio.wait({self._reader}, timeout=EXIT_PATIENCE_S)
        await self.end()

    async def end(self) -> None:
        """Kill the process and wait until it and its pipes are gone."""
        self._kill()
        await asyncio.wait({self._reader})

    def lost(self) -> WorkerLost:
        """Say how the worker ended."""
        code = self._process.returncode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by signal {_signal_name(-code)}"
        if not self._was_ready:
            return WorkerNotStarted(f"The worker ended while it started, {how}.{self._broken}")
        return WorkerLost(f"The worker ended {how}.{self._broken}")

    async def _read(self) -> None:
        stdout = _pipe(self._process.stdout)
        try:
            while (frame := await read_frame(stdout)) is not None:
                self._take(parse_event(frame.header), frame.blobs)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_PATIENCE_S):
                    await self._process.wait()
        except (BrokenFrameError, ValidationError, ConnectionError) as error:
            self._broken = f" Before that it broke its stream: {error}."
        finally:
            self._kill()
            # Read to the end: asyncio closes a process's pipes only when they are empty.
            with contextlib.suppress(ConnectionError):
                while await stdout.read(STREAM_LIMIT_BYTES):
                    pass
            await self._process.wait()
            _pipe(self._process.stdin).close()
            self._end_everything()

    def _take(self, event: Event, blobs: Mapping[str, bytes]) -> None:
        if isinstance(event, WorkerReady):
            self._remember(event.environment)
            self.memory = event.memory
            self._was_ready = True
            self._up.set()
            return
        if (event.job_id, event.attempt) != self._current:
            return
        if isinstance(event, Progress) and event.loaded is not None:
            self.loaded = event.loaded
        if isinstance(event, FINAL_EVENTS):
            self.loaded, self.memory = event.loaded, event.memory
            self._mark_used()
            self.waiting = event.waiting
            self._current = None
            self._idle.set()
        if self._events is not None:
            self._events.put_nowait(Report(event, blobs))

    def _mark_used(self) -> None:
        """Put the current job's pipeline behind all others, once it is loaded."""
        if self._pipeline in self.loaded:
            others = (pipeline for pipeline in self.used if pipeline != self._pipeline)
            self.used = (*others, self._pipeline)

    def _end_everything(self) -> None:
        self.is_lost = True
        logger.info("worker ended", extra={"pid": self.pid, "reason": str(self.lost())})
        self._up.set()
        self._idle.set()
        if self._events is not None:
            self._events.put_nowait(None)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _pipe(stream: S | None) -> S:
    if stream is None:
        raise ValueError("the worker was started without pipes")
    return stream


def open_worker_log(path: Path) -> IO[bytes]:
    """Open the worker's log for appending; a large one is put aside first, replacing the last.

    Where it cannot be written, what the worker says is lost, with a warning: it can draw.
    """
    try:
        return _open_for_appending(path)
    except OSError as error:
        logger.warning("the worker's log cannot be written", extra={"reason": error.strerror})
        return Path(os.devnull).open("wb")


def _open_for_appending(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Windows does not move a file that another process writes to; the log then grows on.
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


# --- its environment ---------------------------------------------------------------------------


def worker_environment(settings: Settings) -> dict[str, str]:
    """Return the whole environment of a worker process.

    It is made before any Hugging Face import there, because those libraries read their variables
    when they are imported. The hub is offline and remote code is off, whatever the caller's shell
    says; progress bars and warnings of the libraries stay out of the log. Source: diffusers 0.42.1,
    huggingface_hub 2.4.
    """
    inherited = {
        name: value
        for name, value in all_variables().items()
        # Unbuffered, a start-up file that prints would write into the frames before we can stop it.
        if name != "PYTHONUNBUFFERED"
        # The worker gets settings from this process alone: a second reading would miss flags and
        # files, and would hand it secrets.
        and not name.upper().startswith("FLUX_MCP_")
        and name not in TOKEN_VARIABLES
    }
    return {
        **inherited,
        "HF_HOME": str(settings.paths.hf_cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DIFFUSERS_DISABLE_REMOTE_CODE": "true",
        "DIFFUSERS_TRUST_REMOTE_KERNELS": "false",
        "DIFFUSERS_GGUF_CUDA_KERNELS": "false",
        # Plans name what computes attention; without a name it must not be the shell that does.
        "DIFFUSERS_ATTN_BACKEND": "native",
        # What torch compiles is kept for the workers that follow (torch 2.13, _inductor).
        "TORCHINDUCTOR_CACHE_DIR": str(settings.paths.compiled),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "DIFFUSERS_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        **_settings_as_environment(settings),
    }


def _settings_as_environment(settings: Settings) -> Mapping[str, str]:
    """Hand a worker the settings it reads, all of them and no other, and no file to read."""
    chosen = settings.model_dump(mode="json", include=set(WORKER_SETTINGS), exclude_none=True)
    as_text = {n: v if isinstance(v, str) else json.dumps(v) for n, v in chosen.items()}
    variables = {f"FLUX_MCP_{name.upper()}": text for name, text in as_text.items()}
    return {**variables, "FLUX_MCP_CONFIG": os.devnull}
