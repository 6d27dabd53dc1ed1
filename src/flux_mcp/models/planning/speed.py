"""How long a job takes: estimated from FLOPs and the GPU's rate, or learned from other jobs. Pure.

For a transformer of n blocks, width h and m multiply-adds (in h^2) of a token in a block, and L
tokens, image and text together:

    FLOPs of a step = 2 n m h^2 L + 4 n L^2 h

which agrees with torch's own counter to four digits for FLUX.1 and FLUX.2 (diffusers 0.42.1, meta
device: 74.38 TFLOP for FLUX.1 dev at 1024x1024). A step that streams takes no less than its blocks
take over the bus. The estimate is good to a factor of two; where a machine has measured jobs of the
same model, they count instead (candidates.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flux_mcp.models.memory import (
    Load,
    LoadedAs,
    Pieces,
    gpu_gib,
    streamed_gib,
    text_gib,
    transformer_gib,
)
from flux_mcp.models.parts import GpuRow, Placement, Precision, load_parts
from flux_mcp.models.registry import Kind

PIXELS_PER_TOKEN = 256
"""VAE factor 8 and packing 2, both ways."""
ENCODE_AND_DECODE_S = 0.5
"""Text encoders and VAE beside the steps: 24 and 130 ms on an H100 (sglang #25517); guess."""


# --- estimated -----------------------------------------------------------------------------------


def step_flops(transformer: str, megapixels: float) -> float:
    """Return the floating-point operations of one step on so many megapixels of tokens."""
    row = load_parts().transformer[transformer]
    tokens = megapixels * 1e6 / PIXELS_PER_TOKEN + row.text_tokens
    linear = 2 * row.blocks * row.macs * row.width**2 * tokens
    attention = 4 * row.blocks * tokens**2 * row.width
    return linear + attention


def is_known_gpu(name: str) -> bool:
    """Whether the speed of a GPU of this name is known."""
    return bool(_rows_named(name))


def _rows_named(name: str) -> list[GpuRow]:
    words = set(name.lower().split())
    return [row for row in load_parts().gpu if set(row.name.lower().split()) <= words]


def find_gpu(name: str | None, memory_gib: float) -> GpuRow:
    """Return the row of a GPU: by its name, else the slowest of the largest no larger than it."""
    rows = load_parts().gpu
    named = _rows_named(name or "")
    if named:
        return max(named, key=lambda row: len(row.name))
    no_larger = [row for row in rows if row.memory_gib <= memory_gib + 1]
    if not no_larger:
        return min(rows, key=lambda row: row.tflops)
    size = max(row.memory_gib for row in no_larger)
    return min((r for r in no_larger if r.memory_gib == size), key=lambda row: row.tflops)


def job_seconds(
    pieces: Pieces, loaded_as: LoadedAs, load: Load, *, steps: int, passes: int, gpu: GpuRow
) -> float:
    """Return the seconds a job takes with its weights in memory.

    Args:
        pieces: What the model is made of.
        loaded_as: How it is loaded.
        load: What one pass draws.
        steps: Denoising steps of a pass.
        passes: How often the pipeline runs.
        gpu: The row whose rate counts.
    """
    parts = load_parts()
    rate = gpu.tflops * 1e12 * parts.machine.efficiency
    compute_s = step_flops(pieces.transformer, load.token_megapixels) / rate
    compute_s *= parts.precision[loaded_as.precision].slowdown
    placement = parts.placement[loaded_as.placement]
    step_s = max(compute_s, streamed_gib(pieces, loaded_as) / placement.transfer_gib_s)
    moved_gib = 0.0
    if not placement.at_once:
        moved_gib += text_gib(pieces, loaded_as.text_precision)
        # What streams is copied during the steps.
        moved_gib += 0.0 if placement.streams else transformer_gib(pieces, loaded_as.precision)
    moving_s = moved_gib / placement.transfer_gib_s
    return passes * (steps * step_s + ENCODE_AND_DECODE_S) + moving_s


# --- learned from finished jobs ------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """What a finished job took on this machine."""

    model: str
    kind: Kind
    precision: Precision
    placement: Placement
    megapixels: float
    """Token megapixels of a pass (memory.py)."""
    seconds_per_step: float
    peak_gib: float | None = None
    """Most of the GPU's memory, the context included; `None` where it was not measured."""


def figures_of(
    figures: Sequence[Figure], model: str, kind: Kind, loaded_as: LoadedAs
) -> tuple[Figure, ...]:
    """Return the figures of a model that was loaded in the same way."""
    way = (model, kind, loaded_as.precision, loaded_as.placement)
    return tuple(f for f in figures if (f.model, f.kind, f.precision, f.placement) == way)


def learned_seconds(figures: Sequence[Figure], load: Load, steps: int) -> float | None:
    """Return the seconds of so many steps by the median rate; a step grows with its megapixels."""
    rates = [f.seconds_per_step / f.megapixels for f in figures if f.megapixels > 0]
    return median(rates) * load.token_megapixels * steps if rates else None


def learned_offset_gib(figures: Sequence[Figure], pieces: Pieces, loaded_as: LoadedAs) -> float:
    """Return how far measured peaks lay above what is computed: the median, in GiB.

    Never below zero: a job that needed less than another may need more the next time.
    """
    offsets = [
        f.peak_gib - gpu_gib(pieces, loaded_as, Load(f.megapixels))
        for f in figures
        if f.peak_gib is not None
    ]
    return max(0.0, median(offsets)) if offsets else 0.0
