"""LoRA matrices by the names PEFT gives them, and how they are attached to a transformer.

Used by adapters.py, for the LoRAs of jobs, and by control.py, for the one that stays.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flux_mcp.errors import InternalError
from flux_mcp.models.architectures import SWAPPED, Architecture
from flux_mcp.models.loras.fit import Placed
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


def matrices_of(placed: Sequence[Placed], tensors: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Return the matrices by PEFT's names for them.

    The trainer's scale (alpha / rank) goes into the second one, so each adapter's is 1.

    Args:
        placed: Which layers each pair changes.
        tensors: The file's; each is taken once.
        dtype: What the transformer works in.
    """
    import torch

    matrices = {}
    for one in placed:
        down = tensors[one.layer.down].to(torch.float32)
        up = tensors[one.layer.up].to(torch.float32) * one.layer.scale
        for target, rows in rows_of(one, up):
            matrices[f"{target}{DOWN}"] = down.to(dtype).contiguous()
            matrices[f"{target}{UP}"] = rows.to(dtype).contiguous()
    return matrices


def are_finite(tensors: Iterable[Any]) -> bool:
    """Whether no number of some tensors is NaN or infinite."""
    import torch

    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def rows_of(one: Placed, tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield each target with its rows of a matrix, or its numbers of a bias."""
    import torch

    for target, rows in zip(one.targets, tensor.split(one.sizes), strict=True):
        is_turned = one.is_foreign and target == SWAPPED
        yield target, torch.cat(rows.chunk(2)[::-1]) if is_turned else rows


def attach(
    name: str,
    adapter: str,
    transformer: Any,
    matrices: Mapping[str, Any],
    *,
    in_place: bool = False,
) -> None:
    """Attach an adapter to a transformer, and check that all of it is there.

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
