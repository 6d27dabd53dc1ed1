"""A control LoRA merged onto its base: a transformer of its own that shares the base's weights.

The result is a copy of the tree of modules whose parameters are the base's own objects, but for the
first layer, which is new and wider, and the norms and biases the file changes. The LoRA's layers
are attached to the copy. The base stays as it is, and both together take the memory of one
transformer and the LoRA.

diffusers 0.42.1 changes the base itself instead (`FluxLoraLoaderMixin.load_lora_weights`). What is
drawn is the same, to a rounding where a file has biases; but of files in Black Forest Labs' names
it turns around one matrix too many (`swap_scale_shift` of norm_out.linear's first; issue 13998).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flux_mcp.errors import InternalError
from flux_mcp.models.loras.fit import (
    INPUT_LAYER,
    ControlFile,
    ControlFit,
    Placed,
    control_config,
)
from flux_mcp.pipelines.loading.checkpoints import (
    PendingTensors,
    SafetensorsCheckpoint,
    TensorReading,
)
from flux_mcp.pipelines.loading.progress import ReadProgress
from flux_mcp.pipelines.loras.layers import (
    CONTROL_ADAPTER,
    are_finite,
    attach,
    biases_of,
    changes_of,
    numbers_of,
)


def merged_onto(base: Any, file: ControlFile, report: Callable[[str], None]) -> Any:
    """Return the control transformer of a file; the base stays as it is.

    Args:
        base: The base's transformer, with no hooks on it. LoRAs that jobs have attached to it are
            left out.
        file: The control LoRA, whose header fits the base.
        report: Called with how much is read; may raise to stop.

    Raises:
        WeightsInvalidError: the file is damaged, or has numbers that are NaN or infinite.
        InternalError: hooks are on the base.
    """
    report("loading control LoRA")
    transformer = _copied(base)
    progress = ReadProgress("loading control LoRA", report)
    try:
        with SafetensorsCheckpoint([file.path]) as checkpoint:
            reading = TensorReading(
                CONTROL_ADAPTER, file.path.parent, checkpoint, str(base.device), progress
            )
            tensors = PendingTensors(reading.handles(checkpoint.entries))
            changed = dict(_changed(transformer, file.fit, tensors))
            changes = changes_of(_without_biases(file.fit.placed), tensors, base.dtype)
    except Exception as error:
        if progress.stopped is not None:
            raise progress.stopped from None
        if _is_file_error(error):
            raise file.unusable(f"It cannot be read: {error}") from error
        raise
    if not are_finite([*numbers_of(changes), *changed.values()]):
        raise file.unusable("It has numbers that are NaN or infinite.")
    _widen(transformer, file.spec.in_channels)
    for name, value in changed.items():
        _replace(transformer, name, value)
    attach(file.spec.id, CONTROL_ADAPTER, transformer, changes)
    return transformer.eval()


def _is_file_error(error: Exception) -> bool:
    from safetensors import SafetensorError

    return isinstance(error, (OSError, SafetensorError))


# --- the copy ------------------------------------------------------------------------------------


def _copied(base: Any) -> Any:
    """Return a copy of a transformer's modules that shares its parameters and buffers.

    Raises:
        InternalError: hooks are on it, which would go on moving the base's modules.
    """
    if any(map(_has_hooks, base.modules())):
        raise InternalError("A transformer that hooks are on cannot be copied.")
    shared = [*base.parameters(), *base.buffers(), base.config]
    # copy.deepcopy takes what its memo has for copied already.
    transformer = copy.deepcopy(base, {id(one): one for one in shared})
    if getattr(transformer, "peft_config", None):
        transformer.unload_lora()
    return transformer


def _has_hooks(module: Any) -> bool:
    """Whether accelerate 1.15 or diffusers 0.42.1 moves a module about, or changes what it does."""
    registry = getattr(module, "_diffusers_hook", None)
    return hasattr(module, "_hf_hook") or bool(registry and registry.hooks)


def _widen(transformer: Any, in_channels: int) -> None:
    """Widen the first layer: its weights for the new channels are 0."""
    import torch

    narrow = transformer.get_submodule(INPUT_LAYER)
    weight = _plain_weight(narrow, transformer.dtype)
    wide = torch.nn.Linear(
        in_channels, narrow.out_features, bias=False, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : weight.shape[1]] = weight
    wide.weight.requires_grad_(False)  # noqa: FBT003 - torch's own way
    wide.bias = narrow.bias
    transformer.set_submodule(INPUT_LAYER, wide)
    told = control_config(transformer.config, in_channels)
    transformer.register_to_config(
        in_channels=told["in_channels"], out_channels=told["out_channels"]
    )


def _plain_weight(linear: Any, dtype: Any) -> Any:
    """Return the weight of a layer unpacked: (outputs, inputs)."""
    import torch

    if type(linear.weight) is torch.nn.Parameter:
        return linear.weight.detach().to(dtype)
    # However it is packed: the layer's outputs for each input alone are its weights. Exact: every
    # sum has one term that is not 0.
    bare = copy.copy(linear)
    bare._parameters = {**linear._parameters, "bias": None}  # noqa: SLF001 - a view of the layer
    units = torch.eye(linear.in_features, dtype=dtype, device=linear.weight.device)
    with torch.no_grad():
        return bare(units).T


def _changed(
    transformer: Any, fit: ControlFit, tensors: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield the new values of the norms and biases that the file changes, by their names.

    The LoRA's bias is added to the layer's own: PEFT 0.21 would keep it apart, but not in every
    format of weights (not in torchao's).
    """
    import torch

    dtype = transformer.dtype
    for one in fit.placed:
        for target, added in biases_of(one, tensors):
            bias = transformer.get_submodule(target).bias
            whole = added if bias is None else bias.detach().to(torch.float32) + added
            yield f"{target}.bias", whole.to(dtype)
    for name, tensor in fit.norms.items():
        yield name, tensors[tensor].to(dtype)


def _without_biases(placed: Sequence[Placed]) -> list[Placed]:
    """Return what changes weights alone."""
    return [
        replace(one, layer=replace(one.layer, tensors=weights))
        for one in placed
        for weights in [
            {r: name for r, name in one.layer.tensors.items() if r not in {"bias", "diff_b"}}
        ]
        if weights
    ]


def _replace(transformer: Any, name: str, value: Any) -> None:
    """Give a module of the copy a parameter of its own."""
    import torch

    path, _, parameter = name.rpartition(".")
    setattr(
        transformer.get_submodule(path),
        parameter,
        torch.nn.Parameter(value.contiguous(), requires_grad=False),
    )
