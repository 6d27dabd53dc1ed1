"""How long a job takes on a GPU it never ran on: FLOPs over the GPU's rate. Pure.

For a transformer of n blocks, width h and m multiply-adds (in h^2) of a token in a block, and L
tokens, image and text together:

    FLOPs of a step = 2 n m h^2 L + 4 n L^2 h

which agrees with torch's own counter to four digits for FLUX.1 and FLUX.2 (diffusers 0.42.1, meta
device: 74.38 TFLOP for FLUX.1 dev at 1024x1024). A step that streams takes no less than its blocks
take over the bus. Good to a factor of two; what a machine has measured counts instead (tiers.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flux_mcp.models.memory import (
    Holding,
    Load,
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


def step_flops(transformer: str, megapixels: float) -> float:
    """Return the floating-point operations of one step on so many megapixels of tokens."""
    row = load_parts().transformer[transformer]
    tokens = megapixels * 1e6 / PIXELS_PER_TOKEN + row.text_tokens
    linear = 2 * row.blocks * row.macs * row.width**2 * tokens
    attention = 4 * row.blocks * tokens**2 * row.width
    return linear + attention


def find_gpu(name: str | None, memory_gib: float) -> GpuRow:
    """Return the row of a GPU: by its driver's name, else the slowest one of its size."""
    rows = load_parts().gpu
    named = [row for row in rows if name and set(row.name.split()) <= set(name.split())]
    if named:
        return max(named, key=lambda row: len(row.name))
    no_larger = [row for row in rows if row.memory_gib <= memory_gib + 1]
    if not no_larger:
        return min(rows, key=lambda row: row.tflops)
    size = max(row.memory_gib for row in no_larger)
    return min((r for r in no_larger if r.memory_gib == size), key=lambda row: row.tflops)


def job_seconds(
    pieces: Pieces, holding: Holding, load: Load, *, steps: int, passes: int, gpu: GpuRow
) -> float:
    """Return the seconds a job takes with its weights in memory.

    Args:
        pieces: What the model is made of.
        holding: How it is held.
        load: What one pass draws.
        steps: Denoising steps of a pass.
        passes: How often the pipeline runs.
        GPU: Whose rate counts.
    """
    parts = load_parts()
    rate = gpu.tflops * 1e12 * parts.machine.efficiency
    compute_s = step_flops(pieces.transformer, load.token_megapixels) / rate
    compute_s *= parts.precision[holding.precision].slowdown
    placement = parts.placement[holding.placement]
    step_s = max(compute_s, streamed_gib(pieces, holding) / placement.transfer_gib_s)
    moved_gib = 0.0
    if not placement.at_once:
        moved_gib += text_gib(pieces, holding.text_precision)
        # What streams has come over with the steps.
        moved_gib += 0.0 if placement.streams else transformer_gib(pieces, holding.precision)
    moving_s = moved_gib / placement.transfer_gib_s
    return passes * (steps * step_s + ENCODE_AND_DECODE_S) + moving_s


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
    """Most of the GPU's memory, the context too; `None` where nobody measured it."""


def figures_of(
    figures: Sequence[Figure], model: str, kind: Kind, holding: Holding
) -> tuple[Figure, ...]:
    """Return the figures of a model that was held so."""
    way = (model, kind, holding.precision, holding.placement)
    return tuple(f for f in figures if (f.model, f.kind, f.precision, f.placement) == way)


def learned_seconds(figures: Sequence[Figure], load: Load, steps: int) -> float | None:
    """Return the seconds of so many steps by the median rate; a step grows with its megapixels."""
    rates = [f.seconds_per_step / f.megapixels for f in figures if f.megapixels > 0]
    return median(rates) * load.token_megapixels * steps if rates else None


def learned_offset_gib(figures: Sequence[Figure], pieces: Pieces, holding: Holding) -> float:
    """Return how far measured peaks lay above what is computed: the median, in GiB.

    Never below zero: a job that needed less than another may need more the next time.
    """
    offsets = [
        f.peak_gib - gpu_gib(pieces, holding, Load(f.megapixels))
        for f in figures
        if f.peak_gib is not None
    ]
    return max(0.0, median(offsets)) if offsets else 0.0
