"""What the code of Black Forest Labs calls the layers that diffusers has under other names. Data.

Trainers use either; a LoRA file says its layers in one of the two.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

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


Sizes = tuple[int, int]
"""Of a linear layer: numbers that go in, numbers that come out."""

TIMESTEP_CHANNELS = 256
"""Of the sinusoidal embedding of the time step; fixed in diffusers 0.42.1 (`Timesteps`)."""


@dataclass(frozen=True)
class Architecture:
    """One transformer, as far as a LoRA can tell."""

    name: str
    family: Family
    linears: Mapping[str, Sizes]
    """Every linear layer by its name in diffusers."""

    def find(self, name: str) -> tuple[str, ...]:
        """Return the layers a name stands for, in diffusers' or Black Forest Labs' words.

        With `_` for each `.` or without, as trainers write it; empty if there is no such layer.
        """
        return self._by_flat_name.get(_flat(name), ())

    @cached_property
    def _by_flat_name(self) -> Mapping[str, tuple[str, ...]]:
        found = {_flat(theirs): ours for theirs, ours in self._foreign()}
        # Last: one transformer's own name for a layer is never another layer's foreign one.
        return found | {_flat(name): (name,) for name in self.linears}

    def _foreign(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        names = NAMES[self.family]
        for outer, inner, row in (
            ("double_blocks", "transformer_blocks", names.double),
            ("single_blocks", "single_transformer_blocks", names.single),
        ):
            for index in range(_count(self.linears, inner)):
                for theirs, ours in row.items():
                    layers = tuple(f"{inner}.{index}.{one}" for one in ours)
                    yield f"{outer}.{index}.{theirs}", layers
        for theirs, ours in names.other.items():
            if all(one in self.linears for one in ours):
                yield theirs, ours


def is_foreign(name: str, layers: tuple[str, ...]) -> bool:
    """Whether a name is Black Forest Labs' and not diffusers' own."""
    return _flat(name) not in {_flat(layer) for layer in layers}


def block_counts(architecture: Architecture) -> tuple[int, int]:
    """Return how many double and how many single blocks a transformer has."""
    linears = architecture.linears
    return _count(linears, "transformer_blocks"), _count(linears, "single_transformer_blocks")


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _count(linears: Mapping[str, Sizes], blocks: str) -> int:
    pattern = re.compile(rf"{blocks}\.(\d+)\.")
    numbers = (int(found[1]) for name in linears if (found := pattern.match(name)))
    return 1 + max(numbers, default=-1)


# --- from config.json ----------------------------------------------------------------------------


def from_config(name: str, family: Family, config: Mapping[str, Any]) -> Architecture | None:
    """Return the layers of a transformer whose `config.json` is given.

    Args:
        name: What people call it.
        family: Its family.
        config: The file's object. What it leaves out has diffusers 0.42.1's default.

    Returns:
        None for a class of transformer whose layers are not known here.
    """
    make = _CLASSES.get(config.get("_class_name", ""))
    return None if make is None else Architecture(name, family, MappingProxyType(make(config)))


def _flux1_linears(config: Mapping[str, Any]) -> dict[str, Sizes]:
    """FluxTransformer2DModel (models/transformers/transformer_flux.py of diffusers 0.42.1)."""
    size = config.get("num_attention_heads", 24) * config.get("attention_head_dim", 128)
    channels = config.get("in_channels", 64)
    out_channels = config.get("out_channels") or channels
    linears = {
        "x_embedder": (channels, size),
        "context_embedder": (config.get("joint_attention_dim", 4096), size),
        "norm_out.linear": (size, 2 * size),
        "proj_out": (size, out_channels * config.get("patch_size", 1) ** 2),
    }
    embedders = {"timestep": TIMESTEP_CHANNELS, "text": config.get("pooled_projection_dim", 768)}
    if config.get("guidance_embeds", False):
        embedders["guidance"] = TIMESTEP_CHANNELS
    for embedder, width in embedders.items():
        linears[f"time_text_embed.{embedder}_embedder.linear_1"] = (width, size)
        linears[f"time_text_embed.{embedder}_embedder.linear_2"] = (size, size)
    double = {
        **_attention(size),
        "norm1.linear": (size, 6 * size),
        "norm1_context.linear": (size, 6 * size),
        **{f"{ff}.net.0.proj": (size, 4 * size) for ff in ("ff", "ff_context")},
        **{f"{ff}.net.2": (4 * size, size) for ff in ("ff", "ff_context")},
    }
    single = {
        **dict.fromkeys(QKV, (size, size)),
        "norm.linear": (size, 3 * size),
        "proj_mlp": (size, 4 * size),
        "proj_out": (5 * size, size),
    }
    return linears | _blocks(config, double, single, doubles=19, singles=38)


def _flux2_linears(config: Mapping[str, Any]) -> dict[str, Sizes]:
    """Flux2Transformer2DModel (models/transformers/transformer_flux2.py of diffusers 0.42.1)."""
    size = config.get("num_attention_heads", 48) * config.get("attention_head_dim", 128)
    hidden = int(size * config.get("mlp_ratio", 3.0))
    channels = config.get("in_channels", 128)
    out_channels = config.get("out_channels") or channels
    width = config.get("timestep_guidance_channels", TIMESTEP_CHANNELS)
    linears = {
        "x_embedder": (channels, size),
        "context_embedder": (config.get("joint_attention_dim", 15360), size),
        "norm_out.linear": (size, 2 * size),
        "proj_out": (size, out_channels * config.get("patch_size", 1) ** 2),
        "double_stream_modulation_img.linear": (size, 6 * size),
        "double_stream_modulation_txt.linear": (size, 6 * size),
        "single_stream_modulation.linear": (size, 3 * size),
    }
    for embedder in ("timestep", *(["guidance"] if config.get("guidance_embeds", True) else [])):
        linears[f"time_guidance_embed.{embedder}_embedder.linear_1"] = (width, size)
        linears[f"time_guidance_embed.{embedder}_embedder.linear_2"] = (size, size)
    double = {
        **_attention(size),
        # Gated: two halves come in, one goes out.
        **{f"{ff}.linear_in": (size, 2 * hidden) for ff in ("ff", "ff_context")},
        **{f"{ff}.linear_out": (hidden, size) for ff in ("ff", "ff_context")},
    }
    single = {
        "attn.to_qkv_mlp_proj": (size, 3 * size + 2 * hidden),
        "attn.to_out": (size + hidden, size),
    }
    return linears | _blocks(config, double, single, doubles=8, singles=48)


def _attention(size: int) -> dict[str, Sizes]:
    names = (*QKV, *ADDED_QKV, "attn.to_out.0", "attn.to_add_out")
    return dict.fromkeys(names, (size, size))


def _blocks(
    config: Mapping[str, Any],
    double: Mapping[str, Sizes],
    single: Mapping[str, Sizes],
    *,
    doubles: int,
    singles: int,
) -> dict[str, Sizes]:
    rows = (
        ("transformer_blocks", double, config.get("num_layers", doubles)),
        ("single_transformer_blocks", single, config.get("num_single_layers", singles)),
    )
    return {
        f"{block}.{index}.{name}": sizes
        for block, row, count in rows
        for index in range(count)
        for name, sizes in row.items()
    }


_CLASSES = MappingProxyType(
    {"FluxTransformer2DModel": _flux1_linears, "Flux2Transformer2DModel": _flux2_linears}
)

CONTROL = "FLUX.1 control"
"""What only fits here changes how a control image comes in: FLUX.1's control LoRAs do, which
make a transformer of 64 channels one of 128."""
_FLUX1_CONFIG = {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}
_FLUX2_CONFIG = {"_class_name": "Flux2Transformer2DModel"}
_KNOWN: tuple[tuple[str, Family, Mapping[str, Any]], ...] = (
    # FLUX.1: the defaults of diffusers' class; in_channels as models.toml has them.
    ("FLUX.1", "flux1", _FLUX1_CONFIG),
    ("FLUX.1 Fill", "flux1", {**_FLUX1_CONFIG, "in_channels": 384, "out_channels": 64}),
    (CONTROL, "flux1", {**_FLUX1_CONFIG, "in_channels": 128, "out_channels": 64}),
    # FLUX.2: util.py and model.py of black-forest-labs/flux2 (Flux2Params, Klein4BParams,
    # Klein9BParams); dev is also the default of diffusers' class.
    ("FLUX.2 dev", "flux2", _FLUX2_CONFIG),
    (
        "FLUX.2 klein 4B",
        "flux2",
        {
            **_FLUX2_CONFIG,
            "num_attention_heads": 24,
            "num_layers": 5,
            "num_single_layers": 20,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
    ),
    (
        "FLUX.2 klein 9B",
        "flux2",
        {
            **_FLUX2_CONFIG,
            "num_attention_heads": 32,
            "num_layers": 8,
            "num_single_layers": 24,
            "joint_attention_dim": 12288,
            "guidance_embeds": False,
        },
    ),
)


def known_architectures() -> tuple[Architecture, ...]:
    """Return the transformers of FLUX, whether their weights are on this disk or not."""
    made = (from_config(*row) for row in _KNOWN)
    return tuple(one for one in made if one is not None)
