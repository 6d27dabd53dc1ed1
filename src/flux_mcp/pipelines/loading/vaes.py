"""Loads a VAE from a file of its own, with the tensor names of diffusers or of Black Forest Labs.

The latter (`ae.safetensors`, ComfyUI's `flux2-vae.safetensors`) are those of latent diffusion's
autoencoder. diffusers' converter passes over names it does not know; here each name is renamed
alone, and one that does not fit is an error.
"""

import re
from collections.abc import Callable
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import Format
from flux_mcp.pipelines.loading.checkpoints import TensorReading
from flux_mcp.pipelines.loading.quantisers import compute_dtype
from flux_mcp.pipelines.loading.scaled import split_scales

_OTHER_VAE = "It is another model's VAE; get the one that this model was trained with."


def load_vae(model_class: Any, reading: TensorReading, row: Format) -> Any:
    """Build a VAE and read its weights into it.

    Args:
        model_class: The class of diffusers.
        reading: Its tensors, in diffusers' names or in Black Forest Labs'.
        row: The format of its weights.

    Raises:
        WeightsInvalidError: the tensors are not this model's.
    """
    import torch
    from accelerate import init_empty_weights
    from diffusers.models.model_loading_utils import load_model_dict_into_meta

    with init_empty_weights():
        model = model_class.from_config(
            model_class.load_config(str(reading.config), local_files_only=True)
        )
    dtype = compute_dtype(row.compute)
    entries = split_scales(reading.part, reading.entries).widened(dtype)
    rename = _renamer(len(model.config.up_block_types))
    names = {name: rename(name) for name in entries}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {names[name]: entry.shape for name, entry in entries.items()}
    # A count of batches, which only training needs; some files leave it out.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    if missing := sorted(set(wanted) - set(shapes) - counters):
        raise WeightsInvalidError(
            f"{reading.part} lacks {len(missing)} tensors, such as {missing[0]}.", _OTHER_VAE
        )
    if unknown := sorted(name for name, ours in names.items() if ours not in wanted):
        raise WeightsInvalidError(
            f"{reading.part} has {len(unknown)} tensors that {model_class.__name__} does not know, "
            f"such as {unknown[0]}.",
            _OTHER_VAE,
        )
    # Latent diffusion has the projections of its attention as convolutions of one pixel.
    if other := sorted(name for name in shapes if _short(shapes[name]) != _short(wanted[name])):
        name = other[0]
        raise WeightsInvalidError(
            f"{reading.part} has {len(other)} tensors of another shape, such as {name}: "
            f"{shapes[name]}, not {wanted[name]}.",
            _OTHER_VAE,
        )
    handles = reading.handles(entries)
    tensors = {ours: handles[name][...].reshape(wanted[ours]) for name, ours in names.items()}
    for name in counters - set(tensors):
        tensors[name] = torch.zeros(wanted[name], dtype=torch.long)
    load_model_dict_into_meta(
        model, tensors, dtype=dtype, device_map={"": reading.device}, hf_quantizer=None
    )
    return model.eval()


def _short(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the sides of one pixel at its end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _renamer(up_blocks: int) -> Callable[[str], str]:
    """Return what gives a tensor its name in diffusers; one that has it already keeps it.

    Source: `convert_ldm_vae_checkpoint` of diffusers 0.42.1; for FLUX.2, whose last convolutions
    are inside of encoder and decoder, autoencoder.py of black-forest-labs/flux2.
    """

    def up(found: re.Match[str]) -> str:
        # Counted from the other end.
        return f"decoder.up_blocks.{up_blocks - 1 - int(found[1])}."

    rules: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
        (r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1."),
        (r"^decoder\.up\.(\d+)\.", up),
        (r"(_blocks\.\d+)\.block\.(\d+)\.", r"\1.resnets.\2."),
        (r"(_blocks\.\d+)\.downsample\.", r"\1.downsamplers.0."),
        (r"(_blocks\.\d+)\.upsample\.", r"\1.upsamplers.0."),
        (r"\.nin_shortcut\.", ".conv_shortcut."),
        (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
        (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
        (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
        (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
        (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
        (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
        (r"^encoder\.quant_conv\.", "quant_conv."),
        (r"^decoder\.post_quant_conv\.", "post_quant_conv."),
    )
    compiled = [(re.compile(pattern), new) for pattern, new in rules]

    def rename(name: str) -> str:
        for pattern, new in compiled:
            name = pattern.sub(new, name)
        return name

    return rename
