"""What the code of Black Forest Labs calls the layers that diffusers has under other names. Data.

Trainers use either; a LoRA file says its layers in one of the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Family = Literal["flux1", "flux2", "micro"]

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

# The names of Black Forest Labs' own code (black-forest-labs/flux and flux2, model.py) -> the
# layers of diffusers that hold the same numbers, one after another along the outputs.
# Source: lora_conversion_utils.py of diffusers 0.42.1, whose converters have them line by line.
_DOUBLE_ATTENTION: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": QKV,
    "txt_attn.qkv": ADDED_QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    # XLabs' attention processors.
    "processor.qkv_lora1": QKV,
    "processor.qkv_lora2": ADDED_QKV,
    "processor.proj_lora1": ("attn.to_out.0",),
    "processor.proj_lora2": ("attn.to_add_out",),
}
_ENDS: Mapping[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}


@dataclass(frozen=True)
class Names:
    """What a family calls its layers in the code of Black Forest Labs."""

    double: Mapping[str, tuple[str, ...]]
    single: Mapping[str, tuple[str, ...]]
    other: Mapping[str, tuple[str, ...]]


def _embedders(inner: str, **outer: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{theirs}.{layer}_layer": (f"{inner}.{ours}.linear_{number}",)
        for theirs, ours in outer.items()
        for number, layer in enumerate(("in", "out"), start=1)
    }


_FLUX1 = Names(
    double={
        **_DOUBLE_ATTENTION,
        "img_mlp.0": ("ff.net.0.proj",),
        "img_mlp.2": ("ff.net.2",),
        "txt_mlp.0": ("ff_context.net.0.proj",),
        "txt_mlp.2": ("ff_context.net.2",),
        "img_mod.lin": ("norm1.linear",),
        "txt_mod.lin": ("norm1_context.linear",),
    },
    single={
        "linear1": (*QKV, "proj_mlp"),
        "linear2": ("proj_out",),
        "modulation.lin": ("norm.linear",),
        "processor.qkv_lora": QKV,
        "processor.proj_lora": ("proj_out",),
    },
    other={
        **_ENDS,
        **_embedders(
            "time_text_embed",
            time_in="timestep_embedder",
            guidance_in="guidance_embedder",
            vector_in="text_embedder",
        ),
    },
)
_FLUX2 = Names(
    double={
        **_DOUBLE_ATTENTION,
        "img_mlp.0": ("ff.linear_in",),
        "img_mlp.2": ("ff.linear_out",),
        "txt_mlp.0": ("ff_context.linear_in",),
        "txt_mlp.2": ("ff_context.linear_out",),
    },
    single={"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)},
    other={
        **_ENDS,
        **_embedders(
            "time_guidance_embed", time_in="timestep_embedder", guidance_in="guidance_embedder"
        ),
        "single_stream_modulation.lin": ("single_stream_modulation.linear",),
        "double_stream_modulation_img.lin": ("double_stream_modulation_img.linear",),
        "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
    },
)
NAMES: Mapping[Family, Names] = MappingProxyType(
    {"flux1": _FLUX1, "micro": _FLUX1, "flux2": _FLUX2}
)
SWAPPED = "norm_out.linear"
"""Black Forest Labs' code has shift before scale in it, diffusers scale before shift."""

# Norms of the attention that control LoRAs replace. Source: `_convert_bfl_flux_control_lora_to_
# diffusers` in lora_conversion_utils.py of diffusers 0.42.1.
DOUBLE_NORMS: Mapping[str, str] = MappingProxyType(
    {
        "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
        "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
        "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
        "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    }
)
SINGLE_NORMS: Mapping[str, str] = MappingProxyType(
    {
        "norm.query_norm.scale": "attn.norm_q.weight",
        "norm.key_norm.scale": "attn.norm_k.weight",
    }
)
