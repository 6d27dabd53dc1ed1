"""The worker's own engine in this process: plans for it, jobs, and what it reports.

`Engine.draw` is what a worker process runs for each job; here it is asked directly, so that a GPU
can be filled on purpose and its memory be read from the inside.
"""

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw

from flux_mcp.models.registry import Kind, Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.pipelines.device import GIB
from flux_mcp.pipelines.engine import Engine
from flux_mcp.pipelines.pipe import JobEvents, Pipe, WorkerJob
from flux_mcp.requests.plan import InputRole, PlanInput, RenderPlan
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Done, GeneratedImage, Progress, RunMessage
from gpu_checks.bench import Bench
from gpu_checks.drawing_cases import PROMPT
from gpu_checks.folders import ROWS, Folders


@dataclass(frozen=True)
class Task:
    """A plan and its images."""

    plan: RenderPlan
    blobs: Mapping[str, bytes]

    def changed(self, **changes: Any) -> "Task":
        """Return the task with another plan."""
        return Task(self.plan.model_copy(update=changes), self.blobs)


def make_task(registry: Registry, kind: Kind, side_px: int, steps: int) -> Task:
    """Return a plan of one square image, with a reference of its own size where one is needed."""
    spec = registry.find(kind, ROWS[kind][0])
    inputs, blobs = [], {}
    for role, image in _images(kind, side_px):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        name = hashlib.sha256(buffer.getvalue()).hexdigest()
        blobs[name] = buffer.getvalue()
        inputs.append(PlanInput(role=role, sha256=name, width=side_px, height=side_px))
    plan = RenderPlan(
        kind=kind,
        model=spec.id,
        revision=None,
        quality="high",
        precision=spec.precision,
        prompt=PROMPT.format(0),
        width=side_px,
        height=side_px,
        steps=steps,
        guidance=spec.default_guidance,
        seeds=(7,),
        max_sequence_length=spec.max_sequence_length,
        inputs=tuple(inputs),
        structure="canny" if kind == "control" else None,
    )
    return Task(plan, blobs)


def _images(kind: Kind, side_px: int) -> list[tuple[InputRole, Image.Image]]:
    picture = Image.linear_gradient("L").resize((side_px, side_px)).convert("RGB")
    quarter = side_px // 4
    ImageDraw.Draw(picture).ellipse((quarter, quarter, 3 * quarter, 3 * quarter), "red")
    mask = Image.new("L", (side_px, side_px), 0)
    ImageDraw.Draw(mask).rectangle((quarter, quarter, 3 * quarter, 3 * quarter), 255)
    images: dict[Kind, list[tuple[InputRole, Image.Image]]] = {
        "text2img": [],
        "kontext": [("reference", picture)],
        "fill": [("image", picture), ("mask", mask)],
        "control": [("image", picture)],
        "redux": [("reference", picture)],
    }
    return images[kind]


class Recorder(Pipe):
    """Keeps what a job reports, with the time, instead of writing it."""

    def __init__(self, on_step: Callable[[int], None] = lambda _step: None) -> None:
        super().__init__(io.BytesIO())
        self.pixels: list[bytes] = []
        self.steps: list[tuple[int, float]] = []
        """Finished steps and when each was reported, in seconds of the monotonic clock."""
        self._on_step = on_step

    def send(self, message: Any, blobs: Mapping[str, bytes] | None = None) -> None:
        """Keep an event."""
        if isinstance(message, GeneratedImage) and blobs:
            self.pixels.append(blobs["pixels"])
        if isinstance(message, Progress) and message.phase == "denoising" and message.step:
            self.steps.append((message.step, time.perf_counter()))
            self._on_step(message.step)


@dataclass
class Drawn:
    """What came of a job."""

    done: Done
    recorder: Recorder

    @property
    def seconds(self) -> float:
        """Of loading and drawing."""
        return self.done.load_s + self.done.draw_s

    @property
    def pixels(self) -> list[bytes]:
        """Of each image."""
        return self.recorder.pixels


@dataclass
class Studio:
    """An engine and the rows it draws with."""

    bench: Bench
    settings: Settings
    engine: Engine = field(init=False)
    registry: Registry = field(init=False)
    loaded: tuple[str, ...] = ()
    """`kind/model` of what was loaded when the last job was done."""
    _jobs: int = 0

    def __post_init__(self) -> None:
        self.engine = Engine(self.settings, self.bench.device)
        self.registry = open_registry(self.settings)

    def task(self, kind: Kind, *, steps: int | None = None) -> Task:
        """Return a plan of a kind at the scale's size."""
        scale = self.bench.scale
        return make_task(self.registry, kind, scale.side_px, steps or scale.dev_steps)

    def draw(
        self,
        task: Task,
        *,
        on_step: Callable[[int], None] = lambda _step: None,
        cancelled: threading.Event | None = None,
    ) -> Drawn:
        """Draw a task.

        Raises:
            FluxMcpError: as the engine does.
        """
        self._jobs += 1
        recorder = Recorder(on_step)
        message = RunMessage(
            job_id=f"job-{self._jobs}", attempt=1, plan=task.plan, preview_every_steps=0
        )
        job = WorkerJob(message, task.blobs, cancelled or threading.Event())
        done = self.engine.draw(job, JobEvents(message, recorder))
        self.loaded = done.loaded
        return Drawn(done, recorder)


@contextmanager
def opened(bench: Bench, folders: Folders) -> Iterator[Studio]:
    """Open an engine, and hand all its memory back afterwards."""
    studio = Studio(bench, settings_for(bench, folders))
    try:
        yield studio
    finally:
        studio.engine.recover_memory()
        bench.free()


def settings_for(bench: Bench, folders: Folders) -> Settings:
    """Return the settings of an engine or worker on these folders."""
    return Settings(
        data_dir=folders.data_dir,
        device=bench.device.kind,
        embedding_cache_disk_mb=0,
        allowed_dirs=(),
    )


@contextmanager
def ballast(bench: Bench, leave_gib: float) -> Iterator[float]:
    """Fill the GPU until only so much can be had; yields the GiB that fill it, 0 on a CPU."""
    import torch

    free_gib = bench.free_gib
    if free_gib is None:
        yield 0.0
        return
    weight_gib = max(0.0, free_gib - leave_gib)
    weight = torch.empty(int(weight_gib * GIB), dtype=torch.uint8, device=bench.device.name)
    try:
        yield weight_gib
    finally:
        del weight
        bench.free()
