"""Control LoRAs made for a test, named as Black Forest Labs' are, or as diffusers' trainer does."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flux_mcp.models.architectures import SWAPPED
from flux_mcp.models.families import FAMILIES

from .lora_files import Tensors

NAMES = FAMILIES["flux1"].layer_names

# Layers of black-forest-labs/flux, model.py and modules/layers.py: inputs and outputs, in widths of
# the transformer. Its LoRA wrapper puts a pair of matrices on every one.
_DOUBLE = {
    **{f"{stream}_mod.lin": (1, 6) for stream in ("img", "txt")},
    **{f"{stream}_attn.qkv": (1, 3) for stream in ("img", "txt")},
    **{f"{stream}_attn.proj": (1, 1) for stream in ("img", "txt")},
    **{f"{stream}_mlp.0": (1, 4) for stream in ("img", "txt")},
    **{f"{stream}_mlp.2": (4, 1) for stream in ("img", "txt")},
}
_SINGLE = {"modulation.lin": (1, 3), "linear1": (1, 7), "linear2": (5, 1)}


def bfl(
    config: Mapping[str, Any],
    in_channels: int,
    *,
    rank: int = 2,
    has_biases: bool = True,
    has_norms: bool = True,
) -> Tensors:
    """Return a control LoRA for the transformer of a `config.json`, in Black Forest Labs' names."""
    numbers = np.random.default_rng([in_channels, rank])

    def some(*shape: int, about: float = 0.0) -> np.ndarray:
        return (about + numbers.normal(0, 0.1, shape)).astype(np.float32)

    tensors: Tensors = {}
    for layer, (inputs, outputs) in _layers(config, in_channels):
        # At most the layer's own rank, as their wrapper has it.
        inner = min(rank, inputs, outputs)
        tensors[f"{layer}.lora_A.weight"] = some(inner, inputs)
        tensors[f"{layer}.lora_B.weight"] = some(outputs, inner)
        if has_biases:
            tensors[f"{layer}.lora_B.bias"] = some(outputs)
    if has_norms:
        for name in _norms(config):
            tensors[name] = some(config["attention_head_dim"], about=1.0)
    return tensors


def in_diffusers_names(tensors: Tensors) -> Tensors:
    """Return the same control LoRA as diffusers names it: q, k and v apart, scale before shift."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        layer, mark, end = name.partition(".lora_")
        outer, _, rest = layer.partition(".")
        if outer not in {"double_blocks", "single_blocks"}:
            (target,) = NAMES.other[layer]
            turned = end != "A.weight" and target == SWAPPED
            value = np.concatenate(np.split(tensor, 2)[::-1]) if turned else tensor
            renamed[f"transformer.{target}{mark}{end}"] = value
            continue
        index, _, inner = rest.partition(".")
        is_double = outer == "double_blocks"
        block = f"transformer.{'' if is_double else 'single_'}transformer_blocks.{index}"
        if not mark:
            norm = (NAMES.double_norms if is_double else NAMES.single_norms)[inner]
            renamed[f"{block}.{norm}"] = tensor
            continue
        targets = (NAMES.double if is_double else NAMES.single)[inner]
        if end == "A.weight":
            pieces = [tensor] * len(targets)
        elif inner == "linear1":
            third = tensor.shape[0] // 7
            pieces = np.split(tensor, [third, 2 * third, 3 * third])
        else:
            pieces = np.split(tensor, len(targets))
        for target, piece in zip(targets, pieces, strict=True):
            renamed[f"{block}.{target}{mark}{end}"] = np.ascontiguousarray(piece)
    return renamed


def _layers(config: Mapping[str, Any], in_channels: int) -> Iterator[tuple[str, tuple[int, int]]]:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    for outer, count, layers in (
        ("double_blocks", config["num_layers"], _DOUBLE),
        ("single_blocks", config["num_single_layers"], _SINGLE),
    ):
        for index in range(count):
            for layer, (inputs, outputs) in layers.items():
                yield f"{outer}.{index}.{layer}", (inputs * width, outputs * width)
    yield "img_in", (in_channels, width)
    yield "txt_in", (config["joint_attention_dim"], width)
    for embedder, inputs in (
        ("time_in", 256),
        ("guidance_in", 256),
        ("vector_in", config["pooled_projection_dim"]),
    ):
        yield f"{embedder}.in_layer", (inputs, width)
        yield f"{embedder}.out_layer", (width, width)
    yield "final_layer.linear", (width, config["out_channels"])
    yield "final_layer.adaLN_modulation.1", (width, 2 * width)


def _norms(config: Mapping[str, Any]) -> Iterator[str]:
    for side in ("query", "key"):
        for index in range(config["num_layers"]):
            for stream in ("img", "txt"):
                yield f"double_blocks.{index}.{stream}_attn.norm.{side}_norm.scale"
        for index in range(config["num_single_layers"]):
            yield f"single_blocks.{index}.norm.{side}_norm.scale"
