"""What the parts of a pipeline weigh and cost, as rows read from parts.toml. Pure data.

The numbers of memory.py and planning/speed.py, and the names of precisions and placements. Each row
names its source.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal[
    "fp32", "bf16", "fp16", "fp8", "fp8wo", "fp8dq", "int8", "int4", "nf4",
    "q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k",
    "svdq_int4", "svdq_nvfp4",
]  # fmt: skip
"""Formats of weights, each a row of formats.toml; names that begin with `q` are block types of GGUF
files."""
Placement = Literal["resident", "model_offload", "group_offload", "block_stream"]
"""Where weights wait while they do not work; each needs less of the GPU than the one before."""

PLACEMENTS: tuple[Placement, ...] = ("resident", "model_offload", "group_offload", "block_stream")
PARTS_TOML = Path(__file__).with_name("parts.toml")


class _PartsRow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class MachineRow(_PartsRow):
    """What holds for every machine until something better is measured."""

    context_gib: float
    """Of the GPU's memory, taken before any weights."""
    base_ram_gib: float
    """Of host memory, taken before any weights."""
    efficiency: float = Field(gt=0, le=1)
    """Share of a GPU's rate that a step reaches."""


class TransformerRow(_PartsRow):
    """A denoising transformer."""

    parameters_m: float
    """In millions, here and in the other rows."""
    blocks: int
    width: int
    """Channels of a token."""
    macs: int
    """Multiply-adds of a token in a block, in squares of the width."""
    largest_block_m: float
    outside_m: float
    """Outside of the blocks; it stays on the GPU where blocks stream."""
    activation_gib_per_megapixel: float
    """Beside the weights, for a megapixel of tokens in one pass."""
    text_tokens: int
    source: str


class TextEncoderRow(_PartsRow):
    """A text encoder."""

    parameters_m: float
    table_m: float
    """Of them in the table of tokens, which stays in 16 bit when the rest is quantised."""
    quantised: bool
    """Whether a plan's text precision is its own; else it stays in 16 bit."""
    source: str


class VaeRow(_PartsRow):
    """An autoencoder; it stays in 16 bit."""

    parameters_m: float
    decode_gib_per_megapixel: float
    encode_gib_per_megapixel: float
    source: str


class ExtraPartRow(_PartsRow):
    """A prior or a LoRA that a model needs besides; it stays in 16 bit."""

    parameters_m: float
    source: str


class PrecisionRow(_PartsRow):
    """What a precision costs."""

    bits: int
    bytes_per_parameter: float
    slowdown: float
    """Seconds of a step, as a multiple of those in 16 bit."""
    made_from: tuple[Precision, ...]
    """Stored precisions that it can be made of while loading."""
    min_compute: float
    """Least compute capability of a CUDA GPU."""
    source: str


class PlacementRow(_PartsRow):
    """One way to share a GPU's memory among parts."""

    share: float = Field(ge=0, le=1)
    """Of the transformer, kept on the GPU while it works."""
    at_once: bool
    """Whether all parts are on the GPU together; else one at a time."""
    streams: bool
    """Whether the rest of the transformer comes over the bus at each step."""
    transfer_gib_s: float
    about: str
    source: str


class GpuRow(_PartsRow):
    """A GPU and the rate to expect of it."""

    name: str
    memory_gib: float
    tflops: float
    """bf16, dense."""
    source: str


class Parts(_PartsRow):
    """Everything in parts.toml."""

    machine: MachineRow
    transformer: Mapping[str, TransformerRow]
    text_encoder: Mapping[str, TextEncoderRow]
    vae: Mapping[str, VaeRow]
    extra: Mapping[str, ExtraPartRow]
    precision: Mapping[Precision, PrecisionRow]
    placement: Mapping[Placement, PlacementRow]
    gpu: tuple[GpuRow, ...]


@cache
def load_parts() -> Parts:
    """Return the rows of parts.toml, read at the first call."""
    return Parts.model_validate(tomllib.loads(PARTS_TOML.read_text(encoding="utf-8")))


def can_be_loaded_as(stored: Precision, wanted: Precision) -> bool:
    """Whether weights stored in one precision can be loaded in another."""
    return wanted == stored or stored in load_parts().precision[wanted].made_from
