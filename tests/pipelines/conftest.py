"""A real worker for the whole session, real micro weights, and a pipeline room in this process."""

import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flux_mcp.jobs.fleet import Assignment, Report
from flux_mcp.jobs.process_fleet import WORKER_ID, ProcessFleet
from flux_mcp.models.loras.library import open_loras
from flux_mcp.models.registry import Kind, ModelSpec, Registry, load_registry
from flux_mcp.requests.plan import InputRole, PlanInput, PlanLora, RenderPlan
from flux_mcp.settings.installation import PACKAGE_DIR
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import FINAL_EVENTS, GeneratedImage, Preview, Progress
from tests.models.lora_files import Tensors, put_striped, write

PutLora = Callable[..., PlanLora]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The package's own weights."""
    return PACKAGE_DIR / "weights"


@pytest.fixture(scope="session")
def settings(weights_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        weights_dir=weights_dir,
        device="cpu",
        torch_threads=1,
        preview_every_steps=1,
        preview_interval_s=0.0,
    )


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry()


def image(width: int = 128, height: int = 128) -> Image.Image:
    """Smooth colours with an edge: something to keep, to follow, to vary."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    drawing = Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))
    ImageDraw.Draw(drawing).rectangle((width // 4, height // 4, width // 2, height // 2), "white")
    return drawing


def mask(width: int = 128, height: int = 128) -> Image.Image:
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
    """A plan and the images it names."""

    plan: RenderPlan
    blobs: Mapping[str, bytes]

    def changed(self, **changes: Any) -> "Task":
        return Task(self.plan.model_copy(update=changes), self.blobs)


def _inputs_of(kind: Kind) -> list[tuple[InputRole, Image.Image]]:
    return {
        "text2img": [],
        "kontext": [("reference", image())],
        "fill": [("image", image()), ("mask", mask())],
        "control": [("image", image())],
        "redux": [("reference", image())],
    }[kind]


def make_task(
    spec: ModelSpec, inputs: list[tuple[InputRole, Image.Image]] | None = None, **changes: Any
) -> Task:
    """A small plan of four steps that any row of the registry can draw."""
    items, blobs = [], {}
    for role, image in _inputs_of(spec.kind) if inputs is None else inputs:
        data = png(image)
        name = hashlib.sha256(data).hexdigest()
        blobs[name] = data
        items.append(PlanInput(role=role, sha256=name, width=image.width, height=image.height))
    plan = RenderPlan(
        kind=spec.kind,
        model=spec.id,
        revision=None,
        quality="low",
        precision=spec.precision,
        prompt="a red circle on a blue background",
        width=128,
        height=128,
        steps=4,
        guidance=spec.default_guidance,
        seeds=(7,),
        max_sequence_length=spec.max_sequence_length,
        inputs=tuple(items),
        structure="canny" if spec.kind == "control" else None,
    )
    return Task(plan.model_copy(update=changes), blobs)


@pytest.fixture(scope="session")
def task_for() -> Callable[..., Task]:
    return make_task


@dataclass
class Drawing:
    """What came back from one run."""

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
    def pixels(self) -> list[bytes]:
        return [r.blobs["pixels"] for r in self.reports if isinstance(r.event, GeneratedImage)]

    @property
    def previews(self) -> list[tuple[Preview, bytes]]:
        return [(r.event, r.blobs["preview"]) for r in self.reports if isinstance(r.event, Preview)]


class Studio:
    """Runs tasks on a fleet, one after the other, each under a new job id."""

    def __init__(self, fleet: ProcessFleet) -> None:
        self.fleet = fleet
        self._jobs = 0

    def assign(self, task: Task) -> Assignment:
        self._jobs += 1
        return Assignment(f"job-{self._jobs}", 1, task.plan, task.blobs)

    async def draw(self, task: Task, *, cancel_after_step: int | None = None) -> Drawing:
        assignment, drawing = self.assign(task), Drawing()
        async for report in self.fleet.run(WORKER_ID, assignment):
            drawing.reports.append(report)
            event = report.event
            if isinstance(event, Progress) and event.step == cancel_after_step:
                await self.fleet.cancel(WORKER_ID, assignment.job_id)
        assert isinstance(drawing.final, FINAL_EVENTS)
        return drawing


@pytest.fixture(scope="session")
async def studio(settings: Settings) -> AsyncIterator[Studio]:
    fleet = ProcessFleet(settings)
    yield Studio(fleet)
    await fleet.close()


@pytest.fixture(scope="session")
def torch_here() -> Iterator[None]:
    """torch in this process, with one thread: pixels and speed are then the same everywhere."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Recorder:
    """The `Reports` of a job that is drawn in this process."""

    steps: list[int] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    previews: list[tuple[int, int, bytes, tuple[int, int]]] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def progress(self, phase, step, **_more):
        self.phases.append(phase)
        if phase == "denoising" and step:
            self.steps.append(step)

    def preview(self, *preview):
        self.previews.append(preview)

    def image(self, _index, seed, _seconds, pixels):
        self.seeds.append(seed)
        self.images.append(pixels)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def residency(registry: Registry, settings: Settings, torch_here: None) -> Any:
    """Micro pipelines in this process, shared by the tests that only draw."""
    from flux_mcp.pipelines.device import Device
    from flux_mcp.pipelines.memory.residency import Residency

    return Residency(registry, settings, Device("cpu"))


def no_cache() -> Any:
    """An embedding cache that keeps nothing: every text is encoded."""
    from flux_mcp.pipelines.texts import EmbeddingCache, EmbeddingFiles

    return EmbeddingCache("here", 0, EmbeddingFiles(Path(os.devnull), 0))


@pytest.fixture(scope="session")
def texts_of(residency: Any) -> Callable[..., Any]:
    """The texts of a plan, not encoded yet; nothing is cached."""
    from flux_mcp.pipelines.texts import PlanTexts

    def pending(plan: RenderPlan, resident: Any) -> Any:
        load = partial(residency.text_encoder, resident, lambda _message: None)
        return PlanTexts(plan, resident, no_cache(), load)

    return pending


@pytest.fixture
def put(settings: Settings, registry: Registry) -> PutLora:
    """Put a LoRA into the folder and return it as a plan names it."""
    folder = settings.paths.loras
    folder.mkdir(parents=True, exist_ok=True)

    def put_one(name: str, *tensors: Tensors, weight: float = 1.0) -> PlanLora:
        if tensors:
            write(folder / f"{name}.safetensors", *tensors)
        else:
            put_striped(folder, name)
        sha256 = open_loras(settings, registry).find(name).sha256
        return PlanLora(name=name, sha256=sha256, weight=weight)

    return put_one
