"""How much of a part has been read, reported in megabytes and percent."""

import threading
import time
from collections.abc import Callable

MB = 1_000_000
INTERVAL_S = 0.25
"""Four messages a second are as many as anybody reads."""


class ReadProgress:
    """Counts bytes and reports them: 'loading transformer, 412 of 1,234 MB, 33 %'.

    And how many of them were in memory already: '..., 300 MB of it from memory'.

    transformers reads on several threads and raises their errors late: counting is therefore
    serial, and whatever `report` raises is raised again at every later call.

    Args:
        doing: What comes before the numbers: 'loading transformer'.
        report: Called with the messages; may raise to stop.
        clock: Seconds.
    """

    def __init__(
        self,
        doing: str,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doing = doing
        self._total = 0
        self._report = report
        self._clock = clock
        self._done = 0
        self._from_memory = 0
        self._next_s = clock() + INTERVAL_S
        self._stopped: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def stopped(self) -> BaseException | None:
        """What `report` raised, if it did."""
        return self._stopped

    def expect(self, total_bytes: int) -> None:
        """Set what there is to read."""
        self._total = total_bytes

    def add(self, read_bytes: int, *, from_memory: bool = False) -> None:
        """Count what was read; reports it, at most four times a second, and when all is read.

        Args:
            read_bytes: Since the last call.
            from_memory: Whether it had been read from the disk before.

        Raises:
            BaseException: whatever `report` raised, now or before.
        """
        with self._lock:
            if self._stopped is not None:
                raise self._stopped
            self._done += read_bytes
            self._from_memory += read_bytes if from_memory else 0
            now_s = self._clock()
            if now_s < self._next_s and self._done < self._total:
                return
            self._next_s = now_s + INTERVAL_S
            try:
                self._report(self._message())
            except BaseException as error:
                self._stopped = error
                raise

    def _message(self) -> str:
        percent = 100 * self._done // self._total if self._total else 100
        known = f", {_megabytes(self._from_memory)} MB of it from memory"
        return (
            f"{self._doing}, {_megabytes(self._done)} of {_megabytes(self._total)} MB, {percent} %"
            + (known if self._from_memory else "")
        )


def _megabytes(size_bytes: int) -> str:
    """Return the nearest number of megabytes, but 1 for the smallest file."""
    return f"{max(min(size_bytes, 1), round(size_bytes / MB)):,}"
