"""HttpTraffic: requests being answered, and requests refused, since the process started.

The guard counts, the metrics read; both on the event loop's thread.
"""

from collections import Counter
from collections.abc import Mapping


class HttpTraffic:
    """Counts of one process."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._refused: Counter[str] = Counter()

    def opened(self) -> None:
        """Count a request that was admitted; open streams too."""
        self._in_flight += 1

    def closed(self) -> None:
        """Count its end."""
        self._in_flight -= 1

    def refused(self, code: str) -> None:
        """Count a request that was refused.

        Args:
            code: Of the error it was answered with; nothing a caller sent: each is a time series.
        """
        self._refused[code] += 1

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return self._in_flight

    @property
    def refusals(self) -> Mapping[str, int]:
        """How many requests were refused, by code."""
        return dict(self._refused)
