"""StderrRelay: whoever reads our stderr, or does not, nothing that writes to it waits.

A pipe holds 64 KiB. Whatever writes into a full one waits, the event loop too: a client that starts
a server and never reads its stderr would stop it for good. So file descriptor 2 becomes a pipe of
our own. One thread always reads that, into a buffer with a limit; another writes to what was stderr
and may wait there as long as it likes. It is done to the file descriptor, not to the logger:
uvicorn, warnings, a `print` and native libraries write there as well.

A regular file never makes a writer wait: it is written to directly, and is complete even if the
process is killed. Only the standard library is imported here: it runs before all else.
"""

import atexit
import logging
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from contextlib import suppress

STDERR = 2
MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Of what nobody has read yet; what comes beyond it is dropped, and counted in lines."""
CLOSE_S = 1.0
"""How long the end of the process waits for what is left to be read."""
_CHUNK_BYTES = 64 * 1024
_MARK = b"\0"
"""Asks the reading thread to say that it has come so far: no log line has this byte."""

logger = logging.getLogger(__name__)


class StderrRelay:
    """Stands between this process's stderr and who reads it, from when it is made to `close`.

    Args:
        fd: The file descriptor; 2 but for tests.
        max_waiting_bytes: How much is kept for a reader who is slow.
    """

    def __init__(self, fd: int = STDERR, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self.is_terminal = os.isatty(fd)
        self._fd = fd
        self._max_bytes = max_waiting_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        """Of `waiting`, and of the chunk that is being written."""
        self._is_line_open = False
        """Whether what was kept last ended in the middle of a line."""
        self._is_dropping = False
        self._lost_lines = 0
        self._marks = 0
        self._is_gone = False
        self.is_on = _can_wait(fd)
        if not self.is_on:
            return
        self._outside = os.dup(fd)
        self._inside, end = os.pipe()
        os.dup2(end, fd)
        os.close(end)
        for name, work in (("stderr reader", self._read), ("stderr writer", self._write)):
            threading.Thread(target=work, name=name, daemon=True).start()
        atexit.register(self.close)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was written so far has been read; return whether it has.

        Args:
            timeout_s: At most so long.
        """
        if not self.is_on:
            return True
        until = time.monotonic() + timeout_s
        with self._changed:
            mark = self._marks + 1
        os.write(self._fd, _MARK)
        with self._changed:
            return self._changed.wait_for(
                lambda: self._marks >= mark and (self._is_gone or not self._waiting_bytes),
                until - time.monotonic(),
            )

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Give stderr back, if somebody reads it; else what is written from now on is lost.

        Args:
            timeout_s: How long to wait for what is left to be read.
        """
        if self.flush(timeout_s) and self.is_on:
            self.is_on = False
            os.dup2(self._outside, self._fd)

    # --- the threads ---------------------------------------------------------------------------

    def _read(self) -> None:
        """Take what was written, always at once."""
        while chunk := os.read(self._inside, _CHUNK_BYTES):
            with self._changed:
                self._marks += chunk.count(_MARK)
                self._keep(chunk.replace(_MARK, b""))
                self._changed.notify_all()

    def _keep(self, chunk: bytes) -> None:
        """Keep a chunk, or drop it in whole lines where too much is waiting."""
        if self._is_gone or not chunk:
            return
        if self._is_dropping and self._is_line_open:
            # The rest of a line whose beginning was dropped.
            _, newline, chunk = chunk.partition(b"\n")
            self._is_line_open = not newline
        if self._waiting_bytes + len(chunk) > self._max_bytes:
            kept = b""
            if not self._is_dropping and self._is_line_open:
                line, newline, chunk = chunk.partition(b"\n")
                kept = line + newline
            self._is_dropping = True
            self._lost_lines += chunk.count(b"\n")
            self._is_line_open = bool(chunk) and not chunk.endswith(b"\n")
            self._lost_lines += self._is_line_open
            chunk = kept
        elif chunk:
            self._is_dropping = False
            self._is_line_open = not chunk.endswith(b"\n")
        if chunk:
            self._waiting.append(chunk)
            self._waiting_bytes += len(chunk)

    def _write(self) -> None:
        """Write to what was stderr; wait there as long as nobody reads it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                chunk = self._waiting.popleft()
            is_read = self._hand_out(chunk)
            with self._changed:
                self._waiting_bytes -= len(chunk)
                if not is_read:
                    self._is_gone = True
                    self._waiting.clear()
                    self._waiting_bytes = 0
                lost, self._lost_lines = self._lost_lines, 0
                self._changed.notify_all()
            if not is_read:
                return
            if lost:
                # On this thread: the other one has to read it.
                logger.warning("log lines were lost: nobody read stderr", extra={"lines": lost})

    def _hand_out(self, chunk: bytes) -> bool:
        """Return whether there was somebody to read it."""
        left = memoryview(chunk)
        while left:
            try:
                left = left[os.write(self._outside, left) :]
            except BlockingIOError:  # who made the pipe may have set it so, for its own end
                select.select((), (self._outside,), ())
            except OSError:
                return False
        return True


def _can_wait(fd: int) -> bool:
    """Whether a writer may have to wait for a reader: a pipe, a socket, a terminal."""
    if sys.platform == "win32":
        # Its pipes cannot be waited for in this way; not tried there.
        return False
    with suppress(OSError):
        mode = os.fstat(fd).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
    return False
