"""What goes where when memory runs short: card -> main memory -> disk. Pure.

The least recently used goes first. A part whose bytes lie in main memory leaves the card for
nothing; one whose bytes do not is copied there if there is room, or made, and else forgotten: its
files are still on the disk. store.py does what is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Held:
    """What the rules know of a loaded part."""

    key: str
    nbytes: int
    """Of all its weights."""
    last_used: int
    is_wanted: bool
    """Whether what draws next needs it: then it stays loaded."""
    card_bytes: int = 0
    """What it takes of the card; 0: it is not there."""
    in_host: bool = False
    """Whether its bytes lie in main memory; so do those of a part that is on the card, often."""


@dataclass(frozen=True)
class Move:
    """One step, in the order in which they are to be done."""

    key: str
    step: Literal["leave_card", "drop_copy", "forget"]
    """`drop_copy`: what main memory holds of a part that stays on the card."""


def free_card(
    held: Sequence[Held], needed_bytes: int, free_bytes: int, host_free_bytes: int
) -> tuple[Move, ...]:
    """Return what to do before so many bytes of the card are used; it may not be enough.

    Args:
        held: Every loaded part.
        needed_bytes: What comes, beside what is wanted and there already.
        free_bytes: Of the card.
        host_free_bytes: Of what main memory may be used; below 0 where what is wanted takes more.
    """
    parts = {item.key: item for item in held}
    moves: list[Move] = []
    for key in [item.key for item in _oldest_first(held) if item.card_bytes]:
        if needed_bytes <= free_bytes:
            break
        # As it is by now: its copy may have made room for another.
        item = parts[key]
        if item.is_wanted:
            continue
        free_bytes += item.card_bytes
        if not item.in_host:
            others = [part for part in parts.values() if part.key != item.key]
            room = free_host(others, item.nbytes, host_free_bytes)
            gained = sum(parts[move.key].nbytes for move in room)
            if host_free_bytes + gained < item.nbytes:
                moves.append(Move(item.key, "forget"))
                del parts[item.key]
                continue
            moves += room
            host_free_bytes += gained - item.nbytes
            for move in room:
                _apply(parts, move)
        moves.append(Move(item.key, "leave_card"))
        parts[item.key] = replace(item, card_bytes=0, in_host=True)
    return tuple(moves)


def free_host(held: Sequence[Held], needed_bytes: int, host_free_bytes: int) -> tuple[Move, ...]:
    """Return what to do before so many bytes of main memory are used; it may not be enough.

    Copies of parts that are on the card go first: nothing that is ready now is lost with them.
    """
    oldest = [item for item in _oldest_first(held) if item.in_host and not item.is_wanted]
    twice = [item for item in oldest if item.card_bytes]
    waiting = [item for item in oldest if not item.card_bytes]
    moves: list[Move] = []
    for item in (*twice, *waiting):
        if needed_bytes <= host_free_bytes:
            break
        moves.append(Move(item.key, "drop_copy" if item.card_bytes else "forget"))
        host_free_bytes += item.nbytes
    return tuple(moves)


def forget_without_card(
    loaded: Sequence[tuple[str, bool]], wanted: frozenset[str]
) -> tuple[str, ...]:
    """Return which transformers go where no memory can be told (CPU, MPS).

    Args:
        loaded: Key of each, and whether it is the demonstration's.
        wanted: Keys of what draws next.

    No real model stays beside another; the demonstration's do.
    """
    return tuple(key for key, is_demonstration in loaded if not (is_demonstration or key in wanted))


def _oldest_first(held: Sequence[Held]) -> list[Held]:
    return sorted(held, key=lambda item: item.last_used)


def _apply(parts: dict[str, Held], move: Move) -> None:
    if move.step == "forget":
        del parts[move.key]
    else:
        parts[move.key] = replace(parts[move.key], in_host=False)
