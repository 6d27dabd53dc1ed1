"""One plan from its pictures to its pixels: the passes over a resident pipeline.

Owns the order of things and the seeds. Knows no kind; kinds.py's adapters do.
"""

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.pipelines.flux2 import adapter_for
from flux_mcp.pipelines.kinds import Embeddings, Pixels, open_pictures
from flux_mcp.pipelines.placing.tiles import tiled
from flux_mcp.pipelines.resident import Resident
from flux_mcp.pipelines.steps import Reports, StepWatch
from flux_mcp.pipelines.switches import denoising
from flux_mcp.pipelines.texts import PlanTexts
from flux_mcp.requests.plan import RenderPlan


def draw(
    plan: RenderPlan,
    blobs: Mapping[str, bytes],
    resident: Resident,
    texts: PlanTexts,
    watch: StepWatch,
    reports: Reports,
) -> None:
    """Draw every picture of a plan and report each when it is decoded.

    One pass for each seed, so a picture has the same pixels alone and as one of several; a batched
    plan takes one pass for all.

    Raises:
        JobCancelledError: the job was cancelled; the pipeline can be used again.
        InvalidImageError: an input cannot be read.
        WeightsInvalidError: the weights gave numbers that are no colours.
    """
    watch.encoding()
    adapter = adapter_for(resident.spec)(plan, open_pictures(plan, blobs), resident, texts)
    try:
        texts.encode(watch.check)
        each = tuple(zip(plan.seeds, plan.texts, strict=True))
        passes = [each] if plan.batched else [(one,) for one in each]
        arguments = adapter.arguments(len(passes[0]))
        # Each text once; the pixels are those of encoding it for every picture.
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
                reports.picture(index, seed, seconds, pixels)
                index += 1
    finally:
        # A raise skips diffusers' own cleanup: stateful caches would spoil the next picture.
        for pipe in (resident.pipe, resident.prior):
            if pipe is not None:
                pipe.maybe_free_model_hooks()
        resident.rest()


def _run(
    pipe: Any, seeds: Sequence[int], watch: StepWatch, arguments: dict[str, Any]
) -> NDArray[np.float32]:
    """Call the pipeline; return (n, height, width, 3) from 0 to 1."""
    import torch

    # New generators for each call, one for each picture: drawing uses them up. On the CPU, so that
    # the noise does not depend on the device.
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    arguments = {**arguments, "generator": generators, "output_type": "np"}
    with denoising(pipe):
        result = pipe(**arguments, callback_on_step_end=watch)
    colours: NDArray[np.float32] = result.images
    return colours


def _stacked(embeddings: Sequence[Embeddings]) -> Embeddings:
    """Put the embeddings of a pass's pictures one after another, along the first dimension."""
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
