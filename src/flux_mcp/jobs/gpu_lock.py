"""GpuLock: held by the one server process of a data folder that runs jobs.

It is a lock on the file `gpu.lock`, and where the system can, one on the data folder itself as
well: whoever removes the file, which looks like a leftover, does not let a second process lead.
"""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from flux_mcp.settings.paths import Paths


class GpuLock:
    """A lock that ends with the process that holds it, however that ends."""

    def __init__(self, paths: Paths) -> None:
        self._file = FileLock(paths.gpu_lock)
        self._folder = paths.root
        self._release_folder: Callable[[], None] | None = None

    def acquire(self) -> bool:
        """Take the lock; False while another process holds it.

        Raises:
            OSError: the file cannot be made or locked, or too many files are open.
        """
        try:
            self._file.acquire(timeout=0)
        except Timeout:
            return False
        try:
            self._release_folder = _lock_folder(self._folder)
        except BlockingIOError:
            self._file.release()
            return False
        except BaseException:
            self._file.release()
            raise
        return True

    def release(self) -> None:
        """Let another process have it."""
        if self._release_folder is not None:
            self._release_folder()
            self._release_folder = None
        self._file.release()


def _lock_folder(folder: Path) -> Callable[[], None]:
    """Lock a folder; return what unlocks it.

    Raises:
        BlockingIOError: another process has it locked.
        OSError: too many files are open.
    """
    try:
        import fcntl  # noqa: PLC0415 - POSIX only; elsewhere a file that is open cannot be removed
    except ImportError:
        return lambda: None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        # Network file systems lock files only; there the file alone has to do.
        os.close(descriptor)
        return lambda: None
    return lambda: os.close(descriptor)
