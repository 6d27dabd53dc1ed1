"""What goes on at the HTTP door: requests being answered, and callers turned away.

Owns these counts. The guard tells, the metrics read; both on the event loop's thread.
"""

from collections import Counter
from collections.abc import Mapping


class Traffic:
    """Counts since the process started."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._refused: Counter[str] = Counter()

    def opened(self) -> None:
        """Count a request that was let in; open streams too."""
        self._in_flight += 1

    def closed(self) -> None:
        """Count its end."""
        self._in_flight -= 1

    def refused(self, code: str) -> None:
        """Count a caller that was turned away.

        Args:
            code: Of the error it was told; never what it sent, because each is a time series.
        """
        self._refused[code] += 1

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return self._in_flight

    @property
    def refusals(self) -> Mapping[str, int]:
        """How often callers were turned away, by code."""
        return dict(self._refused)
