"""StdoutGuard: nothing but the protocol reaches stdout.

It keeps a private duplicate of file descriptor 1, which itself points at stderr from the first
moment, and at the protocol's pipe only while the SDK takes it over. Only the standard library is
imported here: it must come before everything that could print.
"""

import os
import sys


class StdoutGuard:
    """Keeps stray output off the protocol's pipe before and after the SDK uses it."""

    def __init__(self) -> None:
        self._pipe = os.dup(1)
        os.dup2(2, 1)
        # Only now: what an import or a start-up file printed goes to stderr as well.
        sys.stdout.flush()

    def open(self) -> None:
        """Point stdout at the pipe, for the SDK to take over."""
        sys.stdout.flush()
        os.dup2(self._pipe, 1)

    def shut(self) -> None:
        """Point stdout at stderr again."""
        os.dup2(2, 1)
