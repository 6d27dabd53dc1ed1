"""What is unloaded to make room, the longest unused first. Pure.

Where a GPU's memory is known, parts first leave the GPU and wait in host memory; what has no room
there either is forgotten and read from the disk again when it is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class PartState:
    """What eviction needs to know of a loaded part."""

    key: str
    nbytes: int
    """What all its weights take."""
    last_used: int
    is_wanted: bool
    """Whether the next job needs it: then it stays loaded."""
    gpu_bytes: int = 0
    """What it takes of the GPU; 0 where it is not there."""
    in_host: bool = False
    """Whether host memory has its weights, which it may also for a part that is on the GPU."""


@dataclass(frozen=True)
class EvictionStep:
    """One step of an eviction; steps are done in the order in which they are returned."""

    key: str
    step: Literal["leave_gpu", "drop_copy", "forget"]
    """`leave_gpu`: from then on its weights are in host memory only; `drop_copy`: on the GPU only;
    `forget`: nowhere."""


def free_gpu(
    loaded: Sequence[PartState], needed_bytes: int, free_bytes: int, host_free_bytes: int
) -> tuple[EvictionStep, ...]:
    """Return what to do before so many bytes of the GPU are used; it may not be enough.

    Args:
        loaded: Every loaded part.
        needed_bytes: What will be used, without what is wanted and on the GPU already.
        free_bytes: What is free of the GPU.
        host_free_bytes: What is left of the host memory that may be used; below 0 where wanted
            parts take more.
    """
    parts = {item.key: item for item in loaded}
    moves: list[EvictionStep] = []
    for key in [item.key for item in _oldest_first(loaded) if item.gpu_bytes]:
        if needed_bytes <= free_bytes:
            break
        # As it is after the steps so far: its copy may have been dropped.
        item = parts[key]
        if item.is_wanted:
            continue
        free_bytes += item.gpu_bytes
        if not item.in_host:
            others = [part for part in parts.values() if part.key != item.key]
            room = free_host(others, item.nbytes, host_free_bytes)
            gained = sum(parts[move.key].nbytes for move in room)
            if host_free_bytes + gained < item.nbytes:
                moves.append(EvictionStep(item.key, "forget"))
                del parts[item.key]
                continue
            moves += room
            host_free_bytes += gained - item.nbytes
            for move in room:
                _apply(parts, move)
        moves.append(EvictionStep(item.key, "leave_gpu"))
        parts[item.key] = replace(item, gpu_bytes=0, in_host=True)
    return tuple(moves)


def free_host(
    loaded: Sequence[PartState], needed_bytes: int, host_free_bytes: int
) -> tuple[EvictionStep, ...]:
    """Return what to do before so many bytes of host memory are used; it may not be enough.

    Copies of parts that are on the GPU go first: all parts stay loaded then.
    """
    oldest = [item for item in _oldest_first(loaded) if item.in_host and not item.is_wanted]
    twice = [item for item in oldest if item.gpu_bytes]
    waiting = [item for item in oldest if not item.gpu_bytes]
    moves: list[EvictionStep] = []
    for item in (*twice, *waiting):
        if needed_bytes <= host_free_bytes:
            break
        moves.append(EvictionStep(item.key, "drop_copy" if item.gpu_bytes else "forget"))
        host_free_bytes += item.nbytes
    return tuple(moves)


def forget_without_gpu(
    loaded: Sequence[tuple[str, bool]], wanted: frozenset[str]
) -> tuple[str, ...]:
    """Return which transformers to forget where no memory is known (CPU, MPS).

    No real model stays loaded beside another; the demonstration's do.

    Args:
        loaded: The key of each, and whether it is the demonstration's.
        wanted: Keys of what the next job needs.
    """
    return tuple(key for key, is_demonstration in loaded if not (is_demonstration or key in wanted))


def _oldest_first(loaded: Sequence[PartState]) -> list[PartState]:
    return sorted(loaded, key=lambda item: item.last_used)


def _apply(parts: dict[str, PartState], move: EvictionStep) -> None:
    if move.step == "forget":
        del parts[move.key]
    else:
        parts[move.key] = replace(parts[move.key], in_host=False)
