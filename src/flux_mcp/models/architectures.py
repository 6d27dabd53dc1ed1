"""The linear layers of a transformer, and what a LoRA may call them. Pure.

The layers follow from a transformer's `config.json` and its family's record (families.py). A name
is diffusers' own or that of Black Forest Labs' code, with a `.` or a `_` between its parts.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from flux_mcp.models.families import ADDED_QKV, FAMILIES, QKV, Family, Sizes

SWAPPED = "norm_out.linear"
"""Black Forest Labs' code has shift before scale in it, diffusers scale before shift."""

CUT_OFF = 4
"""Some exports have lost as many letters of diffusers' names, such as `sformer_blocks.0`: the
prefix `transformer.` was taken for the longer `diffusion_model.`. diffusers 0.42.1 knows that name
too (`_convert_non_diffusers_flux2_lora_to_diffusers`)."""
FUSED = {
    "attn.to_v": ("attn.to_qkv", QKV),
    "attn.add_v_proj": ("attn.to_added_qkv", ADDED_QKV),
}
"""Layers that diffusers can fuse, by the last of them."""


@dataclass(frozen=True)
class NamedLayers:
    """What a name stands for."""

    layers: tuple[str, ...]
    """Names in diffusers."""
    is_foreign: bool = False
    """Whether the name is Black Forest Labs' and not diffusers' own."""


@dataclass(frozen=True)
class Architecture:
    """One transformer, as far as a LoRA can tell."""

    name: str
    family: Family
    linears: Mapping[str, Sizes]
    """Every linear layer by its name in diffusers."""

    def find(self, name: str) -> "NamedLayers":
        """Return the layers that a name stands for.

        Args:
            name: diffusers' or Black Forest Labs', with `_` for each `.` or without, as trainers
                write it.

        Returns:
            Several layers where one of Black Forest Labs' is several of diffusers'; none where
            there is no such layer.
        """
        return self._by_flat_name.get(_flat(name), NamedLayers(()))

    def sizes_of(self, named: "NamedLayers") -> list[Sizes]:
        """Return the sizes of layers; none where this transformer lacks one of them."""
        try:
            return [self.linears[one] for one in named.layers]
        except KeyError:
            return []

    @cached_property
    def block_counts(self) -> tuple[int, int]:
        """How many double and how many single blocks it has."""
        counts = [
            _count(self.linears, blocks)
            for blocks in ("transformer_blocks", "single_transformer_blocks")
        ]
        return counts[0], counts[1]

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yield each name a norm of the attention may have, and its name in diffusers."""
        names, (doubles, singles) = FAMILIES[self.family].layer_names, self.block_counts
        for outer, inner, count, norms in (
            ("double_blocks", "transformer_blocks", doubles, names.double_norms),
            ("single_blocks", "single_transformer_blocks", singles, names.single_norms),
        ):
            for index in range(count):
                for theirs, ours in norms.items():
                    yield f"{outer}.{index}.{theirs}", f"{inner}.{index}.{ours}"
                    yield f"{inner}.{index}.{ours}", f"{inner}.{index}.{ours}"

    @cached_property
    def _by_flat_name(self) -> Mapping[str, "NamedLayers"]:
        found = {_flat(name[CUT_OFF:]): NamedLayers((name,)) for name in self.linears}
        for theirs, ours in self._foreign():
            found[_flat(theirs)] = NamedLayers(ours, is_foreign=True)
            if len(ours) > 1:
                # OneTrainer numbers the layers (OMI's names; so does kohya where it splits them).
                for number, one in enumerate(ours):
                    found[_flat(f"{theirs}.{number}")] = NamedLayers((one,), is_foreign=True)
        found |= {_flat(name): NamedLayers(ours) for name, ours in self._fused()}
        # Last: one transformer's own name for a layer is never another layer's foreign one.
        return found | {_flat(name): NamedLayers((name,)) for name in self.linears}

    def _fused(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield what diffusers calls layers it has fused (`fuse_qkv_projections`)."""
        for name in self.linears:
            for last, (fused, parts) in FUSED.items():
                block = name.removesuffix(last)
                if block != name and all(f"{block}{part}" in self.linears for part in parts):
                    yield f"{block}{fused}", tuple(f"{block}{part}" for part in parts)

    def _foreign(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        names, (doubles, singles) = FAMILIES[self.family].layer_names, self.block_counts
        for outer, inner, count, row in (
            ("double_blocks", "transformer_blocks", doubles, names.double),
            ("single_blocks", "single_transformer_blocks", singles, names.single),
        ):
            for index in range(count):
                for theirs, ours in row.items():
                    layers = tuple(f"{inner}.{index}.{one}" for one in ours)
                    yield f"{outer}.{index}.{theirs}", layers
        for theirs, ours in names.other.items():
            if all(one in self.linears for one in ours):
                yield theirs, ours


def from_config(name: str, family: Family, config: Mapping[str, Any]) -> Architecture | None:
    """Return the layers of a transformer whose `config.json` is given.

    Args:
        name: What people call it.
        family: Its family.
        config: The file's object. What it leaves out has diffusers 0.42.1's default.

    Returns:
        None where the file describes another class of transformer than the family's.
    """
    spec = FAMILIES[family]
    if config.get("_class_name") != spec.transformer_class:
        return None
    return Architecture(name, family, MappingProxyType(spec.linear_layers(config)))


def known_architectures() -> tuple[Architecture, ...]:
    """Return the published transformers, whether their weights are on this disk or not."""
    made = (
        from_config(name, family, config)
        for family, spec in FAMILIES.items()
        for name, config in spec.transformers.items()
    )
    return tuple(one for one in made if one is not None)


def _flat(name: str) -> str:
    # Some files of kohya's layout have one `_` too many at the end.
    return name.replace(".", "_").rstrip("_")


def _count(linears: Mapping[str, Sizes], blocks: str) -> int:
    pattern = re.compile(rf"{blocks}\.(\d+)\.")
    numbers = (int(found[1]) for name in linears if (found := pattern.match(name)))
    return 1 + max(numbers, default=-1)
