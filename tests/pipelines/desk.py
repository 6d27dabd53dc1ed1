"""Draws in this process on a GPU that is the CPU: weights on it are other bytes than in memory."""

from contextlib import nullcontext
from typing import Any

import numpy as np

from flux_mcp.models.parts import Placement
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.requests.plan import PlanLora
from flux_mcp.settings.settings import Settings

from .conftest import Recorder, Task, no_cache

GIB = 2**30
AMPLE_BYTES = 64 * GIB


class Desk:
    """A residency with a GPU, and what a worker does with it for a job.

    Args:
        settings: As a worker has them.
        rows: What can be drawn with.
        gpu_bytes: What weights may take of the GPU.
        cache: Of embeddings; left out, every text is encoded.
        board: Applies the speed switches of plans; left out, they have none.
    """

    def __init__(
        self,
        settings: Settings,
        rows: tuple[ModelSpec, ...],
        gpu_bytes: int = AMPLE_BYTES,
        cache: Any = None,
        board: Any = None,
    ) -> None:
        from flux_mcp.pipelines.device import Device
        from flux_mcp.pipelines.loras.adapters import Adapters
        from flux_mcp.pipelines.memory.residency import Residency
        from flux_mcp.pipelines.memory.store import DeviceMemory

        device = Device("cpu")
        self.residency = Residency(
            Registry(rows), settings, device, DeviceMemory(device, total_bytes=gpu_bytes)
        )
        self.store = self.residency.store
        self.adapters = Adapters(settings.paths.loras)
        self.cache = cache or no_cache()
        self.board = board
        self.said: list[str] = []
        self.most_gpu_bytes = 0

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes copied to the GPU and back, since the beginning."""
        return self.store.traffic.to_gpu_bytes, self.store.traffic.to_host_bytes

    def load(self, spec: ModelSpec, placement: Placement, **more: Any) -> Any:
        return self.residency.pipeline(spec, placement, self.said.append, **more)

    def draw(
        self,
        spec: ModelSpec,
        task: Task,
        placement: Placement,
        *loras: PlanLora,
        stop_after: int | None = None,
        planned: Placement | None = None,
    ) -> bytes:
        """Draw as a worker does; return the pixels of the first image.

        `planned` is what the plan says, where the GPU has less room than was thought.
        """
        from flux_mcp.pipelines.engine import draw
        from flux_mcp.pipelines.steps import StepWatch
        from flux_mcp.pipelines.texts import PlanTexts
        from flux_mcp.requests.plan import load_of_plan

        recorder = Recorder()
        own = {"precision": spec.precision, "placement": planned or placement, "loras": loras}
        plan = task.plan.model_copy(update=own)
        resident = self.load(
            spec, placement, load=load_of_plan(plan, spec), tile_px=plan.vae_tile_px
        )

        def is_cancelled() -> bool:
            self.most_gpu_bytes = max(self.most_gpu_bytes, self.store.gpu_bytes)
            return stop_after is not None and len(recorder.steps) >= stop_after

        texts = PlanTexts(
            plan,
            resident,
            self.cache,
            lambda: self.residency.text_encoder(resident, self.said.append),
        )
        compiled, switched = False, nullcontext()
        if self.board is not None:
            compiled = self.board.apply(plan, resident, self.said.append)
            switched = self.board.active(plan, resident)
        self.adapters.prepare(loras, resident, self.said.append, compiled=compiled)
        watch = StepWatch(plan, recorder, is_cancelled)
        with self.adapters.active(loras, resident, compiled=compiled), switched:
            draw(plan, task.blobs, resident, texts, watch, recorder)
        self.most_gpu_bytes = max(self.most_gpu_bytes, self.store.gpu_bytes)
        assert isinstance(recorder.images[0], np.ndarray)
        return recorder.images[0].tobytes()
