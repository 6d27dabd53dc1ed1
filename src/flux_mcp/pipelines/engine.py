"""The worker's engine: draws a plan with what is loaded, and loads what is missing.

`Engine.draw` is what a worker runs for each job; tests and measurements call it directly. Below it
stand the passes of one plan through its pipeline, and decoding in tiles.
"""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from flux_mcp.errors import JobCancelledError, WeightsInvalidError
from flux_mcp.images.pasting import finisher
from flux_mcp.models.formats import format_of, text_precision
from flux_mcp.models.registry import Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.pipelines.device import (
    Device,
    arithmetic,
    begin_peak,
    memory_of,
    peak_gib,
    wide_products,
)
from flux_mcp.pipelines.families.adapter import Embeddings, Pixels, open_images
from flux_mcp.pipelines.families.family import adapter_for
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.fingerprints import Fingerprints
from flux_mcp.pipelines.loading.quantisers import compute_dtype
from flux_mcp.pipelines.loras.adapters import LoraAdapters
from flux_mcp.pipelines.memory.prefetch import Fetcher, Prefetcher, spec_of
from flux_mcp.pipelines.memory.residency import Residency
from flux_mcp.pipelines.memory.store import DeviceMemory
from flux_mcp.pipelines.steps import PreviewSettings, Reporter, StepWatch
from flux_mcp.pipelines.switches import Backend, SwitchBoard, denoising
from flux_mcp.pipelines.texts import MB, EmbeddingCache, EmbeddingFiles, PlanTexts
from flux_mcp.pipelines.upscaling import TileWatch, Upscalers
from flux_mcp.requests.plan import load_of_plan
from flux_mcp.requests.render_plan import PlanUpscale, RenderPlan
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Memory, weights_of


@dataclass(frozen=True)
class DrawFigures:
    """What a finished job took, as its `Done` event says it."""

    load_s: float
    """Seconds until everything was loaded."""
    draw_s: float
    """Seconds in the pipeline; of a plan of the kind upscale, making the image larger."""
    peak_gib: float | None
    """Most of the GPU's memory that was taken; `None` where it is not counted."""
    weights_sha256: str
    """Fingerprint of the transformer's files, or SHA-256 of what upscaled."""
    prefetched_bytes: int
    """Of the weights that were loaded, read before the job came."""


class EngineState(TypedDict):
    """What an engine has loaded, as final events say it."""

    loaded: tuple[str, ...]
    waiting: tuple[str, ...]
    memory: Memory | None


class Engine:
    """Draws plans, one at a time, and keeps what it loaded for the next.

    Args:
        settings: The folders, how much memory weights and embeddings may take.
        device: Where to draw.
        prefetcher: Reads weights ahead; left out, nothing is read ahead.
        registry: What can be drawn with; left out, the package's rows and the user's own.
        gpu: The memory of the GPU; left out, what the device has.
        compiler: What `torch.compile` hands its graphs to.
    """

    def __init__(
        self,
        settings: Settings,
        device: Device,
        prefetcher: Prefetcher | None = None,
        *,
        registry: Registry | None = None,
        gpu: DeviceMemory | None = None,
        compiler: Backend = "inductor",
    ) -> None:
        self.device = device
        self._registry = open_registry(settings) if registry is None else registry
        self._prefetcher = prefetcher or Prefetcher()
        fetched = self._prefetcher.fetched
        fingerprints = Fingerprints()
        self.residency = Residency(
            self._registry, settings, device, gpu, fingerprints=fingerprints, fetched=fetched
        )
        if prefetcher is not None:
            prefetcher.start(
                Fetcher(self._registry, settings, device, self.residency, fingerprints, fetched)
            )
        self.embeddings = EmbeddingCache(
            arithmetic(device),
            settings.embedding_cache_mb * MB,
            EmbeddingFiles(settings.paths.embeddings, settings.embedding_cache_disk_mb * MB),
        )
        self.adapters = LoraAdapters(settings.paths.loras)
        self.switches = SwitchBoard(device, compiler)
        self.upscalers = Upscalers(self._registry, settings, device, self.residency.store)

    @property
    def state(self) -> EngineState:
        """What is loaded now."""
        loaded, waiting = self.residency.loaded, self.residency.waiting
        return EngineState(loaded=loaded, waiting=waiting, memory=self.memory)

    @property
    def memory(self) -> Memory | None:
        """What is taken of the device's memory; `None` where it is not counted."""
        return memory_of(self.device)

    def draw(
        self,
        plan: RenderPlan,
        inputs: Mapping[str, bytes],
        reporter: Reporter,
        is_cancelled: Callable[[], bool],
        previews: PreviewSettings | None = None,
    ) -> DrawFigures:
        """Load what a plan needs, draw every image of it, and report each when it is decoded.

        Then each is upscaled, if the plan says so, and reported again.

        Args:
            plan: What to draw.
            inputs: The PNG of each input, by its SHA-256.
            reporter: Receives progress, previews and images.
            is_cancelled: Asked while loading, before each pass, at each step, after decoding, and
                at each tile.
            previews: How often to report how an image stands; left out, never.

        Raises:
            JobCancelledError: it was cancelled; the engine can draw the next plan.
            FluxMcpError: it cannot be drawn.
        """
        started = time.perf_counter()

        def check() -> None:
            if is_cancelled():
                raise JobCancelledError("The job was cancelled.")

        def loading(message: str) -> None:
            check()
            reporter.progress("loading", 0, message=message)

        begin_peak(self.device)
        loading("")
        if plan.upscale is not None:
            self.upscalers.load(plan.upscale, loading)
        if plan.kind == "upscale":
            return self._upscale_input(plan, inputs, reporter, check, started)
        fetched = self._prefetcher.fetched
        taken_before = fetched.taken_bytes
        resident = self._load(plan, reporter, loading)
        load_encoder = partial(self.residency.text_encoder, resident, loading)
        texts = PlanTexts(plan, resident, self.embeddings, load_encoder)
        compiled = self.switches.apply(plan, resident, loading)
        self.adapters.prepare(plan.loras, resident, loading, compiled=compiled)
        with self._products(resident):
            colours = None if previews is None else self.residency.colours(resident)
        loaded = time.perf_counter()
        watch = StepWatch(plan, reporter, is_cancelled, previews, colours)
        with (
            self._products(resident),
            self.adapters.active(plan.loras, resident, compiled=compiled),
            self.switches.active(plan, resident),
        ):
            drawn = _draw_passes(plan, inputs, resident, texts, watch, reporter)
        drawing_s, peak = time.perf_counter() - loaded, peak_gib(self.device)
        if plan.upscale is not None:
            self._upscale_drawn(plan, plan.upscale, inputs, drawn, reporter, watch.check)
        return DrawFigures(
            load_s=loaded - started,
            draw_s=drawing_s,
            peak_gib=peak,
            weights_sha256=resident.weights_sha256,
            prefetched_bytes=fetched.taken_bytes - taken_before,
        )

    def _upscale_input(
        self,
        plan: RenderPlan,
        inputs: Mapping[str, bytes],
        reporter: Reporter,
        check: Callable[[], None],
        started: float,
    ) -> DrawFigures:
        """Make the one image of a plan of the kind upscale larger, and report it."""
        how = plan.upscale
        if how is None:
            raise ValueError("a plan of the kind upscale says how")
        loaded = time.perf_counter()
        (image,) = open_images(plan, inputs)
        watch = TileWatch(reporter, check, steps_before=0, planned=plan.total_steps)
        with self.upscalers.on_device(how):
            larger = self.upscalers.upscale(np.asarray(image.image), how, watch)
        draw_s = time.perf_counter() - loaded
        reporter.image(0, plan.seeds[0], draw_s, larger)
        return DrawFigures(
            load_s=loaded - started,
            draw_s=draw_s,
            peak_gib=peak_gib(self.device),
            weights_sha256=how.sha256 or "",
            prefetched_bytes=0,
        )

    def _upscale_drawn(
        self,
        plan: RenderPlan,
        how: PlanUpscale,
        inputs: Mapping[str, bytes],
        drawn: Sequence[Pixels],
        reporter: Reporter,
        check: Callable[[], None],
    ) -> None:
        """Make each image that was drawn larger, as it is once it is pasted into the input."""
        finish = finisher(plan, lambda item: io.BytesIO(inputs[item.sha256]))
        watch = TileWatch(reporter, check, steps_before=plan.total_steps, images=len(drawn))
        with self.upscalers.on_device(how):
            for number, pixels in enumerate(drawn):
                started = time.perf_counter()
                larger = self.upscalers.upscale(np.asarray(finish(pixels.tobytes())), how, watch)
                seconds = time.perf_counter() - started
                reporter.image(len(drawn) + number, plan.seeds[number], seconds, larger)

    def _products(self, resident: Resident) -> AbstractContextManager[Any]:
        """Return how this device multiplies what the models of a pipeline compute in."""
        used = {resident.spec.precision, text_precision(resident.spec)}
        computed = {compute_dtype(format_of(one).compute) for one in used}
        return wide_products(self.device, computed)

    def recover_memory(self) -> None:
        """Unload everything: what is left of the memory may be too little for any job."""
        self._prefetcher.forget()
        self.embeddings.forget()
        self.residency.clear()
        self.upscalers.clear()

    def _load(
        self, plan: RenderPlan, reporter: Reporter, loading: Callable[[str], None]
    ) -> Resident:
        """Return the pipeline of a plan, and report what is loaded now if that has changed."""
        weights, before = weights_of(plan), self.residency.loaded
        spec = spec_of(self._registry, weights)
        load = load_of_plan(plan, spec)
        self._prefetcher.wait_for(weights, loading)
        try:
            resident = self.residency.pipeline(
                spec, plan.placement, loading, load, plan.vae_tile_px
            )
        finally:
            self._prefetcher.done_with(weights)
        if self.residency.loaded != before:
            # What was evicted must not count as loaded while this job is drawn.
            reporter.progress("loading", 0, loaded=self.residency.loaded)
        return resident


# --- the passes of a plan ---------------------------------------------------------------------


def _draw_passes(
    plan: RenderPlan,
    inputs: Mapping[str, bytes],
    resident: Resident,
    texts: PlanTexts,
    watch: StepWatch,
    reporter: Reporter,
) -> list[Pixels]:
    """Draw every image of a plan and report each when it is decoded; return those to be upscaled.

    One pass for each seed, so an image has the same pixels alone and as one of several; a batched
    plan takes one pass for all.

    Raises:
        JobCancelledError: the job was cancelled; the pipeline can be used again.
        InvalidImageError: an input cannot be read.
        WeightsInvalidError: the weights gave numbers that are no colours.
    """
    watch.encoding()
    adapter = adapter_for(resident.spec)(plan, open_images(plan, inputs), resident, texts)
    try:
        texts.encode(watch.check)
        each = tuple(zip(plan.seeds, plan.texts, strict=True))
        passes = [each] if plan.batched else [(one,) for one in each]
        # Each text once; the pixels are those of encoding it for every image.
        embeddings_of = cache(adapter.embeddings)
        for text in plan.texts:
            embeddings_of(text)
        index = 0
        kept: list[Pixels] = []
        for number, images in enumerate(passes):
            started = time.perf_counter()
            watch.start_pass(number)
            seeds = [seed for seed, _ in images]
            numbers = range(index, index + len(seeds))
            embeddings = _stacked([embeddings_of(text) for _, text in images])
            with tiled(resident.pipe.vae, plan.vae_tile_px):
                arguments = adapter.arguments(numbers) | embeddings
                colours = _run(resident.pipe, seeds, watch, arguments)
            watch.end_pass()
            seconds = time.perf_counter() - started
            for seed, drawn in zip(seeds, _to_pixels(colours), strict=True):
                reporter.image(index, seed, seconds, drawn)
                index += 1
                if plan.upscale is not None:
                    kept.append(drawn)
        return kept
    finally:
        # A raise skips diffusers' own cleanup: stateful caches would spoil the next image.
        for pipe in (resident.pipe, resident.prior):
            if pipe is not None:
                pipe.maybe_free_model_hooks()
        resident.release()


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


# --- decoding in tiles ------------------------------------------------------------------------

_TILE_STATE = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
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
    before = {name: getattr(vae, name) for name in _TILE_STATE}
    pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    vae.tile_sample_min_size = tile_px
    vae.tile_latent_min_size = tile_px // pixels_per_latent
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)
