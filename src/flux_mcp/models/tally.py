"""How far a pull is: bytes of each file and of all.

Owns these counts; any thread may write them.
"""

import threading
from collections.abc import Iterable

from flux_mcp.models.hub_messages import FileProgress, PullProgress
from flux_mcp.models.pace import Pace
from flux_mcp.models.pulling import HubFile

MAX_TOLD = 8
"""Files in one message."""


class Tally:
    """Counts bytes. A file is known by its repository and its key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], HubFile] = {}
        self._done: dict[tuple[str, str], int] = {}
        self._checked: set[tuple[str, str]] = set()
        self._pace = Pace()

    def expect(self, repository: str, files: Iterable[HubFile]) -> None:
        """Take which files are to be there in the end."""
        with self._lock:
            self._files.update({(repository, file.key): file for file in files})

    def see(self, repository: str, file: HubFile, done_bytes: int) -> None:
        """Take how many bytes of a file there are."""
        with self._lock:
            self._done[repository, file.key] = done_bytes

    def checked(self, repository: str, file: HubFile) -> None:
        """Take that a file is whole and right."""
        with self._lock:
            self._done[repository, file.key] = file.size_bytes
            self._checked.add((repository, file.key))

    def progress(self, now_s: float) -> PullProgress:
        """Return how far everything is at a moment of a clock that never goes back."""
        with self._lock:
            done = sum(self._done.values())
            total = sum(file.size_bytes for file in self._files.values())
            told = [
                FileProgress(path=file.path, done_bytes=self._done[key], size_bytes=file.size_bytes)
                for key, file in self._files.items()
                if key in self._done and key not in self._checked
            ]
        self._pace.see(now_s, done)
        busy = total > done
        return PullProgress(
            phase="listing" if total == 0 else "downloading" if busy else "verifying",
            done_bytes=done,
            total_bytes=total,
            speed_bytes_s=self._pace.bytes_s if busy else None,
            eta_s=self._pace.left_s(total - done) if busy else None,
            files=tuple(told[:MAX_TOLD]),
        )
