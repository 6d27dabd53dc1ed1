"""How fast bytes come, and how long the rest takes. Pure: the caller brings the clock."""

from collections import deque

WINDOW_S = 20.0
"""The speed is that of the last so many seconds: a line's speed changes."""
_LEAST_S = 1.0


class Pace:
    """Speed over a sliding window. Owns the moments it was told of."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int]] = deque()

    def see(self, now_s: float, done_bytes: int) -> None:
        """Take how many bytes there are at a moment; moments come in order."""
        if self._moments and done_bytes < self._moments[-1][1]:
            self._moments.clear()  # a wrong file was deleted
        self._moments.append((now_s, done_bytes))
        while self._moments[0][0] < now_s - WINDOW_S:
            self._moments.popleft()

    @property
    def bytes_s(self) -> float | None:
        """Bytes a second; `None` before there is enough to say."""
        if not self._moments:
            return None
        (begin_s, begin), (end_s, end) = self._moments[0], self._moments[-1]
        return None if end_s - begin_s < _LEAST_S else (end - begin) / (end_s - begin_s)

    def left_s(self, left_bytes: int) -> float | None:
        """Return the seconds `left_bytes` take at this speed; `None` if nothing comes."""
        speed = self.bytes_s
        return left_bytes / speed if speed else None
