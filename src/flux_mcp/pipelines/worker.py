"""The worker process: `python -m flux_mcp.pipelines.worker`.

Draws one job at a time on the main thread, with an engine (engine.py). Commands come through stdin
and events leave through stdout (pipe.py).

Importable without torch: the libraries are imported in `main`.
"""

import faulthandler
import gc
import logging
import os
import signal
import sys
import traceback
from dataclasses import asdict
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
    is_out_of_host_memory,
    is_out_of_memory,
)
from flux_mcp.pipelines.engine import Engine, EngineState
from flux_mcp.pipelines.memory.prefetch import Prefetcher
from flux_mcp.pipelines.pipe import (
    CommandReader,
    EventReporter,
    EventWriter,
    RunCommand,
    claim_stdout,
)
from flux_mcp.pipelines.steps import PreviewSettings
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


def run_job(
    command: RunCommand,
    engine: Engine | FluxMcpError,
    writer: EventWriter,
    commands: CommandReader,
) -> None:
    """Draw one job and write its events; the last is written when this worker is free again."""
    reporter = EventReporter(command.message, writer)
    final: Done | None = None
    error: FluxMcpError | None = None
    try:
        if isinstance(engine, FluxMcpError):
            error = engine
        else:
            final = _draw(command, engine, reporter)
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
    commands.finish(command)
    writer.send(final or _ended(error, reporter, engine))


def _draw(command: RunCommand, engine: Engine, reporter: EventReporter) -> Done:
    """Draw a job to its end.

    Raises:
        FluxMcpError: it cannot be drawn, or was cancelled.
    """
    message = command.message
    previews = None
    if message.preview_every_steps:
        previews = PreviewSettings(message.preview_every_steps, message.preview_interval_s)
    figures = engine.draw(
        message.plan, command.inputs, reporter, command.cancelled.is_set, previews
    )
    return Done(**reporter.stamp(), **asdict(figures), **engine.state)


def _explain(error: Exception) -> FluxMcpError:
    if is_out_of_host_memory(error):
        return _out_of_host_memory()
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "The job does not fit into the device's memory.",
            "Ask for a smaller image or fewer at once, or close other programs on the GPU.",
        )
    return InternalError(
        f"Drawing failed: {type(error).__name__}: {str(error)[:500]}",
        "The worker's log has the details.",
    )


def _out_of_host_memory() -> OutOfMemoryError:
    return OutOfMemoryError(
        "The worker has no memory (RAM) of the machine left.",
        "Ask for a smaller image or a smaller model, close other programs, or lift the limit that "
        "this process has (ulimit -v, a container's).",
    )


def _ended(
    error: FluxMcpError | None, reporter: EventReporter, engine: Engine | FluxMcpError
) -> Failed | Cancelled:
    nothing = EngineState(loaded=(), waiting=(), memory=None)
    state = engine.state if isinstance(engine, Engine) else nothing
    if isinstance(error, JobCancelledError):
        return Cancelled(**reporter.stamp(), **state)
    error = error or InternalError("The job ended without a result.")
    info = ErrorInfo.of(error)
    return Failed(**reporter.stamp(), error=info, **state)


def import_pipelines() -> None:
    """Import diffusers' pipelines, which takes most of a worker's start.

    Modules are never garbage: the collector would look through hundreds of thousands of their
    objects again and again, a seventh of the time of this import, and again whenever it runs later.
    """
    gc.disable()
    try:
        from diffusers import FluxPipeline  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def start_engine(settings: Settings, prefetcher: Prefetcher) -> Engine | FluxMcpError:
    """Import the libraries and choose the device, or return why that is not possible."""
    try:
        import_pipelines()
        configure_threads(settings)
        return Engine(settings, choose_device(settings.device), prefetcher)
    except FluxMcpError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a broken install raises anything
        traceback.print_exc()
        if is_out_of_host_memory(error):
            return _out_of_host_memory()
        return EngineUnavailableError(
            f"torch or diffusers cannot be imported: {type(error).__name__}: {str(error)[:300]}",
            "Install them for this Python: pip install 'torch>=2.9' 'diffusers>=0.42.1,<0.43'.",
        )


def main() -> NoReturn:
    """Serve commands until stdin ends."""
    writer = EventWriter(claim_stdout())
    faulthandler.enable()
    # Ctrl-C in a terminal reaches the whole process group; when to end is the server's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings()
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr)
    prefetcher = Prefetcher()
    commands = CommandReader(sys.stdin.buffer, prefetcher.ask)
    commands.start()
    engine = start_engine(settings, prefetcher)
    environment, memory = (
        (describe(engine.device), engine.memory) if isinstance(engine, Engine) else (None, None)
    )
    writer.send(WorkerReady(pid=os.getpid(), environment=environment, memory=memory))
    while True:
        command = commands.next_job()
        run_job(command, engine, writer, commands)
        # The name would keep the job's images until the next one comes.
        del command
        if isinstance(engine, OutOfMemoryError):
            # The libraries are half imported; a new worker finds the memory as it is by then.
            sys.exit()


if __name__ == "__main__":
    main()
