"""LoRA matrices by the names PEFT gives them, and their way onto a transformer.

Shared by loras.py, whose LoRAs come and go with jobs, and by control_loras.py, whose one stays.
Owns nothing: which adapters a transformer carries is for those two to know, and for PEFT.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from flux_mcp.errors import InternalError
from flux_mcp.models.architectures import SWAPPED, Architecture
from flux_mcp.models.loras.fit import Placed
from flux_mcp.models.registry import ModelSpec

CONTROL_ADAPTER = "control"
"""What PEFT calls the LoRA that makes a control transformer of its base; others have the SHA-256
of their file as their name."""


def kept_adapters(transformer: Any) -> tuple[str, ...]:
    """Return the adapters that are part of a transformer: they are on whatever a plan names."""
    carried = getattr(transformer, "peft_config", None) or {}
    return (CONTROL_ADAPTER,) if CONTROL_ADAPTER in carried else ()


def architecture_of(transformer: Any, spec: ModelSpec) -> Architecture:
    """Return the linear layers a loaded transformer really has, its adapters left out."""
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
            matrices[f"{target}.lora_A.weight"] = down.to(dtype).contiguous()
            matrices[f"{target}.lora_B.weight"] = rows.to(dtype).contiguous()
    return matrices


def are_finite(tensors: Iterable[Any]) -> bool:
    """Whether every number of some tensors is one: none is NaN or infinite."""
    import torch

    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def rows_of(one: Placed, tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield each target and the rows of a matrix, or the numbers of a bias, that are its."""
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
    """Put an adapter onto a transformer, and see that all of it is there.

    Args:
        name: What people call the LoRA; for messages.
        adapter: What PEFT is to call it.
        transformer: A model of diffusers.
        matrices: By PEFT's names.
        in_place: Whether the adapter is there already, and has these matrices from now on.

    Raises:
        InternalError: half of it is missing; diffusers leaves out what it does not understand.
    """
    with warnings.catch_warnings():
        # PEFT 0.21 asks whether several adapters are meant. They are.
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
    """Take an adapter off a transformer, also the one that was used last."""
    with warnings.catch_warnings():
        # PEFT 0.21 makes another one active. Which one is said before each use.
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
            f"The LoRA '{name}' did not reach the transformer whole: {len(there)} of "
            f"{len(matrices)} matrices.",
        )


LEAST_RANK = 32
"""Most LoRAs of FLUX have rank 16 or 32, and a slot more is compiled for again. On all layers this
is 2 % of a block's arithmetic: 32 * (inputs + outputs) beside inputs * outputs, both 3072. Larger
ones are powers of two."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"

Contents = tuple[tuple[str, float], ...]
"""SHA-256 and weight of each LoRA in a slot."""
Weighted = tuple[float, Mapping[str, Any]]
"""A LoRA's weight, and its matrices by the names PEFT gives them."""


class Slots:
    """Writes LoRAs into the slots of transformers."""

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Any, dict[str, Contents]] = WeakKeyDictionary()

    def holding(self, transformer: Any, contents: Contents) -> str | None:
        """Return the slot that holds just this, `None` if there is none."""
        held = self._held.get(transformer, {})
        return next((slot for slot, inside in held.items() if inside == contents), None)

    def write(
        self, names: str, transformer: Any, contents: Contents, loras: Sequence[Weighted]
    ) -> None:
        """Write LoRAs into the slot of their rank, in place of what was there.

        Args:
            names: What people call them; for messages.
            transformer: A model of diffusers.
            contents: Names just these, with their weights.
            loras: They.

        Raises:
            InternalError: half of them is missing.
        """
        held = self._held.setdefault(transformer, {})
        rank = slot_rank(loras)
        # Of one length: PEFT looks for one name inside of another.
        slot = f"slot_{rank:05d}"
        there = _matrices_of(transformer, slot)
        matrices = combined(loras, rank)
        is_new = not matrices.keys() <= there.keys()
        for name, matrix in there.items():
            if name not in matrices:
                matrices[name] = matrix.new_zeros(matrix.shape)
        held.pop(slot, None)
        if is_new and there:
            delete_adapter(transformer, slot)
        attach(names, slot, transformer, matrices, in_place=not is_new)
        held[slot] = contents

    def forget(self, transformer: Any) -> None:
        """Note that a transformer's slots are gone."""
        self._held.pop(transformer, None)


def slot_rank(loras: Sequence[Weighted]) -> int:
    """Return the rank of the slot that LoRAs fit into together."""
    ranks: dict[str, int] = {}
    for _, matrices in loras:
        for name, matrix in matrices.items():
            if name.endswith(DOWN):
                ranks[name] = ranks.get(name, 0) + matrix.shape[0]
    rank = LEAST_RANK
    while rank < max(ranks.values()):
        rank *= 2
    return rank


def combined(loras: Sequence[Weighted], rank: int) -> dict[str, Any]:
    """Return the matrices of one LoRA that is the weighted sum of several, filled up with zeros."""
    import torch
    from torch.nn.functional import pad

    layers = {n.removesuffix(DOWN) for _, m in loras for n in m if n.endswith(DOWN)}
    matrices = {}
    for layer in sorted(layers):
        inside = [(weight, m) for weight, m in loras if f"{layer}{DOWN}" in m]
        down = torch.cat([m[f"{layer}{DOWN}"] for _, m in inside])
        ups = [m[f"{layer}{UP}"] for _, m in inside]
        weighted = [w * up.to(torch.float32) for (w, _), up in zip(inside, ups, strict=True)]
        up = torch.cat(weighted, dim=1).to(down.dtype)
        missing = rank - down.shape[0]
        matrices[f"{layer}{DOWN}"] = pad(down, (0, 0, 0, missing)).contiguous()
        matrices[f"{layer}{UP}"] = pad(up, (0, missing)).contiguous()
    return matrices


def _matrices_of(transformer: Any, slot: str) -> dict[str, Any]:
    end = f".{slot}.weight"
    return {
        name.replace(end, ".weight"): value
        for name, value in transformer.named_parameters()
        if name.endswith(end)
    }
