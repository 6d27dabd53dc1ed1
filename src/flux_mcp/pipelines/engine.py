"""Draws jobs with what is loaded: everything a worker needs for one, put together.

Owns nothing itself: residency, embeddings, LoRAs, switches and what is read ahead have owners of
their own.
"""

import time
from functools import partial
from typing import TypedDict

from flux_mcp.config import Settings
from flux_mcp.errors import (
    JobCancelledError,
)
from flux_mcp.models.own_rows import open_registry
from flux_mcp.models.registry import Registry
from flux_mcp.pipelines.device import (
    Device,
    arithmetic,
    begin_peak,
    memory_of,
    peak_gib,
)
from flux_mcp.pipelines.drawing import draw
from flux_mcp.pipelines.embedding_files import EmbeddingFiles
from flux_mcp.pipelines.embeddings import MB, EmbeddingCache
from flux_mcp.pipelines.fetcher import Fetcher, spec_of
from flux_mcp.pipelines.fingerprints import Fingerprints
from flux_mcp.pipelines.job_events import JobEvents
from flux_mcp.pipelines.loras import Adapters
from flux_mcp.pipelines.prefetch import Prefetcher
from flux_mcp.pipelines.residency import Residency
from flux_mcp.pipelines.steps import StepWatch
from flux_mcp.pipelines.switches import SwitchBoard
from flux_mcp.pipelines.texts import PlanTexts
from flux_mcp.pipelines.wire import Job
from flux_mcp.requests.messages import (
    Done,
    Memory,
    weights_of,
)
from flux_mcp.requests.plan import load_of_plan


class Held(TypedDict):
    """What an engine holds, as final events tell it."""

    loaded: tuple[str, ...]
    waiting: tuple[str, ...]
    memory: Memory | None


class Engine:
    """Draws jobs with what is loaded. Its loss of memory is its own to clean up."""

    def __init__(
        self, settings: Settings, device: Device, prefetcher: Prefetcher | None = None
    ) -> None:
        self.device = device
        self._registry: Registry = open_registry(settings)
        self._prefetcher = prefetcher or Prefetcher()
        self._fetched = self._prefetcher.fetched
        fingerprints = Fingerprints()
        self._residency = Residency(
            self._registry, settings, device, fingerprints=fingerprints, fetched=self._fetched
        )
        self._prefetcher.start(
            Fetcher(self._registry, settings, device, self._residency, fingerprints, self._fetched)
        )
        self._embeddings = EmbeddingCache(
            arithmetic(device),
            settings.embedding_cache_mb * MB,
            EmbeddingFiles(settings.paths.embeddings, settings.embedding_cache_disk_mb * MB),
        )
        self._adapters = Adapters(settings.paths.loras)
        self._switches = SwitchBoard(device)

    @property
    def held(self) -> Held:
        """What is loaded, as final events tell it."""
        loaded, waiting = self._residency.loaded, self._residency.waiting
        return Held(loaded=loaded, waiting=waiting, memory=self.memory)

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
        weights, before = weights_of(plan), self._residency.loaded
        taken_bytes = self._fetched.taken_bytes
        spec = spec_of(self._registry, weights)
        load = load_of_plan(plan, spec)
        self._prefetcher.wait_for(weights, loading)
        try:
            resident = self._residency.pipeline(
                spec, plan.placement, loading, load, plan.vae_tile_px
            )
        finally:
            self._prefetcher.done_with(weights)
        if self._residency.loaded != before:
            # What was evicted must not count as loaded while this job is drawn.
            events.progress("loading", 0, loaded=self._residency.loaded)
        load_encoder = partial(self._residency.text_encoder, resident, loading)
        texts = PlanTexts(plan, resident, self._embeddings, load_encoder)
        compiled = self._switches.apply(plan, resident, loading)
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
            prefetched_bytes=self._fetched.taken_bytes - taken_bytes,
            **self.held,
        )

    def recover_memory(self) -> None:
        """Unload everything: what is left of the memory may be too little for any job."""
        self._prefetcher.forget()
        self._embeddings.forget()
        self._residency.clear()
