"""FileHashes: the SHA-256 of large files, each read once for as long as it stays the same file."""

import hashlib
import threading
from pathlib import Path


class FileHashes:
    """Hashes of files. For any thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int, int], str] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """Return a file's; it is read again when its size, a time or its inode is another.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        key = (path, status.st_size, changed_ns, status.st_ino)
        with self._lock:
            if key not in self._known:
                with path.open("rb") as stream:
                    self._known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            return self._known[key]
