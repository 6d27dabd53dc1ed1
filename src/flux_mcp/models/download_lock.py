"""`download.lock`: one process at a time downloads or removes weights in a data folder."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from flux_mcp.errors import DownloadRunningError
from flux_mcp.paths import Paths


@contextmanager
def hold_download_lock(paths: Paths) -> Iterator[None]:
    """Hold the lock inside the block; the system frees it when the process dies.

    Raises:
        DownloadRunningError: another process holds it.
    """
    try:
        with FileLock(paths.download_lock, timeout=0):
            yield
    except Timeout as error:
        raise DownloadRunningError(
            "Another process downloads or removes weights in this data folder.",
            "Wait until it has finished: 'flux-mcp models list' shows it.",
        ) from error
