"""LoRAs on a compiled transformer: written into slots that stay, so that nothing compiles again.

`Slots` owns what is written in each. A slot is an adapter of a fixed rank. All LoRAs of a plan go
into one, side by side along the rank with their weights multiplied in: the sum is the same, and
neither their number nor their weights are anything the compiled code could depend on. Which rank a
plan takes is decided by the plan alone, so its pixels do not depend on what was drawn before.

A transformer is compiled anew for its first LoRA of each rank, for the first picture without one
after that, and for a LoRA that changes layers no LoRA in the slot changed before.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from flux_mcp.pipelines.lora_layers import attach, delete_adapter

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
