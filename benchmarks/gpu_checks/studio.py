"""The worker's own engine in this process: tasks for it, and what it reports.

`Engine.draw` is what a worker process runs for each job; here it is called directly, so that a GPU
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

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flux_mcp.models.registry import Kind, Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.pipelines.device import GIB
from flux_mcp.pipelines.engine import DrawFigures, Engine
from flux_mcp.requests.render_plan import InputRole, PlanInput, RenderPlan
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Phase
from gpu_checks.bench import Bench
from gpu_checks.drawing_cases import PROMPT
from gpu_checks.folders import ROWS, Folders


@dataclass(frozen=True)
class Task:
    """A plan and its images."""

    plan: RenderPlan
    inputs: Mapping[str, bytes]

    def changed(self, **changes: Any) -> "Task":
        """Return the task with other values of its plan, validated like any plan."""
        return Task(RenderPlan(**{**dict(self.plan), **changes}), self.inputs)


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
    image = Image.linear_gradient("L").resize((side_px, side_px)).convert("RGB")
    quarter = side_px // 4
    ImageDraw.Draw(image).ellipse((quarter, quarter, 3 * quarter, 3 * quarter), "red")
    mask = Image.new("L", (side_px, side_px), 0)
    ImageDraw.Draw(mask).rectangle((quarter, quarter, 3 * quarter, 3 * quarter), 255)
    images: dict[Kind, list[tuple[InputRole, Image.Image]]] = {
        "text2img": [],
        "kontext": [("reference", image)],
        "fill": [("image", image), ("mask", mask)],
        "control": [("image", image)],
        "redux": [("reference", image)],
    }
    return images[kind]


@dataclass
class Recorder:
    """Keeps what an engine reports about one task, with the time of each step."""

    on_step: Callable[[int], None] = lambda _step: None
    pixels: list[bytes] = field(default_factory=list)
    """Of each image."""
    steps: list[tuple[int, float]] = field(default_factory=list)
    """Finished steps and when each was reported, in seconds of the monotonic clock."""

    def progress(self, phase: Phase, step: int, **_more: Any) -> None:
        """Note a finished step."""
        if phase == "denoising" and step:
            self.steps.append((step, time.perf_counter()))
            self.on_step(step)

    def preview(self, index: int, step: int, webp: bytes, size: tuple[int, int]) -> None:
        """Do nothing: no previews are asked for."""

    def image(self, _index: int, _seed: int, _seconds: float, pixels: NDArray[np.uint8]) -> None:
        """Keep an image."""
        self.pixels.append(pixels.tobytes())


@dataclass
class Drawn:
    """What came of a task."""

    figures: DrawFigures
    recorder: Recorder

    @property
    def seconds(self) -> float:
        """Of loading and drawing."""
        return self.figures.load_s + self.figures.draw_s

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

    def __post_init__(self) -> None:
        self.engine = Engine(self.settings, self.bench.device)
        self.registry = open_registry(self.settings)

    @property
    def loaded(self) -> tuple[str, ...]:
        """`kind/model` of what is loaded."""
        return self.engine.state["loaded"]

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
        recorder = Recorder(on_step)
        stop = cancelled or threading.Event()
        figures = self.engine.draw(task.plan, task.inputs, recorder, stop.is_set)
        return Drawn(figures, recorder)


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
