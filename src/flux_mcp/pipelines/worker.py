"""The worker process: `python -m flux_mcp.pipelines.worker`.

Owns the engine (engine.py) and draws one job at a time on the main thread, commanded and heard over
stdin and stdout (wire.py). Knows nothing of queues, galleries or MCP.

Importable without torch: the libraries are imported in `main`.
"""

import faulthandler
import logging
import os
import signal
import sys
import traceback
from typing import NoReturn

from flux_mcp.errors import (
    EngineUnavailableError,
    FluxMcpError,
    InternalError,
    JobCancelledError,
    OutOfMemoryError,
)
from flux_mcp.pipelines.device import (
    choose_device,
    configure_threads,
    describe,
    is_device_fault,
    is_out_of_memory,
)
from flux_mcp.pipelines.engine import Engine, LoadedJob
from flux_mcp.pipelines.memory.prefetch import Prefetcher
from flux_mcp.pipelines.pipe import Inbox, JobEvents, Pipe, WorkerJob, claim_stdout
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import (
    Cancelled,
    Done,
    ErrorInfo,
    Failed,
    WorkerReady,
)

DEVICE_FAULT_EXIT = 4
"""Exit code after a fault of the GPU: only a new process gets a working context."""


def run_job(job: WorkerJob, engine: Engine | FluxMcpError, wire: Pipe, inbox: Inbox) -> None:
    """Draw one job and send its events; the last is sent when this worker is free again."""
    events = JobEvents(job.message, wire)
    final: Done | None = None
    error: FluxMcpError | None = None
    try:
        if isinstance(engine, FluxMcpError):
            error = engine
        else:
            final = engine.draw(job, events)
    except FluxMcpError as deliberate:
        error = deliberate.with_traceback(None)
    except Exception as unexpected:  # noqa: BLE001 - a job must not end the worker
        traceback.print_exc()
        if is_device_fault(unexpected):
            sys.stderr.flush()
            os._exit(DEVICE_FAULT_EXIT)
        error = _explain(unexpected)
    # Outside of the except blocks: their exception holds the tensors of every frame it passed.
    if isinstance(error, OutOfMemoryError) and isinstance(engine, Engine):
        engine.recover_memory()
    inbox.finish(job)
    wire.send(final or _ended(error, events, engine))


def _explain(error: Exception) -> FluxMcpError:
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "The job does not fit into the device's memory.",
            "Ask for a smaller image or fewer at once, or close other programs on the GPU.",
        )
    return InternalError(
        f"Drawing failed: {type(error).__name__}: {str(error)[:500]}",
        "The worker's log has the details.",
    )


def _ended(
    error: FluxMcpError | None, events: JobEvents, engine: Engine | FluxMcpError
) -> Failed | Cancelled:
    nothing = LoadedJob(loaded=(), waiting=(), memory=None)
    held = engine.held if isinstance(engine, Engine) else nothing
    if isinstance(error, JobCancelledError):
        return Cancelled(**events.stamp(), **held)
    error = error or InternalError("The job ended without a result.")
    info = ErrorInfo(code=error.code, message=error.message, hint=error.hint)
    return Failed(**events.stamp(), error=info, **held)


def start_engine(settings: Settings, prefetcher: Prefetcher) -> Engine | FluxMcpError:
    """Import the libraries and choose the device, or return why that is not possible."""
    try:
        # All pipelines come with this import; it takes most of a worker's start.
        from diffusers import FluxPipeline  # noqa: F401

        configure_threads(settings)
        return Engine(settings, choose_device(settings.device), prefetcher)
    except FluxMcpError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a broken install raises anything
        traceback.print_exc()
        return EngineUnavailableError(
            f"torch or diffusers cannot be imported: {type(error).__name__}: {str(error)[:300]}",
            "Install them for this Python: pip install 'torch>=2.9' 'diffusers>=0.42.1,<0.43'.",
        )


def main() -> NoReturn:
    """Serve commands until stdin ends."""
    wire = Pipe(claim_stdout())
    faulthandler.enable()
    # Ctrl-C in a terminal reaches the whole process group; when to end is the server's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings()
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr)
    prefetcher = Prefetcher()
    inbox = Inbox(sys.stdin.buffer, prefetcher.ask)
    inbox.start()
    engine = start_engine(settings, prefetcher)
    environment, memory = (
        (describe(engine.device), engine.memory) if isinstance(engine, Engine) else (None, None)
    )
    wire.send(WorkerReady(pid=os.getpid(), environment=environment, memory=memory))
    while True:
        job = inbox.next_job()
        run_job(job, engine, wire, inbox)
        # The name would keep the job's images until the next one comes.
        del job


if __name__ == "__main__":
    main()
