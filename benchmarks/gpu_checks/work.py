"""How much work a case is, counted by torch on the meta device, and the least seconds it can take.

The floor of a number of steps is

    steps x (linear / P + attention / A + elementwise / B) + encoders / P + VAE / P

with the rates P (matrix products), A (attention) and B (device memory) measured in the same run.
FLOPs are 2 x multiply-adds. `elementwise` are the bytes that norms, gates and activations read and
write between the products when they are fused: 21 for each token, channel and block, which is the
17 GB of a step of FLUX.1 dev at 1024x1024 (an estimate; a fortieth of the floor).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from flux_mcp.models.planning.speed import PIXELS_PER_TOKEN
from gpu_checks import parts
from gpu_checks.rates import Rates
from gpu_checks.scale import Scale

ELEMENTWISE_BYTES = 21
CLIP_TOKENS = 77


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one pass through a part."""

    linear: float
    """Matrix products and convolutions with weights."""
    attention: float

    @property
    def total(self) -> float:
        """Both."""
        return self.linear + self.attention


def count(run: Callable[[], object]) -> Flops:
    """Return the operations of a call, as torch's own counter sees them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()
    by_operator = counter.get_flop_counts()["Global"]
    attention = sum(
        flops
        for operator, flops in by_operator.items()
        # Products of two activations are attention; those with weights are mm and addmm.
        if "attention" in str(operator) or "bmm" in str(operator)
    )
    return Flops(float(sum(by_operator.values()) - attention), float(attention))


def square_tokens(side_px: int) -> int:
    """Return the tokens of a square image."""
    return side_px**2 // PIXELS_PER_TOKEN


@cache
def step_flops(scale: Scale, image_tokens: int, text_tokens: int) -> Flops:
    """Return the operations of one step of FLUX.1 dev."""
    import torch

    model = parts.transformer(scale, "meta")
    config = model.config

    def run() -> Any:
        with torch.device("meta"):
            return model(
                hidden_states=torch.empty(1, image_tokens, config.in_channels, dtype=model.dtype),
                encoder_hidden_states=torch.empty(
                    1, text_tokens, config.joint_attention_dim, dtype=model.dtype
                ),
                pooled_projections=torch.empty(1, config.pooled_projection_dim, dtype=model.dtype),
                timestep=torch.empty(1, dtype=model.dtype),
                guidance=torch.empty(1, dtype=model.dtype),
                img_ids=torch.empty(image_tokens, 3),
                txt_ids=torch.empty(text_tokens, 3),
            )

    return count(run)


@cache
def vae_flops(scale: Scale, side_px: int) -> tuple[Flops, Flops]:
    """Return the operations of decoding and of encoding a square image."""
    import torch

    model = parts.vae(scale, "meta")
    latent = torch.empty(1, 16, side_px // 8, side_px // 8, dtype=model.dtype, device="meta")
    image = torch.empty(1, 3, side_px, side_px, dtype=model.dtype, device="meta")
    return count(lambda: model.decoder(latent)), count(lambda: model.encoder(image))


@cache
def text_flops(scale: Scale, text_tokens: int) -> Flops:
    """Return the operations of encoding one prompt with both encoders."""
    import torch

    t5, clip = parts.t5(scale, "meta"), parts.clip(scale, "meta")
    long = torch.zeros(1, text_tokens, dtype=torch.long, device="meta")
    short = torch.zeros(1, CLIP_TOKENS, dtype=torch.long, device="meta")
    large, small = count(lambda: t5(long)), count(lambda: clip(short))
    return Flops(large.linear + small.linear, large.attention + small.attention)


@dataclass(frozen=True)
class Drawing:
    """One image, as far as its time is concerned."""

    steps: int
    side_px: int
    text_tokens: int
    references: int = 0
    """Images of the same size whose tokens stand beside its own."""

    @property
    def image_tokens(self) -> int:
        """Tokens of the image and its references."""
        return square_tokens(self.side_px) * (1 + self.references)


def step_floor_s(
    drawing: Drawing, scale: Scale, rates: Rates, *, fp8: bool = False
) -> float | None:
    """Return the least seconds of one step; `None` where fp8 was not measured."""
    product = rates.product_fp8 if fp8 else rates.product
    if product is None:
        return None
    tokens = drawing.image_tokens + drawing.text_tokens
    flops = step_flops(scale, drawing.image_tokens, drawing.text_tokens)
    elementwise = ELEMENTWISE_BYTES * tokens * scale.width * scale.blocks
    return (
        flops.linear / product
        + flops.attention / rates.attention_at(tokens)
        + elementwise / rates.copy_on_device
    )


def image_floor_s(
    drawing: Drawing, scale: Scale, rates: Rates, *, fp8: bool = False
) -> float | None:
    """Return the least seconds of an image, its prompt encoded and itself decoded."""
    step_s = step_floor_s(drawing, scale, rates, fp8=fp8)
    if step_s is None:
        return None
    decoding, encoding = vae_flops(scale, drawing.side_px)
    beside = text_flops(scale, drawing.text_tokens).total + decoding.total
    beside += drawing.references * encoding.total
    return drawing.steps * step_s + beside / rates.product
