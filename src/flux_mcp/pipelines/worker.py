"""The worker process: `python -m flux_mcp.pipelines.worker`.

Owns the engine and draws one job at a time on the main thread, commanded and heard over stdin and
stdout (wire.py). Knows nothing of queues, galleries or MCP.

Importable without torch: the libraries are imported in `main`.
"""

import faulthandler
import logging
import os
import signal
import sys
import time
import traceback
from functools import partial
from typing import NoReturn, TypedDict

import numpy as np
from numpy.typing import NDArray

from flux_mcp.config import Settings
from flux_mcp.errors import (
    EngineUnavailableError,
    FluxMcpError,
    InternalError,
    JobCancelledError,
    OutOfMemoryError,
)
from flux_mcp.models.own_rows import open_registry
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.pipelines.device import (
    Device,
    arithmetic,
    begin_peak,
    choose_device,
    configure_threads,
    describe,
    is_device_fault,
    is_out_of_memory,
    memory_of,
    peak_gib,
)
from flux_mcp.pipelines.drawing import draw
from flux_mcp.pipelines.embedding_files import EmbeddingFiles
from flux_mcp.pipelines.embeddings import MB, EmbeddingCache
from flux_mcp.pipelines.loras import Adapters
from flux_mcp.pipelines.residency import Residency
from flux_mcp.pipelines.steps import StepWatch
from flux_mcp.pipelines.switches import SwitchBoard
from flux_mcp.pipelines.texts import PlanTexts
from flux_mcp.pipelines.wire import Inbox, Job, Wire, claim_stdout
from flux_mcp.requests.messages import (
    Cancelled,
    Done,
    ErrorInfo,
    Failed,
    Memory,
    Phase,
    Picture,
    Preview,
    Progress,
    Ready,
    RunMessage,
)
from flux_mcp.requests.plan import RenderPlan, load_of_plan

DEVICE_FAULT_EXIT = 4
"""Exit code after a fault of the card: only a new process gets a working context."""


class _Stamp(TypedDict):
    job_id: str
    attempt: int
    seq: int


class _Held(TypedDict):
    loaded: tuple[str, ...]
    waiting: tuple[str, ...]
    memory: Memory | None


class JobEvents:
    """Numbers one job's events and writes them: the `Reports` of steps.py."""

    def __init__(self, message: RunMessage, wire: Wire) -> None:
        self._message = message
        self._wire = wire
        self._seq = 0

    def progress(
        self, phase: Phase, step: int, *, eta_s: float | None = None, message: str = ""
    ) -> None:
        """Send how far the job is."""
        event = Progress(
            **self.stamp(),
            phase=phase,
            step=step,
            total_steps=self._message.plan.total_steps,
            eta_s=eta_s,
            message=message,
        )
        self._wire.send(event)

    def preview(self, index: int, step: int, webp: bytes, size: tuple[int, int]) -> None:
        """Send a small picture of how it stands."""
        width, height = size
        event = Preview(**self.stamp(), index=index, step=step, width=width, height=height)
        self._wire.send(event, {"preview": webp})

    def picture(self, index: int, seed: int, seconds: float, pixels: NDArray[np.uint8]) -> None:
        """Send a finished picture."""
        height, width, _channels = pixels.shape
        event = Picture(
            **self.stamp(), index=index, seed=seed, width=width, height=height, seconds=seconds
        )
        self._wire.send(event, {"pixels": pixels.tobytes()})

    def stamp(self) -> _Stamp:
        """Return the fields every event has, with the next sequence number."""
        stamp = _Stamp(job_id=self._message.job_id, attempt=self._message.attempt, seq=self._seq)
        self._seq += 1
        return stamp


class Engine:
    """Draws jobs with what is loaded. Its loss of memory is its own to clean up."""

    def __init__(self, settings: Settings, device: Device) -> None:
        self.device = device
        self._registry: Registry = open_registry(settings)
        self._residency = Residency(self._registry, settings, device)
        self._embeddings = EmbeddingCache(
            arithmetic(device),
            settings.embedding_cache_mb * MB,
            EmbeddingFiles(settings.paths.embeddings, settings.embedding_cache_disk_mb * MB),
        )
        self._adapters = Adapters(settings.paths.loras)
        self._switches = SwitchBoard(device)

    @property
    def held(self) -> _Held:
        """What is loaded, as final events tell it."""
        loaded, waiting = self._residency.loaded, self._residency.waiting
        return _Held(loaded=loaded, waiting=waiting, memory=self.memory)

    @property
    def memory(self) -> Memory | None:
        """What is held of the device's memory."""
        return memory_of(self.device)

    def draw(self, job: Job, events: JobEvents) -> Done:
        """Draw a job to its end.

        Raises:
            FluxMcpError: it cannot be drawn, or was cancelled.
        """
        plan = job.message.plan
        started = time.perf_counter()

        def loading(message: str) -> None:
            if job.cancelled.is_set():
                raise JobCancelledError("The job was cancelled.")
            events.progress("loading", 0, message=message)

        begin_peak(self.device)
        loading("")
        spec = self._spec(plan)
        load = load_of_plan(plan, spec)
        resident = self._residency.pipeline(spec, plan.placement, loading, load, plan.vae_tile_px)
        load_encoder = partial(self._residency.text_encoder, resident, loading)
        texts = PlanTexts(plan, resident, self._embeddings, load_encoder)
        self._switches.apply(plan, resident, loading)
        compiled = plan.switches.compiled
        self._adapters.prepare(plan.loras, resident, loading, compiled=compiled)
        colours = None
        if job.message.preview_every_steps:
            colours = self._residency.colours(resident)
        loaded = time.perf_counter()
        watch = StepWatch(
            plan,
            events,
            job.cancelled.is_set,
            preview_every=job.message.preview_every_steps,
            preview_interval_s=job.message.preview_interval_s,
            colours=colours,
        )
        with (
            self._adapters.active(plan.loras, resident, compiled=compiled),
            self._switches.active(plan, resident),
        ):
            draw(plan, job.blobs, resident, texts, watch, events)
        return Done(
            **events.stamp(),
            load_s=loaded - started,
            peak_gib=peak_gib(self.device),
            draw_s=time.perf_counter() - loaded,
            weights_sha256=resident.weights_sha256,
            **self.held,
        )

    def recover_memory(self) -> None:
        """Unload everything: what is left of the memory may be too little for any job."""
        self._embeddings.forget()
        self._residency.clear()

    def _spec(self, plan: RenderPlan) -> ModelSpec:
        """Return the row with the weights and the precisions that the plan recorded."""
        row = self._registry.find(plan.kind, plan.model)
        recorded = plan.model_dump(include={"revision", "precision", "text_precision"})
        return row.model_copy(update=recorded)


def run_job(job: Job, engine: Engine | FluxMcpError, wire: Wire, inbox: Inbox) -> None:
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
            "Ask for a smaller picture or fewer at once, or close other programs on the card.",
        )
    return InternalError(
        f"Drawing failed: {type(error).__name__}: {str(error)[:500]}",
        "The worker's log has the details.",
    )


def _ended(
    error: FluxMcpError | None, events: JobEvents, engine: Engine | FluxMcpError
) -> Failed | Cancelled:
    nothing = _Held(loaded=(), waiting=(), memory=None)
    held = engine.held if isinstance(engine, Engine) else nothing
    if isinstance(error, JobCancelledError):
        return Cancelled(**events.stamp(), **held)
    error = error or InternalError("The job ended without a result.")
    info = ErrorInfo(code=error.code, message=error.message, hint=error.hint)
    return Failed(**events.stamp(), error=info, **held)


def start_engine(settings: Settings) -> Engine | FluxMcpError:
    """Import the libraries and choose the device, or return why that is not possible."""
    try:
        # All pipelines come with this import; it takes most of a worker's start.
        from diffusers import FluxPipeline  # noqa: F401

        configure_threads(settings)
        return Engine(settings, choose_device(settings.device))
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
    wire = Wire(claim_stdout())
    faulthandler.enable()
    # Ctrl-C in a terminal reaches the whole process group; when to end is the server's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings()
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr)
    inbox = Inbox(sys.stdin.buffer)
    inbox.start()
    engine = start_engine(settings)
    environment, memory = (
        (describe(engine.device), engine.memory) if isinstance(engine, Engine) else (None, None)
    )
    wire.send(Ready(pid=os.getpid(), environment=environment, memory=memory))
    while True:
        job = inbox.next_job()
        run_job(job, engine, wire, inbox)
        # The name would keep the job's pictures until the next one comes.
        del job


if __name__ == "__main__":
    main()
