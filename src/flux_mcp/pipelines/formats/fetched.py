"""Tensors that were read from files before anybody asked for them.

Owns them until they are taken: each is handed out once, and only for the file it was read from, as
that file is now. For several threads. How they are read is known in fetching.py, when in
prefetch.py.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileIdentity:
    """What tells a file from the one that replaces it."""

    path: Path
    """With links resolved."""
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileIdentity":
        """Return a file's identity as it is now.

        Raises:
            OSError: it is not there.
        """
        blob = path.resolve()
        status = blob.stat()
        return cls(blob, status.st_size, status.st_mtime_ns)


class FetchedTensors:
    """A store of tensors by file and name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[FileIdentity, dict[str, Any]] = {}
        self._taken_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Memory of what nobody has taken."""
        with self._lock:
            return sum(t.nbytes for tensors in self._files.values() for t in tensors.values())

    @property
    def taken_bytes(self) -> int:
        """Bytes taken so far, since the store was made."""
        with self._lock:
            return self._taken_bytes

    def put(self, file: FileIdentity, tensors: Mapping[str, Any]) -> None:
        """Keep the tensors of a file; they are the store's own from here on."""
        with self._lock:
            self._files[file] = dict(tensors)

    def take(self, file: FileIdentity, name: str) -> Any | None:
        """Hand a tensor over; `None` if it is not here. It is the caller's own."""
        with self._lock:
            tensor = self._files.get(file, {}).pop(name, None)
            if tensor is not None:
                self._taken_bytes += tensor.nbytes
            return tensor

    def has(self, file: FileIdentity) -> bool:
        """Whether something of a file is here."""
        with self._lock:
            return bool(self._files.get(file))

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._files.clear()
