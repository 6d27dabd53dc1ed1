"""Loads a text encoder of transformers, from its folder or a file of its own, in any precision.

Without the head of a language model, which is neither read nor computed: images are made of hidden
states. It has 1.2 GiB in Qwen3 8B and in Mistral, and for 512 tokens a tenth of Qwen3 4B's work.

GGUF files name tensors as llama.cpp does, which the gguf package translates, or as transformers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.families import PART_CLASSES
from flux_mcp.models.formats import Format
from flux_mcp.pipelines.loading.checkpoints import TensorEntry, TensorReading
from flux_mcp.pipelines.loading.quantisers import cast_storage, compute_dtype, configuration
from flux_mcp.pipelines.loading.scaled import ScaledTensors, hold_scaled, split_scales


def load_encoder(model_class: Any, reading: TensorReading, row: Format) -> Any:
    """Build an encoder and read its weights into it.

    Args:
        model_class: The class of transformers.
        reading: Its tensors, in transformers' names or, in GGUF files, llama.cpp's.
        row: The format of its weights.

    Raises:
        WeightsInvalidError: the tensors are not this encoder's.
    """
    if row.method == "gguf":
        return _load_packed(model_class, reading, row)
    import transformers

    options: dict[str, Any] = {}
    if (chosen := configuration(transformers, row)) is not None:
        options["quantization_config"] = chosen
    entries = _headless(reading)
    if any(entry.block_type for entry in entries.values()):
        entries = _by_parameter(model_class, _without_weights(model_class, reading), reading)
    stored = split_scales(reading.part, entries)
    if row.method == "casting":
        if stored.is_narrow and (held := _load_held(model_class, reading, stored, row)) is not None:
            return held
        # transformers reads all of it in 16 bit first, for which a GPU may have no room.
        reading = replace(reading, device="cpu")
    config = _config(model_class, reading)
    model, info = model_class.from_pretrained(
        None,
        config=config,
        state_dict=reading.handles(stored.widened(compute_dtype(row.compute))),
        dtype=compute_dtype(row.compute),
        device_map={"": reading.device},
        output_loading_info=True,
        **options,
    )
    if missing := sorted(info["missing_keys"]):
        # transformers fills what is missing with random numbers and goes on.
        raise WeightsInvalidError(
            f"{reading.part} lacks {len(missing)} tensors, such as {missing[0]}.", _OTHER_ENCODER
        )
    refuse_unknown(reading.part, info["unexpected_keys"])
    if row.method == "casting" and stored.is_narrow:
        # Narrowed again, exactly; what the file has in 16 bit stays so.
        hold_scaled(model, stored.storage(), compute_dtype(row.compute))
    else:
        cast_storage(model, row)
    return without_head(model)


_HEAD = re.compile(r"(?:language_model\.)?lm_head\..*|output\.weight")
"""The head of a language model and its scales, as transformers and llama.cpp name it."""


def _headless(reading: TensorReading) -> dict[str, TensorEntry]:
    return {name: entry for name, entry in reading.entries.items() if not _HEAD.fullmatch(name)}


def without_head(model: Any) -> Any:
    """Take the head off a language model; its result's logits are then its last hidden states."""
    import torch

    if hasattr(model, "lm_head"):
        model.lm_head = torch.nn.Identity()
        # Else transformers would tie the table of tokens to what is not there any more.
        model.config.tie_word_embeddings = False
    return model


def refuse_unknown(part: str, names: Iterable[str]) -> None:
    """Refuse a file with tensors that its model does not know: it is another's, or packed.

    Args:
        part: For messages.
        names: What is left over.

    Raises:
        WeightsInvalidError: one of them is nothing that may be left out.
    """
    unknown = sorted(name for name in names if not LEFT_OUT.fullmatch(name))
    if unknown:
        raise WeightsInvalidError(
            f"{part} has {len(unknown)} tensors that its model does not know, such as "
            f"{unknown[0]}.",
            _OTHER_ENCODER,
        )


LEFT_OUT = re.compile(
    r"(?:encoder|decoder)\.embed_tokens\.weight"  # T5's table under its other names
    r"|(?:text_model\.)?embeddings\.position_ids"  # CLIP's, computed
    r"|decoder\..*"  # of a T5 that also decodes
    rf"|{_HEAD.pattern}"
    r"|logit_scale|text_projection\.weight"
    r"|spiece_model|tekken_model"  # ComfyUI's tokenizers
)
"""Tensors of whole models, of which a text encoder is one half."""


def _config(model_class: Any, reading: TensorReading) -> Any:
    config = model_class.config_class.from_pretrained(str(reading.config), local_files_only=True)
    if hasattr(config, "tie_word_embeddings"):
        # Until it is taken off, the head needs no memory of its own.
        config.tie_word_embeddings = True
    return config


def _without_weights(model_class: Any, reading: TensorReading) -> Any:
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = without_head(model_class(_config(model_class, reading)))
    model.tie_weights()
    return model


def _load_held(
    model_class: Any, reading: TensorReading, stored: ScaledTensors, row: Format
) -> Any | None:
    """Build an encoder whose matrices are the file's 8 bit floats; it is never all in 16 bit.

    Returns:
        `None` where a parameter has another name in the file, which transformers would know.

    Raises:
        WeightsInvalidError: the tensors are not this encoder's.
    """
    import torch

    from flux_mcp.pipelines.loading.scaled_linear import ScaledEmbedding, ScaledLinear

    dtype = compute_dtype(row.compute)
    model = _without_weights(model_class, reading)
    stored = _in_names_of(model, stored)
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    if not shapes.keys() <= stored.entries.keys():
        return None
    all_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    refuse_unknown(reading.part, set(stored.entries) - all_names)
    for name, shape in shapes.items():
        if stored.entries[name].shape != shape:
            raise WeightsInvalidError(
                f"{reading.part}: {name} is {stored.entries[name].shape}, not {shape}.",
                _OTHER_ENCODER,
            )
    hold_scaled(model, stored.storage(), dtype)
    held = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, ScaledLinear | ScaledEmbedding)
    }
    kept, widened = stored.kept(dtype), stored.widened(dtype)
    handles = reading.handles({n: (kept if n in held else widened)[n] for n in shapes})
    for name, handle in handles.items():
        path, _, leaf = name.rpartition(".")
        module, tensor = model.get_submodule(path), handle[...]
        if name in held:
            module.weight = tensor
        else:
            setattr(module, leaf, torch.nn.Parameter(tensor.to(dtype), requires_grad=False))
    return _finished(model, reading.device)


def _in_names_of(model: Any, stored: ScaledTensors) -> ScaledTensors:
    """Return tensors by the names that transformers reads them under (5.23).

    Mistral's published file says `language_model.model.layers` and the model has
    `model.language_model.layers`.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [
        one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)
    ]
    known = model.state_dict()

    def renamed(entries: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
        prefix = model.base_model_prefix
        return {
            name if name in known else rename_source_key(name, renamings, [], prefix, known)[0]: one
            for name, one in entries.items()
        }

    return ScaledTensors(renamed(stored.entries), renamed(stored.scales))


def _finished(model: Any, device: str) -> Any:
    """Return a model whose parameters were set one by one, for use."""
    model.tie_weights()
    # Tables that were computed, not read; and scales.
    for module in model.modules():
        for buffer_name, buffer in module.named_buffers(recurse=False):
            setattr(module, buffer_name, buffer.to(device))
    return model.eval()


def _load_packed(model_class: Any, reading: TensorReading, row: Format) -> Any:
    """Build an encoder whose matrices stay packed: each is unpacked while it works.

    transformers' own GGUF loading unpacks all of them for good.
    """
    model = _without_weights(model_class, reading)
    entries = _by_parameter(model_class, model, reading)
    handles = reading.handles(entries)
    for name, parameter in list(model.named_parameters()):
        entry = entries[name]
        if entry.shape != tuple(parameter.shape):
            raise WeightsInvalidError(
                f"{reading.part}: {entry.name} is {entry.shape}, not {tuple(parameter.shape)}.",
                _OTHER_ENCODER,
            )
        _set_packed(model, name, handles[name][...], row)
    return _finished(model, reading.device)


_OTHER_ENCODER = "It is another encoder's file; get the one that this model was trained with."


def _by_parameter(model_class: Any, model: Any, reading: TensorReading) -> dict[str, TensorEntry]:
    """Find the tensor of each parameter.

    Raises:
        WeightsInvalidError: one is missing.
    """
    import gguf

    known = PART_CLASSES.get(("transformers", model_class.__name__))
    if known is None or known.gguf is None:
        raise WeightsInvalidError(
            f"{model_class.__name__} is not read from GGUF files.",
            "Give its folder in safetensors, and a text precision that is made while loading.",
        )
    names = gguf.get_tensor_name_map(
        getattr(gguf.MODEL_ARCH, known.gguf), model.config.num_hidden_layers
    )
    entries = _headless(reading)
    found, missing = {}, []
    for name, _ in model.named_parameters():
        # stable-diffusion.cpp keeps transformers' own names.
        llamas = names.get_name(name, try_suffixes=(".weight", ".bias"))
        theirs = next((one for one in (llamas, name) if one in entries), None)
        if theirs is None:
            missing.append(name)
        else:
            found[name] = entries[theirs]
    if missing:
        raise WeightsInvalidError(
            f"{reading.part} lacks {len(missing)} tensors, such as {missing[0]}.", _OTHER_ENCODER
        )
    used = {entry.name for entry in found.values()}
    refuse_unknown(reading.part, set(entries) - used)
    return found


def _set_packed(model: Any, name: str, tensor: Any, row: Format) -> None:
    """Set a parameter: matrices of linear layers stay packed, others are unpacked."""
    import torch
    from diffusers.quantizers.gguf.utils import (
        GGUFLinear,
        GGUFParameter,
        dequantize_gguf_tensor,
    )

    dtype = compute_dtype(row.compute)
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, torch.nn.Linear) and isinstance(tensor, GGUFParameter):
        packed = GGUFLinear(
            module.in_features, module.out_features, bias=False, compute_dtype=dtype, device="meta"
        )
        # Bytes under the name of int8: T5 brings its input to the type of a weight, unless that is
        # int8 (transformers 5.23, T5DenseGatedActDense).
        packed.weight = GGUFParameter(tensor.view(torch.int8), quant_type=tensor.quant_type)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, packed)
        return
    wide = dequantize_gguf_tensor(tensor).to(dtype)
    setattr(module, leaf, torch.nn.Parameter(wide, requires_grad=False))
