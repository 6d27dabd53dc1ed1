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

from flux_mcp.models.families import FAMILIES, Family, Sizes

SWAPPED = "norm_out.linear"
"""Black Forest Labs' code has shift before scale in it, diffusers scale before shift."""


@dataclass(frozen=True)
class Architecture:
    """One transformer, as far as a LoRA can tell."""

    name: str
    family: Family
    linears: Mapping[str, Sizes]
    """Every linear layer by its name in diffusers."""

    def find(self, name: str) -> tuple[str, ...]:
        """Return the layers that a name stands for, by their names in diffusers.

        Args:
            name: diffusers' or Black Forest Labs', with `_` for each `.` or without, as trainers
                write it.

        Returns:
            Several layers where one of Black Forest Labs' is several of diffusers'; none where
            there is no such layer.
        """
        return self._by_flat_name.get(_flat(name), ())

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
    def _by_flat_name(self) -> Mapping[str, tuple[str, ...]]:
        found = {_flat(theirs): ours for theirs, ours in self._foreign()}
        # Last: one transformer's own name for a layer is never another layer's foreign one.
        return found | {_flat(name): (name,) for name in self.linears}

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


def is_foreign(name: str, layers: tuple[str, ...]) -> bool:
    """Whether a name is Black Forest Labs' and not diffusers' own."""
    return _flat(name) not in {_flat(layer) for layer in layers}


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
    return name.replace(".", "_")


def _count(linears: Mapping[str, Sizes], blocks: str) -> int:
    pattern = re.compile(rf"{blocks}\.(\d+)\.")
    numbers = (int(found[1]) for name in linears if (found := pattern.match(name)))
    return 1 + max(numbers, default=-1)
