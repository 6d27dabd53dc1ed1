"""The transformers: FLUX.1's own class with six small blocks, and the inputs of each kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

from training.text import POOLED_CHANNELS, TEXT_CHANNELS
from training.vae import FACTOR, LATENT_CHANNELS

HEADS = 4
HEAD_CHANNELS = 32
ROPE_AXES = (4, 14, 14)
DOUBLE_BLOCKS = 2
SINGLE_BLOCKS = 4
TOKEN_CHANNELS = 4 * LATENT_CHANNELS
"""Two by two latents make one token."""
TOKEN_PX = 2 * FACTOR


@dataclass(frozen=True)
class KindSpec:
    """What a kind's pipeline class puts into the transformer."""

    pipeline: str
    in_channels: int


KINDS: Mapping[str, KindSpec] = MappingProxyType(
    {
        "text2img": KindSpec("FluxPipeline", TOKEN_CHANNELS),
        "kontext": KindSpec("FluxKontextPipeline", TOKEN_CHANNELS),  # the source as more tokens
        # The masked image, and its mask: 8 by 8 px for each of four latents.
        "fill": KindSpec("FluxFillPipeline", 2 * TOKEN_CHANNELS + 4 * FACTOR**2),
        "control": KindSpec("FluxControlPipeline", 2 * TOKEN_CHANNELS),  # the structure beside
    }
)


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1 dev's own settings."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def make_transformer(kind: str) -> FluxTransformer2DModel:
    """Make an untrained transformer of a kind that predicts nothing at first (adaLN-zero).

    The class has no such start of its own: every modulation is zero but the gates, which let a
    little through, and so is the way out.
    """
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=KINDS[kind].in_channels,
        out_channels=TOKEN_CHANNELS,  # the default, in_channels, fails for fill and control
        num_layers=DOUBLE_BLOCKS,
        num_single_layers=SINGLE_BLOCKS,
        attention_head_dim=HEAD_CHANNELS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_CHANNELS,
        pooled_projection_dim=POOLED_CHANNELS,
        guidance_embeds=True,
        axes_dims_rope=ROPE_AXES,
    )
    channels = HEADS * HEAD_CHANNELS
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "blocks" in name and ".norm" in name and ".linear." in name:
                parameter.zero_()
                if name.endswith("bias"):
                    chunks = parameter.view(-1, channels)
                    # Shift, scale, gate: once in a single block, twice in a double one.
                    chunks[2::3] = 0.3
        for layer in (model.norm_out.linear, model.proj_out):
            layer.weight.zero_()
            layer.bias.zero_()
    return model


def widen(model: FluxTransformer2DModel, kind: str) -> FluxTransformer2DModel:
    """Return a transformer of another kind with the weights of `model`; new inputs count little."""
    wider = make_transformer(kind)
    weights = dict(model.state_dict())
    known = weights["x_embedder.weight"]
    rows = torch.randn(known.shape[0], KINDS[kind].in_channels) * 0.01
    rows[:, : known.shape[1]] = known
    weights["x_embedder.weight"] = rows
    wider.load_state_dict(weights)
    return wider
