"""How much GPU memory and host memory a pipeline takes. Pure.

The GPU, in GiB (M: megapixels of tokens in one pass, p: bytes of a parameter):

    context + weights on the GPU + working memory of the step that is under way

* encoding: the text encoders, or everything that is resident;
* denoising: the transformer's part that is on the GPU, a prior or LoRA beside it, and
  `activation_gib_per_megapixel` x M, where M counts the image, every reference beside it, and
  every image of a batch;
* decoding: the VAE, and `decode_gib_per_megapixel` x the megapixels decoded at once: those of a
  tile, if it decodes in tiles; encoding of references likewise, at one megapixel at most.

A streaming placement keeps `share` of the transformer, or what is in no block if that is more, and
two blocks: one that works, one that arrives. Host memory has a copy of all weights that leave the
GPU, so that leaving copies nothing. All numbers come from parts.toml.
"""

from dataclasses import dataclass

from flux_mcp.models.parts import Placement, Precision, TransformerRow, load_parts

GIB = 2**30
_WIDE_BITS = 16
STREAMED_BLOCKS = 2
"""On the GPU at once where blocks stream: one works, one arrives."""
REFERENCE_MEGAPIXELS = 1.05
"""A reference is scaled to at most 1024x1024 before it is read: Kontext's and FLUX.2's own limit
(diffusers 0.42.1)."""


@dataclass(frozen=True)
class Pieces:
    """The rows of parts.toml that a model is made of."""

    transformer: str
    text_encoders: tuple[str, ...]
    vae: str
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load:
    """How much one pass has to draw."""

    megapixels: float
    """Of one image."""
    references: int = 0
    """Images that are read beside it."""
    references_are_tokens: bool = False
    """Whether they lengthen the transformer's input; else they are channels of it."""
    batch: int = 1
    """Images in one pass."""

    @property
    def token_megapixels(self) -> float:
        """Megapixels the transformer works on at once."""
        beside = self.references * REFERENCE_MEGAPIXELS if self.references_are_tokens else 0.0
        return self.batch * (self.megapixels + beside)


@dataclass(frozen=True)
class LoadedAs:
    """How a model is loaded."""

    precision: Precision
    """Of the transformer."""
    text_precision: Precision
    """Of the large text encoder."""
    placement: Placement
    tile_px: int | None = None
    """Side of the tiles the VAE decodes in; `None`: the whole image at once."""


def weights_gib(parameters_m: float, precision: Precision) -> float:
    """Return the GiB that so many million parameters take."""
    return parameters_m * 1e6 * load_parts().precision[precision].bytes_per_parameter / GIB


def text_gib(pieces: Pieces, precision: Precision) -> float:
    """Return what the text encoders take; small ones stay in 16 bit, and so do tables of tokens.

    torchao, bitsandbytes, casting to fp8 and GGUF as it is read here quantise linear layers only.
    Of files in fp8 whose table is in fp8 too, less is taken: half of the table's.
    """
    rows = [load_parts().text_encoder[name] for name in pieces.text_encoders]
    wide: Precision = precision if load_parts().precision[precision].bits > _WIDE_BITS else "bf16"
    return sum(
        weights_gib(row.parameters_m - row.table_m, precision if row.quantised else "bf16")
        + weights_gib(row.table_m, wide if row.quantised else "bf16")
        for row in rows
    )


def vae_gib(pieces: Pieces) -> float:
    """Return what the VAE takes; it stays in 16 bit."""
    return weights_gib(load_parts().vae[pieces.vae].parameters_m, "bf16")


def extras_gib(pieces: Pieces) -> float:
    """Return what a prior or a LoRA takes; they stay in 16 bit."""
    extras = load_parts().extra
    return weights_gib(sum(extras[name].parameters_m for name in pieces.extras), "bf16")


def transformer_gib(pieces: Pieces, precision: Precision) -> float:
    """Return what the whole transformer takes."""
    return weights_gib(_transformer(pieces).parameters_m, precision)


def on_gpu_gib(pieces: Pieces, loaded_as: LoadedAs) -> float:
    """Return what the transformer takes of the GPU while it denoises."""
    row, placement = _transformer(pieces), load_parts().placement[loaded_as.placement]
    whole = weights_gib(row.parameters_m, loaded_as.precision)
    if not placement.streams:
        return whole
    in_flight = weights_gib(STREAMED_BLOCKS * row.largest_block_m, loaded_as.precision)
    return min(whole, _kept_gib(pieces, loaded_as) + in_flight)


def streamed_gib(pieces: Pieces, loaded_as: LoadedAs) -> float:
    """Return what comes over the bus at each step."""
    if not load_parts().placement[loaded_as.placement].streams:
        return 0.0
    return transformer_gib(pieces, loaded_as.precision) - _kept_gib(pieces, loaded_as)


def _kept_gib(pieces: Pieces, loaded_as: LoadedAs) -> float:
    """Return what stays on the GPU where blocks stream: the share, and never less than the rest.

    pipelines/memory/parts.py chooses the blocks by the same rule.
    """
    row, share = _transformer(pieces), load_parts().placement[loaded_as.placement].share
    kept_m = max(share * row.parameters_m, row.outside_m)
    return weights_gib(kept_m, loaded_as.precision)


def gpu_gib(pieces: Pieces, loaded_as: LoadedAs, load: Load) -> float:
    """Return the most that is taken of the GPU's memory at any moment of a job."""
    parts = load_parts()
    text, vae = text_gib(pieces, loaded_as.text_precision), vae_gib(pieces)
    transformer = on_gpu_gib(pieces, loaded_as) + extras_gib(pieces)
    denoising = _transformer(pieces).activation_gib_per_megapixel * load.token_megapixels
    decoding = _decoding_gib(pieces, loaded_as, load)
    if parts.placement[loaded_as.placement].at_once:
        peak = transformer + text + vae + max(denoising, decoding)
    else:
        peak = max(text, transformer + denoising, vae + decoding)
    return parts.machine.context_gib + peak


def working_gib(pieces: Pieces, load: Load) -> float:
    """Return the most that a job takes beside weights, where the whole image is decoded at once."""
    row = _transformer(pieces)
    decoding = _decoding_gib(pieces, LoadedAs("bf16", "bf16", "resident"), load)
    return max(row.activation_gib_per_megapixel * load.token_megapixels, decoding)


def ram_gib(pieces: Pieces, loaded_as: LoadedAs) -> float:
    """Return the host memory a machine should have: for weights that wait, and for everything else.

    Weights that stay on the GPU are read through the file system's cache, which counts as free.
    """
    parts = load_parts()
    placement = parts.placement[loaded_as.placement]
    if placement.at_once:
        return parts.machine.base_ram_gib
    return (
        parts.machine.base_ram_gib
        + transformer_gib(pieces, loaded_as.precision)
        + text_gib(pieces, loaded_as.text_precision)
        + vae_gib(pieces)
        + extras_gib(pieces)
    )


def _transformer(pieces: Pieces) -> TransformerRow:
    return load_parts().transformer[pieces.transformer]


def _decoding_gib(pieces: Pieces, loaded_as: LoadedAs, load: Load) -> float:
    vae = load_parts().vae[pieces.vae]
    at_once = load.megapixels * load.batch
    read = REFERENCE_MEGAPIXELS if load.references else 0.0
    if loaded_as.tile_px is not None:
        tile = loaded_as.tile_px**2 / 1e6
        at_once, read = min(at_once, tile), min(read, tile)
    return max(at_once * vae.decode_gib_per_megapixel, read * vae.encode_gib_per_megapixel)
