"""Loads a transformer of diffusers, from any file that has one, in any precision.

Names and shapes are checked against the model before a byte of the weights is read. Built on the
functions of which diffusers 0.42.1's own `from_single_file` consists: that one cannot quantise
while loading, and does not check for missing tensors.
"""

import re
from collections.abc import Mapping
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import Format
from flux_mcp.pipelines.loading.checkpoints import PendingTensors, TensorEntry, TensorReading
from flux_mcp.pipelines.loading.quantisers import cast_storage, compute_dtype, configuration
from flux_mcp.pipelines.loading.scaled import hold_scaled, split_scales
from flux_mcp.pipelines.loading.slots import send, slot_of

_BFL_BLOCK = "double_blocks."
"""In the names that Black Forest Labs' own files have; diffusers has others."""


def load_denoiser(
    model_class: Any, reading: TensorReading, row: Format, made_on: str | None = None
) -> Any:
    """Build a transformer and read its weights into it.

    Args:
        model_class: The class of diffusers.
        reading: Its tensors, in diffusers' names or in Black Forest Labs'.
        row: The format of its weights.
        made_on: A device that quantises each block, which is then moved to the reading's: for a
            GPU that has no room for the whole.

    Raises:
        WeightsInvalidError: the tensors are not this model's.
    """
    import diffusers
    from accelerate import init_empty_weights
    from diffusers.models.model_loading_utils import load_model_dict_into_meta
    from diffusers.quantizers.auto import DiffusersAutoQuantizer

    with init_empty_weights():
        model = model_class.from_config(
            model_class.load_config(str(reading.config), local_files_only=True)
        )
    dtype = compute_dtype(row.compute)
    stored = split_scales(reading.part, _with_scales_of_norms(reading.entries))
    stand_ins = _check(model_class, model, stored.entries)
    model.to(dtype)
    if row.method == "casting" and stored.is_narrow:
        # Renamed, split and reordered by rows as the weights will be.
        hold_scaled(model, _renamed(model_class, model, stored.storage()), dtype)
        entries = stored.kept(dtype)
    else:
        entries = stored.widened(dtype)
        # Before the weights are read: each is then stored in its type at once, never all in 16 bit.
        cast_storage(model, row)
    tensors = _renamed(model_class, model, PendingTensors(reading.handles(entries)))
    quantiser = None
    if (chosen := configuration(diffusers, row)) is not None:
        quantiser = DiffusersAutoQuantizer.from_config(chosen, pre_quantized=row.from_file_only)
        quantiser.validate_environment()
        quantiser.preprocess_model(
            model=model, device_map=None, state_dict=stand_ins, keep_in_fp32_modules=[]
        )
    for group in [tensors] if made_on is None else _by_block(tensors):
        load_model_dict_into_meta(
            model,
            group,
            # Without one, a tensor takes the type of its place.
            dtype=None if quantiser is None else dtype,
            device_map={"": made_on or reading.device},
            hf_quantizer=quantiser,
        )
        if made_on is not None:
            send((slot_of(model, name) for name in group), reading.device)
    if quantiser is not None:
        quantiser.postprocess_model(model)
        model.hf_quantizer = quantiser
    return model.eval()


def _by_block(tensors: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tensors in groups: those of each block, and the others one by one; none read."""
    groups: dict[str, dict[str, Any]] = {}
    for name, tensor in dict.items(tensors):
        block = ".".join(name.split(".")[:2])
        groups.setdefault(block, PendingTensors())[name] = tensor
    return list(groups.values())


def _with_scales_of_norms(own: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return the tensors with the norms of Black Forest Labs' blocks under their usual names."""
    if not any(name.startswith(_BFL_BLOCK) for name in own):
        return own
    # Some exports call the norms of Black Forest Labs' blocks as every other tensor is called.
    return {_NORM.sub(r"\1.scale", name): entry for name, entry in own.items()}


_NORM = re.compile(r"(\.norm\.(?:query|key)_norm)\.weight")


def _check(model_class: Any, model: Any, entries: Mapping[str, TensorEntry]) -> dict[str, Any]:
    """Return tensors without content, in diffusers' names, if they are the model's.

    Raises:
        WeightsInvalidError: they are not.
    """
    told = {name: entry.stand_in() for name, entry in entries.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        stand_ins = _renamed(model_class, model, told)
        # The converters take out what they know, and pass over the rest.
        unused = sorted(told) if stand_ins is not told else []
        # Packed tensors know the shape they are unpacked to.
        found = {n: tuple(getattr(t, "quant_shape", t.shape)) for n, t in stand_ins.items()}
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise WeightsInvalidError(
            f"transformer has other tensors than {model_class.__name__}: "
            f"{type(error).__name__}: {error}.",
            _OTHER_WEIGHTS,
        ) from error
    if missing := sorted(set(wanted) - set(found)):
        raise WeightsInvalidError(
            f"transformer lacks {len(missing)} tensors, such as {missing[0]}.", _OTHER_WEIGHTS
        )
    if unknown := sorted({*found, *unused} - set(wanted)):
        raise WeightsInvalidError(
            f"transformer has {len(unknown)} tensors that {model_class.__name__} does not know, "
            f"such as {unknown[0]}.",
            _OTHER_WEIGHTS,
        )
    if other := [name for name in sorted(wanted) if found[name] != wanted[name]]:
        name = other[0]
        raise WeightsInvalidError(
            f"transformer has {len(other)} tensors of another shape, such as {name}: "
            f"{found[name]}, not {wanted[name]}.",
            _OTHER_WEIGHTS,
        )
    return stand_ins


_OTHER_WEIGHTS = (
    "These are another model's weights, or packed in a way that diffusers does not read; "
    "get a file of this model in safetensors or GGUF."
)


def _renamed(model_class: Any, model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors by diffusers' names, in which q, k and v are separate."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    if not any(name.startswith(_BFL_BLOCK) for name in tensors):
        return tensors
    convert = SINGLE_FILE_LOADABLE_CLASSES[model_class.__name__]["checkpoint_mapping_fn"]
    renamed: dict[str, Any] = convert(checkpoint=tensors, config=model.config)
    return renamed
