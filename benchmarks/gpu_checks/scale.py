"""How large everything is: `full`, as FLUX.1 is published, and `tiny`, the same for a CPU. Data.

Sources of `FULL`: config.json of black-forest-labs/FLUX.1-dev (transformer, vae, text_encoder,
text_encoder_2) and of FLUX.1-Redux-dev (image_encoder, image_embedder). `TINY` keeps the geometry
(VAE factor 8 with 16 latent channels, three RoPE axes) and makes everything else small.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Scale:
    """Sizes of one scale."""

    name: str
    transformer: Config
    """Of diffusers' FluxTransformer2DModel, but for channels and guidance."""
    clip: Config
    t5: Config
    vae: Config
    siglip: Config
    redux: Config
    side_px: int
    """Of an image."""
    dev_steps: int
    schnell_steps: int
    repetitions: int
    """Of a whole image; the median counts."""
    quick_repetitions: int
    """Of what takes milliseconds."""
    matrix_side: int
    """Of the square matrices whose product gives the rate."""
    tokens: tuple[int, ...]
    """Sequence lengths attention is measured at."""
    copy_bytes: int
    shard: str
    """Largest file of a part's weights."""
    compiler: str
    """Backend of torch.compile; `eager` traces as the real one does and generates no code."""

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.transformer["num_attention_heads"] * self.transformer["attention_head_dim"])

    @property
    def blocks(self) -> int:
        """Blocks of the transformer, of both sorts."""
        return int(self.transformer["num_layers"] + self.transformer["num_single_layers"])


_VAE: Config = MappingProxyType(
    {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": True,
        "force_upcast": True,
    }
)

FULL = Scale(
    name="full",
    transformer=MappingProxyType(
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "axes_dims_rope": (16, 56, 56),
        }
    ),
    clip=MappingProxyType(
        {
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
        }
    ),
    t5=MappingProxyType(
        {
            "vocab_size": 32128,
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "use_cache": False,
        }
    ),
    vae=MappingProxyType(
        {
            **_VAE,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "sample_size": 1024,
        }
    ),
    siglip=MappingProxyType(
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "hidden_act": "gelu_pytorch_tanh",
        }
    ),
    redux=MappingProxyType({"redux_dim": 1152, "txt_in_features": 4096}),
    side_px=1024,
    dev_steps=28,
    schnell_steps=4,
    repetitions=3,
    quick_repetitions=20,
    matrix_side=8192,
    tokens=(4608, 8704),
    copy_bytes=2 * 2**30,
    shard="10GB",
    compiler="inductor",
)

TINY = Scale(
    name="tiny",
    transformer=MappingProxyType(
        {
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
        }
    ),
    clip=MappingProxyType(
        {
            "vocab_size": 1000,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 32,
            "max_position_embeddings": 77,
        }
    ),
    t5=MappingProxyType(
        {
            "vocab_size": 1000,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "use_cache": False,
        }
    ),
    vae=MappingProxyType(
        {
            **_VAE,
            "block_out_channels": (8, 8, 8, 8),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "sample_size": 256,
        }
    ),
    siglip=MappingProxyType(
        {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        }
    ),
    redux=MappingProxyType({"redux_dim": 24, "txt_in_features": 32}),
    side_px=256,
    dev_steps=4,
    schnell_steps=2,
    repetitions=1,
    quick_repetitions=2,
    matrix_side=128,
    tokens=(64, 128),
    copy_bytes=2**20,
    shard="100KB",
    compiler="eager",
)

SCALES: Mapping[str, Scale] = MappingProxyType({scale.name: scale for scale in (FULL, TINY)})
