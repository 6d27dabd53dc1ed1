"""Whether a file is a control LoRA for a transformer, and what of it goes where. Pure.

FLUX.1's control LoRAs make a transformer that draws from words into one that follows a picture:
besides layers like any LoRA's they widen the first one, add to biases, and replace the norms of the
attention (black-forest-labs/flux, modules/lora.py; diffusers 0.42.1, `FluxLoraLoaderMixin`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flux_mcp.errors import InvalidLoraError, LoraMismatchError
from flux_mcp.models.architectures import Architecture, block_counts, from_config
from flux_mcp.models.layer_names import DOUBLE_NORMS, SINGLE_NORMS, Family
from flux_mcp.models.lora_fit import Placed, place
from flux_mcp.models.lora_header import LoraHeader, refuse_others, without_prefix

INPUT_LAYER = "x_embedder"
"""Takes in the noise and, widened, the control picture beside it."""
_MEND = "Name the file of a control LoRA that was trained for this base."


@dataclass(frozen=True)
class ControlFit:
    """What a control LoRA changes."""

    placed: tuple[Placed, ...]
    biases: Mapping[str, str]
    """Tensor that is added to a layer's bias, by the tensor `up` of its pair of matrices."""
    norms: Mapping[str, str]
    """Tensor that replaces a norm, by the norm's name in diffusers."""


def control_config(config: Mapping[str, Any], in_channels: int) -> dict[str, Any]:
    """Return the `config.json` of a base's transformer once its first layer is widened.

    What comes out stays as wide as it was, which diffusers takes from what goes in if it is not
    said.
    """
    out_channels = config.get("out_channels") or config.get("in_channels", 64)
    return {**config, "in_channels": in_channels, "out_channels": out_channels}


def fit_control(
    header: LoraHeader, name: str, family: Family, config: Mapping[str, Any], in_channels: int
) -> ControlFit:
    """Return what of a control LoRA goes where in the transformer of its base.

    Args:
        header: What the file holds.
        name: What people call the base; for messages.
        family: Its family.
        config: The `config.json` of its transformer.
        in_channels: What the transformer takes in once it is widened.

    Raises:
        LoraMismatchError: a tensor has no place in this transformer, or another size there.
        InvalidLoraError: it is another kind of LoRA, or none.
    """
    widened = from_config(name, family, control_config(config, in_channels))
    if widened is None:
        raise LoraMismatchError(f"{name} has a transformer that takes no control LoRA.", _MEND)
    placed = place(header, widened)
    if all(INPUT_LAYER not in one.targets for one in placed):
        raise InvalidLoraError(
            "It is no control LoRA: nothing in it takes in a control picture.", _MEND
        )
    if header.text_encoder_layers:
        raise InvalidLoraError(
            "It was trained on a text encoder too, which would change what prompts mean.", _MEND
        )
    biases = dict(_biases(header, placed))
    norms = dict(_norms(header, widened, int(config.get("attention_head_dim", 128))))
    refuse_others([one for one in header.others if one not in {*biases.values(), *norms.values()}])
    return ControlFit(placed, biases, norms)


def _biases(header: LoraHeader, placed: tuple[Placed, ...]) -> Iterator[tuple[str, str]]:
    for one in placed:
        name = f"{one.layer.up.removesuffix('.weight')}.bias"
        shape = header.others.get(name)
        if shape is None:
            continue
        if shape != (one.layer.outputs,):
            raise LoraMismatchError(
                f"Its bias '{name[:120]}' has the shape {shape}, not ({one.layer.outputs},).", _MEND
            )
        yield one.layer.up, name


def _norms(
    header: LoraHeader, architecture: Architecture, channels: int
) -> Iterator[tuple[str, str]]:
    known = dict(_norm_names(architecture))
    for tensor, shape in header.others.items():
        name = known.get(without_prefix(tensor))
        if name is None:
            continue
        if shape != (channels,):
            raise LoraMismatchError(
                f"Its norm '{tensor[:120]}' has the shape {shape}, that of {architecture.name} "
                f"({channels},).",
                _MEND,
            )
        yield name, tensor


def _norm_names(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Yield the norms a file may name, in Black Forest Labs' words and in diffusers'."""
    doubles, singles = block_counts(architecture)
    for theirs, ours, count, names in (
        ("double_blocks", "transformer_blocks", doubles, DOUBLE_NORMS),
        ("single_blocks", "single_transformer_blocks", singles, SINGLE_NORMS),
    ):
        for index in range(count):
            for their_name, our_name in names.items():
                name = f"{ours}.{index}.{our_name}"
                yield f"{theirs}.{index}.{their_name}", name
                yield name, name
