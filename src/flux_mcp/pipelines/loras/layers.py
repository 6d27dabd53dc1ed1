"""What LoRAs change of each layer, and how it is attached to a transformer.

Used by adapters.py, for the LoRAs of jobs, and by control.py, for the one that stays.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from flux_mcp.errors import InternalError
from flux_mcp.models.architectures import SWAPPED, Architecture
from flux_mcp.models.loras.fit import Placed
from flux_mcp.models.loras.header import LoraLayer
from flux_mcp.models.loras.names import Role
from flux_mcp.models.registry import ModelSpec

CONTROL_ADAPTER = "control"
"""What PEFT calls the LoRA that makes a control transformer of its base; others have the SHA-256
of their file as their name."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""How PEFT's names of the two matrices of a layer end."""


def kept_adapters(transformer: Any) -> tuple[str, ...]:
    """Return the adapters that are part of a transformer: always on, whatever a plan names."""
    carried = getattr(transformer, "peft_config", None) or {}
    return (CONTROL_ADAPTER,) if CONTROL_ADAPTER in carried else ()


def architecture_of(transformer: Any, spec: ModelSpec) -> Architecture:
    """Return the linear layers of a loaded transformer, its adapters left out."""
    from torch.nn import Linear

    linears = {
        name.removesuffix(".base_layer"): (module.in_features, module.out_features)
        for name, module in transformer.named_modules()
        if isinstance(module, Linear) and ".lora_" not in name
    }
    return Architecture(spec.id, spec.family, linears)


# --- what changes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LowRank:
    """Adds `up @ down` to a layer's weights, and a bias."""

    down: Any
    """(rank, inputs)."""
    up: Any
    """(outputs, rank)."""
    bias: Any = None
    """(outputs,), or `None`."""


@dataclass(frozen=True)
class Kronecker:
    """Adds rows of `kron(first, second)` to a layer's weights, and a bias."""

    first: Any
    second: Any
    rows: tuple[tuple[int, int], ...]
    """Which rows of the product are the layer's, in its order: from one and up to another."""
    inputs: int
    """Of the layer; those after the product's own columns it does not use."""
    outputs: int
    bias: Any = None


Change = LowRank | Kronecker
"""What a file adds to one layer; all numbers in what the transformer works in."""


def changes_of(
    placed: Sequence[Placed], tensors: Mapping[str, Any], dtype: Any
) -> dict[str, Change]:
    """Return what a file changes, by the names of the layers in diffusers.

    The trainer's scale (alpha / rank) goes into one of the matrices, so each adapter's is 1.

    Args:
        placed: Which layers each of the file's changes.
        tensors: The file's; each is taken once.
        dtype: What the transformer works in.
    """
    return {
        target: change for one in placed for target, change in _changes_of_one(one, tensors, dtype)
    }


def _changes_of_one(
    one: Placed, tensors: Mapping[str, Any], dtype: Any
) -> Iterator[tuple[str, Change]]:
    biases = dict(biases_of(one, tensors))
    own = {target: biases[target].to(dtype).contiguous() for target in biases}
    if one.layer.form == "lokr":
        yield from _kroneckers(one, tensors, own, dtype)
        return
    for target, down, up in _pairs(one, tensors):
        narrow = down.to(dtype).contiguous()
        yield target, LowRank(narrow, up.to(dtype).contiguous(), own.get(target))


def _pairs(one: Placed, tensors: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each target with two matrices whose product is its change."""
    import torch
    from torch.nn.functional import pad

    layer = one.layer
    if layer.form == "lora":
        down = pad(_read(layer, "down", tensors), (0, one.padding))
        for target, rows in rows_of(one, _read(layer, "up", tensors) * layer.scale):
            yield target, down, rows
        return
    if layer.form == "diff":
        whole = pad(_read(layer, "diff", tensors), (0, one.padding))
        for target, rows in rows_of(one, whole):
            # One of the two is the unit matrix, so the product is exact.
            outputs, inputs = rows.shape
            unit = torch.eye(min(outputs, inputs))
            yield (target, rows, unit) if outputs <= inputs else (target, unit, rows)
        return
    for target, size in zip(one.targets, one.sizes, strict=True):
        yield target, torch.zeros(1, one.inputs), torch.zeros(size, 1)


def _kroneckers(
    one: Placed, tensors: Mapping[str, Any], biases: Mapping[str, Any], dtype: Any
) -> Iterator[tuple[str, Change]]:
    import torch

    layer = one.layer
    first = _factor(layer, "w1", "w1_a", "w1_b", tensors) * layer.scale
    if "t2" in layer.tensors:
        left, core, right = (_read(layer, role, tensors) for role in ("w2_a", "t2", "w2_b"))
        second = left.T @ core @ right
    else:
        second = _factor(layer, "w2", "w2_a", "w2_b", tensors)
    second = second.to(dtype).contiguous()
    height = second.shape[0]
    numbers = torch.arange(layer.outputs)
    for target, rows in rows_of(one, numbers):
        spans = _spans(rows)
        # Only the rows of the first factor that the layer needs.
        low = min(start for start, _ in spans) // height
        high = -(-max(stop for _, stop in spans) // height)
        shifted = tuple((start - low * height, stop - low * height) for start, stop in spans)
        needed = first[low:high].to(dtype).contiguous()
        yield target, Kronecker(needed, second, shifted, one.inputs, len(rows), biases.get(target))


def _spans(rows: Any) -> tuple[tuple[int, int], ...]:
    """Return the unbroken runs of some row numbers."""
    breaks = [0, *((rows[1:] != rows[:-1] + 1).nonzero().flatten() + 1).tolist(), len(rows)]
    return tuple((int(rows[start]), int(rows[stop - 1]) + 1) for start, stop in pairwise(breaks))


def _factor(
    layer: LoraLayer, whole: Role, left: Role, right: Role, tensors: Mapping[str, Any]
) -> Any:
    if whole in layer.tensors:
        return _read(layer, whole, tensors)
    return _read(layer, left, tensors) @ _read(layer, right, tensors)


def _read(layer: LoraLayer, role: Role, tensors: Mapping[str, Any]) -> Any:
    """Return a matrix or bias of the file in 32 bit, times its own scale if it is in fp8."""
    import torch

    tensor = tensors[layer.tensors[role]].to(torch.float32).reshape(layer.shapes[role])
    if role not in layer.scales:
        return tensor
    scale = tensors[layer.scales[role]].to(torch.float32)
    return tensor * scale.reshape(-1, 1)


def biases_of(one: Placed, tensors: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each target with what is added to its bias, in 32 bit; none if nothing is."""
    whole = None
    if "bias" in one.layer.tensors:
        # PEFT's `lora_bias`: it is part of what the matrices give, and scaled with it.
        whole = _read(one.layer, "bias", tensors) * one.layer.scale
    if "diff_b" in one.layer.tensors:
        added = _read(one.layer, "diff_b", tensors)
        whole = added if whole is None else whole + added
    if whole is not None:
        yield from rows_of(one, whole)


def rows_of(one: Placed, tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield each target with its rows of a matrix, or its numbers of a bias."""
    import torch

    for target, rows in zip(one.targets, tensor.split(one.sizes), strict=True):
        is_turned = one.is_foreign and target == SWAPPED
        yield target, torch.cat(rows.chunk(2)[::-1]) if is_turned else rows


def numbers_of(changes: Mapping[str, Change]) -> Iterator[Any]:
    """Yield every tensor of some changes."""
    for change in changes.values():
        yield from (
            (change.down, change.up)
            if isinstance(change, LowRank)
            else (change.first, change.second)
        )
        if change.bias is not None:
            yield change.bias


def are_finite(tensors: Iterable[Any]) -> bool:
    """Whether no number of some tensors is NaN or infinite."""
    import torch

    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


# --- attached ------------------------------------------------------------------------------------


def matrices_of(changes: Mapping[str, LowRank]) -> dict[str, Any]:
    """Return the matrices of changes without a bias by the names PEFT gives them."""
    return {
        f"{target}{end}": matrix
        for target, change in changes.items()
        for end, matrix in ((DOWN, change.down), (UP, change.up))
    }


def attach(name: str, adapter: str, transformer: Any, changes: Mapping[str, Change]) -> None:
    """Attach an adapter to a transformer, and check that all of it is there.

    Args:
        name: What people call the LoRA; for messages.
        adapter: PEFT's name for it.
        transformer: A model of diffusers.
        changes: What it changes, by layer.

    Raises:
        InternalError: some of it is missing; diffusers leaves out names it does not know.
    """
    plain = {
        target: change if isinstance(change, LowRank) else _placeholder(change)
        for target, change in changes.items()
    }
    attach_matrices(name, adapter, transformer, matrices_of(plain))
    for target, change in changes.items():
        _put_in_place(transformer.get_submodule(target), adapter, change)


def _placeholder(change: Kronecker) -> LowRank:
    """Return two matrices of zeros, for which PEFT makes the places of an adapter."""
    down = change.second.new_zeros(1, change.inputs)
    return LowRank(down, change.second.new_zeros(change.outputs, 1))


def _put_in_place(layer: Any, adapter: str, change: Change) -> None:
    """Give a layer of PEFT what its two matrices cannot hold."""
    import torch

    device = layer.lora_A[adapter].weight.device
    bias = None if change.bias is None else change.bias.to(device)
    if isinstance(change, Kronecker):
        from flux_mcp.pipelines.loras.modules import KroneckerIn, KroneckerOut

        columns = change.first.shape[1] * change.second.shape[1]
        layer.lora_A[adapter] = KroneckerIn(change.second.to(device), columns)
        layer.lora_B[adapter] = KroneckerOut(change.first.to(device), change.rows, bias)
    elif bias is not None:
        # Not PEFT's own `lora_bias`: torchao's layers refuse it (0.21), and it is for all layers.
        layer.lora_B[adapter].bias = torch.nn.Parameter(bias, requires_grad=False)


def attach_matrices(
    name: str,
    adapter: str,
    transformer: Any,
    matrices: Mapping[str, Any],
    *,
    in_place: bool = False,
) -> None:
    """Attach matrices to a transformer, and check that all of them are there.

    Args:
        name: What people call the LoRA; for messages.
        adapter: PEFT's name for it.
        transformer: A model of diffusers.
        matrices: By PEFT's names.
        in_place: Whether the adapter is there already and only its matrices are replaced.

    Raises:
        InternalError: some of it is missing; diffusers leaves out names it does not know.
    """
    with warnings.catch_warnings():
        # PEFT 0.21 warns of a second adapter. Several are meant.
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        transformer.load_lora_adapter(
            dict(matrices),
            prefix=None,
            adapter_name=adapter,
            hotswap=in_place,
            low_cpu_mem_usage=True,
        )
    _require_attached(name, adapter, transformer, matrices)


def delete_adapter(transformer: Any, adapter: str) -> None:
    """Delete an adapter of a transformer, also the one that was used last."""
    with warnings.catch_warnings():
        # PEFT 0.21 makes another one active; which one is set before each use.
        warnings.filterwarnings("ignore", "Adapter .* was active", UserWarning)
        transformer.delete_adapters(adapter)


def _require_attached(
    name: str, adapter: str, transformer: Any, matrices: Mapping[str, Any]
) -> None:
    import torch

    marks = (f".{adapter}.weight", ".weight")
    there = {
        parameter.replace(*marks): value
        for parameter, value in transformer.named_parameters()
        if parameter.endswith(marks[0])
    }
    same = there.keys() == matrices.keys() and all(
        torch.equal(value, matrices[one].to(value.device)) for one, value in there.items()
    )
    if not same:
        raise InternalError(
            f"The LoRA '{name}' was attached in part: {len(there)} of {len(matrices)} matrices.",
        )
