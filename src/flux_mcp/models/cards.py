"""The graphics card of this machine as plans need it: its free memory, and the machine's.

`CardReader` owns the driver's last answer and keeps it for some seconds: several calls in a row ask
once. Where there is no `nvidia-smi`, it does not answer, or the card's memory is not its own, no
card is known, and plans are made without.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.models.candidates import Card, Machine
from flux_mcp.models.driver import DriverAnswer, DriverCard, ask_driver
from flux_mcp.models.memory import GIB

KEEP_S = 5.0


@dataclass(frozen=True)
class _Kept:
    answer: DriverAnswer
    at_s: float


class CardReader:
    """Tells the memory of the card and of the machine.

    Args:
        data_dir: What our own workers hold counts as free: those that serve this data folder.
        tool: The driver's tool; `None` where there is none.
        clock: Seconds, for how long an answer is kept.
    """

    def __init__(
        self,
        data_dir: Path,
        tool: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._tool = tool
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    def ask(self) -> DriverAnswer:
        """Return every card and who is on it; may take some seconds."""
        with self._lock:
            now_s = self._clock()
            if self._kept is None or now_s - self._kept.at_s > KEEP_S:
                self._kept = _Kept(ask_driver(self._tool), now_s)
            return self._kept.answer

    def read(self, name: str | None = None) -> Machine | None:
        """Return what there is, or `None` where no card's memory is known; may take some seconds.

        Args:
            name: The card that draws, where a worker has said so; else the first one counts.
        """
        cards = self.ask().cards
        if not cards:
            return None
        drawing = next((one for one in cards if one.name == name), cards[0])
        card = as_planned(drawing, self._data_dir)
        return None if card is None else Machine(card, main_memory_gib())


def as_planned(card: DriverCard, data_dir: Path) -> Card | None:
    """Return a card as plans count with it; `None` where its memory is not known.

    Args:
        card: As the driver tells of it.
        data_dir: What workers that serve this data folder hold counts as free.
    """
    if card.total_gib is None or card.free_gib is None or card.is_split:
        return None
    ours_gib = sum(one.used_gib or 0.0 for one in card.programs if one.data_dir == data_dir)
    free_gib = min(card.total_gib, card.free_gib + ours_gib)
    return Card(card.total_gib, free_gib, card.name, card.compute)


def main_memory_gib() -> float:
    """Return the main memory of this machine."""
    import psutil

    return psutil.virtual_memory().total / GIB
