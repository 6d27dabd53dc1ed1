"""Draws jobs with what is loaded: everything a worker needs for one, put together.

Owns nothing itself: residency, embeddings, LoRAs, switches and what is read ahead have owners of
their own.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from flux_mcp.errors import (
    JobCancelledError,
    WeightsInvalidError,
)
from flux_mcp.models.registry import Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.pipelines.device import (
    Device,
    arithmetic,
    begin_peak,
    memory_of,
    peak_gib,
)
from flux_mcp.pipelines.families.adapter import Embeddings, Pixels, open_images
from flux_mcp.pipelines.families.family import adapter_for
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.fingerprints import Fingerprints
from flux_mcp.pipelines.loras.adapters import Adapters
from flux_mcp.pipelines.memory.prefetch import Fetcher, Prefetcher, spec_of
from flux_mcp.pipelines.memory.residency import Residency
from flux_mcp.pipelines.pipe import JobEvents, WorkerJob
from flux_mcp.pipelines.steps import Reports, StepWatch
from flux_mcp.pipelines.switches import SwitchBoard, denoising
from flux_mcp.pipelines.texts import MB, EmbeddingCache, EmbeddingFiles, PlanTexts
from flux_mcp.requests.plan import RenderPlan, load_of_plan
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import (
    Done,
    Memory,
    weights_of,
)

_STATE = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
"""Attributes of AutoencoderKL and AutoencoderKLFlux2 (diffusers 0.42.1); neither takes them as
arguments. Tiles overlap by a quarter and are blended; an image no larger than one is not cut."""


@contextmanager
def tiled(vae: Any, tile_px: int | None) -> Iterator[None]:
    """Let a VAE decode and encode in tiles; afterwards it is as it was.

    Args:
        vae: The model, which other pipelines share.
        tile_px: Side of a tile in pixels of the image; `None` changes nothing.
    """
    if tile_px is None:
        yield
        return
    before = {name: getattr(vae, name) for name in _STATE}
    pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    vae.tile_sample_min_size = tile_px
    vae.tile_latent_min_size = tile_px // pixels_per_latent
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def draw(
    plan: RenderPlan,
    blobs: Mapping[str, bytes],
    resident: Resident,
    texts: PlanTexts,
    watch: StepWatch,
    reports: Reports,
) -> None:
    """Draw every image of a plan and report each when it is decoded.

    One pass for each seed, so an image has the same pixels alone and as one of several; a batched
    plan takes one pass for all.

    Raises:
        JobCancelledError: the job was cancelled; the pipeline can be used again.
        InvalidImageError: an input cannot be read.
        WeightsInvalidError: the weights gave numbers that are no colours.
    """
    watch.encoding()
    adapter = adapter_for(resident.spec)(plan, open_images(plan, blobs), resident, texts)
    try:
        texts.encode(watch.check)
        each = tuple(zip(plan.seeds, plan.texts, strict=True))
        passes = [each] if plan.batched else [(one,) for one in each]
        arguments = adapter.arguments(len(passes[0]))
        # Each text once; the pixels are those of encoding it for every image.
        embeddings_of = cache(adapter.embeddings)
        for text in plan.texts:
            embeddings_of(text)
        index = 0
        for number, pictures in enumerate(passes):
            started = time.perf_counter()
            watch.start_pass(number)
            seeds = [seed for seed, _ in pictures]
            embeddings = _stacked([embeddings_of(text) for _, text in pictures])
            with tiled(resident.pipe.vae, plan.vae_tile_px):
                colours = _run(resident.pipe, seeds, watch, arguments | embeddings)
            watch.end_pass()
            seconds = time.perf_counter() - started
            for seed, drawn in zip(seeds, _to_pixels(colours), strict=True):
                pixels = adapter.finish(drawn)
                reports.image(index, seed, seconds, pixels)
                index += 1
    finally:
        # A raise skips diffusers' own cleanup: stateful caches would spoil the next image.
        for pipe in (resident.pipe, resident.prior):
            if pipe is not None:
                pipe.maybe_free_model_hooks()
        resident.rest()


def _run(
    pipe: Any, seeds: Sequence[int], watch: StepWatch, arguments: dict[str, Any]
) -> NDArray[np.float32]:
    """Call the pipeline; return (n, height, width, 3) from 0 to 1."""
    import torch

    # New generators for each call, one for each image: drawing uses them up. On the CPU, so that
    # the noise does not depend on the device.
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    arguments = {**arguments, "generator": generators, "output_type": "np"}
    with denoising(pipe):
        result = pipe(**arguments, callback_on_step_end=watch)
    colours: NDArray[np.float32] = result.images
    return colours


def _stacked(embeddings: Sequence[Embeddings]) -> Embeddings:
    """Put the embeddings of a pass's images one after another, along the first dimension."""
    import torch

    if len(embeddings) == 1:
        return embeddings[0]
    return {name: torch.cat([one[name] for one in embeddings]) for name in embeddings[0]}


def _to_pixels(colours: NDArray[np.float32]) -> Pixels:
    """Round 0..1 to 0..255 as diffusers does, but refuse what is not a number."""
    if not np.isfinite(colours).all():
        raise WeightsInvalidError(
            "The model drew numbers that are no colours (NaN or infinite).",
            "Try less guidance; if it happens again, verify the weights' files.",
        )
    return (colours * 255).round().astype(np.uint8)


class LoadedJob(TypedDict):
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
    def held(self) -> LoadedJob:
        """What is loaded, as final events tell it."""
        loaded, waiting = self._residency.loaded, self._residency.waiting
        return LoadedJob(loaded=loaded, waiting=waiting, memory=self.memory)

    @property
    def memory(self) -> Memory | None:
        """What is held of the device's memory."""
        return memory_of(self.device)

    def draw(self, job: WorkerJob, events: JobEvents) -> Done:
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
