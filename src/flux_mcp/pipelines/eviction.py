"""Which loaded transformers go when another needs their room. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeldTransformer:
    """What the eviction rule knows of a loaded transformer."""

    key: str
    gib: float
    last_used: int
    is_demonstration: bool


def choose_evictions(
    held: Sequence[HeldTransformer], needed_gib: float, free_gib: float | None
) -> tuple[str, ...]:
    """Return which transformers must go before another is loaded, the longest unused first.

    Args:
        held: Loaded transformers that the new pipeline does not use itself.
        needed_gib: What the new pipeline takes.
        free_gib: What is free on the device; `None` where that is not known (CPU, MPS): then no
            real model stays beside another.
    """
    oldest_first = sorted(held, key=lambda item: item.last_used)
    if free_gib is None:
        return tuple(item.key for item in oldest_first if not item.is_demonstration)
    evicted = []
    for item in oldest_first:
        if needed_gib <= free_gib:
            break
        evicted.append(item.key)
        free_gib += item.gib
    return tuple(evicted)
