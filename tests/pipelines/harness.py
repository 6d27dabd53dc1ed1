"""The harness for drawing: tasks, an engine in this process, and a real worker process.

`make_task` makes a small plan that any row can draw. `Studio` gives it to the worker's own
`Engine`, in this process; with `gpu_bytes` the CPU plays a GPU: weights on it are other bytes than
those in host memory. `WorkerStudio` gives it to a worker process.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flux_mcp.images.pasting import finisher, in_folder
from flux_mcp.jobs.fleet import Assignment, Report
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.models.parts import Placement
from flux_mcp.models.registry import Kind, ModelSpec, Registry, load_registry
from flux_mcp.requests.render_plan import InputRole, PlanInput, RenderPlan
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import FINAL_EVENTS, GeneratedImage, Preview, Progress

GIB = 2**30
AMPLE_BYTES = 64 * GIB
"""Room on a GPU for everything."""
SIDE = 64
"""Pixels: a CPU draws so small an image in 0.15 s."""
TINY: Mapping[str, int] = {"width": 32, "height": 32, "steps": 2}
"""For weights of 16 bit, which a CPU decodes ten times slower: a third of a second."""


# --- tasks ---------------------------------------------------------------------------------------


def image(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Smooth colours with an edge: something to keep, to follow, to vary."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    drawing = Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))
    ImageDraw.Draw(drawing).rectangle((width // 4, height // 4, width // 2, height // 2), "white")
    return drawing


def mask(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """White, to be drawn again, in the middle."""
    image = Image.new("L", (width, height), 0)
    box = (width // 4, height // 4, 3 * width // 4 - 1, 3 * height // 4 - 1)
    ImageDraw.Draw(image).rectangle(box, 255)
    return image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Task:
    """A plan, the images it names, and the row that draws it."""

    plan: RenderPlan
    inputs: Mapping[str, bytes]
    spec: ModelSpec

    def changed(self, **changes: Any) -> "Task":
        """The same task with other values of its plan, validated like any plan."""
        return Task(RenderPlan(**{**dict(self.plan), **changes}), self.inputs, self.spec)


def _inputs_of(kind: Kind, width: int, height: int) -> list[tuple[InputRole, Image.Image]]:
    drawing = image(width, height)
    return {
        "text2img": [],
        "kontext": [("reference", drawing)],
        "fill": [("image", drawing), ("mask", mask(width, height))],
        "control": [("image", drawing)],
        "redux": [("reference", drawing)],
        "img2img": [("image", drawing)],
    }[kind]


def make_task(
    spec: ModelSpec, inputs: list[tuple[InputRole, Image.Image]] | None = None, **changes: Any
) -> Task:
    """A plan of four steps and 64 by 64 pixels, with inputs as large as the image.

    Args:
        spec: The row that draws.
        inputs: Its images, of whatever size, in place of those that its kind needs.
        changes: Other values of the plan.
    """
    changes = {"width": SIDE, "height": SIDE} | changes
    if inputs is None:
        inputs = _inputs_of(spec.kind, changes["width"], changes["height"])
    items, blobs = [], {}
    for role, picture in inputs:
        data = png(picture)
        name = hashlib.sha256(data).hexdigest()
        blobs[name] = data
        items.append(PlanInput(role=role, sha256=name, width=picture.width, height=picture.height))
    values = {
        "kind": spec.kind,
        "model": spec.id,
        "revision": spec.revision,
        "quality": "low",
        "precision": spec.precision,
        "text_precision": spec.text_precision,
        "prompt": "a red circle on a blue background",
        "steps": 4,
        "guidance": spec.default_guidance,
        "seeds": (7,),
        "max_sequence_length": spec.max_sequence_length,
        "inputs": tuple(items),
        "structure": "canny" if spec.kind == "control" else None,
        "strength": 0.5 if spec.kind == "img2img" else 1.0,
    }
    return Task(RenderPlan(**values | changes), blobs, spec)


def finished(task: Task, drawn: Iterable[np.ndarray]) -> list[np.ndarray]:
    """What a server makes of what was drawn for a task: each image, with the rest around it."""
    with TemporaryDirectory() as folder:
        for name, data in task.inputs.items():
            (Path(folder) / f"{name}.png").write_bytes(data)
        finish = finisher(task.plan, in_folder(Path(folder)))
    return [np.array(finish(pixels.tobytes())) for pixels in drawn]


# --- in this process -----------------------------------------------------------------------------


@dataclass
class Recorder:
    """What an engine reported about one task, and what came of it."""

    on_step: Callable[[int], None] | None = None
    steps: list[int] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    """What was loaded."""
    previews: list[tuple[int, int, bytes, tuple[int, int]]] = field(default_factory=list)
    """Index of the image, step, WebP, size."""
    images: list[np.ndarray] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    figures: Any = None
    """The engine's `DrawFigures`; `None` if it was not drawn to its end."""

    @property
    def pixels(self) -> list[bytes]:
        return [image.tobytes() for image in self.images]

    def progress(self, phase, step, *, message="", **_more):
        self.phases.append(phase)
        if message:
            self.messages.append(message)
        if phase == "denoising" and step:
            self.steps.append(step)
            if self.on_step is not None:
                self.on_step(step)

    def preview(self, *preview):
        self.previews.append(preview)

    def image(self, index, seed, seconds, pixels):
        assert index == len(self.images)
        assert seconds > 0
        self.seeds.append(seed)
        self.images.append(pixels)


class OpenRegistry(Registry):
    """A registry that takes more rows, and other rows under the same name."""

    def put(self, spec: ModelSpec) -> None:
        self._rows[spec.kind][spec.id] = spec


class Studio:
    """An engine in this process, as a worker has it.

    Args:
        settings: As a worker has them.
        rows: What can be drawn with, beside the rows of the tasks; left out, the package's own.
        gpu_bytes: What weights may take of a GPU that the CPU plays; `None` for no GPU.
        compiler: What `torch.compile` hands its graphs to.
        device: Where to draw; left out, the CPU.
        caches_texts: Whether embeddings are cached as the settings say; else every text is encoded.
        prefetcher: Reads weights ahead; left out, nothing is.
    """

    def __init__(
        self,
        settings: Settings,
        rows: Iterable[ModelSpec] | None = None,
        *,
        gpu_bytes: int | None = None,
        compiler: Any = "inductor",
        device: Any = None,
        caches_texts: bool = False,
        prefetcher: Any = None,
    ) -> None:
        from flux_mcp.pipelines.device import Device
        from flux_mcp.pipelines.engine import Engine

        if not caches_texts:
            nothing = {"embedding_cache_mb": 0, "embedding_cache_disk_mb": 0}
            settings = settings.model_copy(update=nothing)
        self.settings = settings
        self.device = device or Device("cpu")
        shipped = load_registry()
        helpers = tuple(shipped.helpers.values())
        self.rows = OpenRegistry(tuple(shipped if rows is None else rows), helpers)
        self.engine = Engine(
            settings,
            self.device,
            prefetcher,
            registry=self.rows,
            gpu=self._gpu(gpu_bytes),
            compiler=compiler,
        )
        self.said: list[str] = []
        """What was loaded, of all tasks."""
        self.last = Recorder()
        """What was reported about the last task, also if it was cancelled or failed."""
        self.most_gpu_bytes = 0
        """Most that weights took of the GPU when the engine looked whether to stop."""

    def _gpu(self, gpu_bytes: int | None) -> Any:
        from flux_mcp.pipelines.memory.store import DeviceMemory

        return None if gpu_bytes is None else DeviceMemory(self.device, total_bytes=gpu_bytes)

    @property
    def residency(self) -> Any:
        return self.engine.residency

    @property
    def store(self) -> Any:
        return self.engine.residency.store

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes copied to the GPU and back, since the beginning."""
        return self.store.copied.to_gpu_bytes, self.store.copied.to_host_bytes

    def limit_gpu(self, gpu_bytes: int) -> None:
        """Let weights take no more than this of the GPU from now on."""
        self.store.gpu = self._gpu(gpu_bytes)

    def load(self, spec: ModelSpec, placement: Placement = "resident", **more: Any) -> Any:
        """Return a row's loaded pipeline."""
        self.rows.put(spec)
        return self.residency.pipeline(spec, placement, self.said.append, **more)

    def encoder(self, resident: Any) -> Any:
        """Return the pipeline that encodes the prompts of another."""
        return self.residency.text_encoder(resident, self.said.append)

    def texts(self, plan: RenderPlan, resident: Any) -> Any:
        """Return the texts of a plan, not encoded yet."""
        from flux_mcp.pipelines.texts import PlanTexts

        return PlanTexts(plan, resident, self.engine.embeddings, lambda: self.encoder(resident))

    def draw(
        self,
        task: Task,
        *,
        stop_after: int | None = None,
        cancelled: Callable[[Recorder], bool] | None = None,
        on_step: Callable[[int], None] | None = None,
        preview_every: int = 0,
        **changes: Any,
    ) -> Recorder:
        """Draw a task.

        Args:
            task: What to draw.
            stop_after: Cancel when so many steps were reported; 0: as soon as all is loaded.
            cancelled: Returns whether to cancel, from what was reported so far.
            on_step: Called at each step, on the engine's thread.
            preview_every: A preview after so many steps; 0 for none.
            changes: Other values of the plan.
        """
        from flux_mcp.pipelines.steps import PreviewSettings

        task = task.changed(**changes) if changes else task
        self.rows.put(task.spec)
        recorder = self.last = Recorder(on_step)

        def is_cancelled() -> bool:
            self.most_gpu_bytes = max(self.most_gpu_bytes, self.store.gpu_bytes)
            if cancelled is not None:
                return cancelled(recorder)
            has_loaded = recorder.phases[-1:] not in ([], ["loading"])
            return stop_after is not None and has_loaded and len(recorder.steps) >= stop_after

        previews = PreviewSettings(preview_every) if preview_every else None
        try:
            recorder.figures = self.engine.draw(
                task.plan, task.inputs, recorder, is_cancelled, previews
            )
        finally:
            self.most_gpu_bytes = max(self.most_gpu_bytes, self.store.gpu_bytes)
            self.said += recorder.messages
        return recorder

    def pixels(self, task: Task, **how: Any) -> bytes:
        """Draw a task; return the pixels of its first image."""
        return self.draw(task, **how).pixels[0]


# --- in a worker process -------------------------------------------------------------------------


@dataclass
class WorkerDrawing:
    """What a worker process answered to one run."""

    reports: list[Report] = field(default_factory=list)

    @property
    def final(self) -> Any:
        return self.reports[-1].event

    def of(self, event_type: type) -> list[Any]:
        return [report.event for report in self.reports if isinstance(report.event, event_type)]

    @property
    def steps(self) -> list[int]:
        return [e.step for e in self.of(Progress) if e.phase == "denoising" and e.step]

    @property
    def loading(self) -> list[str]:
        """What was said of loading."""
        told = self.of(Progress)
        return [event.message for event in told if event.phase == "loading" and event.message]

    @property
    def pixels(self) -> list[bytes]:
        return [r.blobs["pixels"] for r in self.reports if isinstance(r.event, GeneratedImage)]

    @property
    def previews(self) -> list[tuple[Preview, bytes]]:
        return [(r.event, r.blobs["preview"]) for r in self.reports if isinstance(r.event, Preview)]


class WorkerStudio:
    """Draws tasks on a fleet, one after the other, each under a new job id."""

    def __init__(self, fleet: ProcessFleet) -> None:
        self.fleet = fleet
        self._jobs = 0

    def assign(self, task: Task) -> Assignment:
        self._jobs += 1
        return Assignment(f"job-{self._jobs}", 1, task.plan, task.inputs)

    async def draw(self, task: Task, *, cancel_after_step: int | None = None) -> WorkerDrawing:
        assignment, drawing = self.assign(task), WorkerDrawing()
        async for report in self.fleet.run(assignment):
            drawing.reports.append(report)
            event = report.event
            if isinstance(event, Progress) and event.step == cancel_after_step:
                await self.fleet.cancel(assignment.job_id)
        assert isinstance(drawing.final, FINAL_EVENTS)
        return drawing
