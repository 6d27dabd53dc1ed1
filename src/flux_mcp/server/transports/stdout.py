"""WireGuard: nothing but protocol reaches stdout.

Owns the wire, a private duplicate of file descriptor 1, which itself points at stderr from the
first moment and is the wire only while the SDK takes it over. Imports nothing: it must come before
everything that could print.
"""

import os
import sys


class StdoutGuard:
    """Keeps stray output off the wire before and after the SDK owns it."""

    def __init__(self) -> None:
        self._wire = os.dup(1)
        os.dup2(2, 1)
        # Only now: what an import or a start-up file printed goes to stderr as well.
        sys.stdout.flush()

    def open(self) -> None:
        """Point stdout at the wire, for the SDK to take over."""
        sys.stdout.flush()
        os.dup2(self._wire, 1)

    def shut(self) -> None:
        """Point stdout at stderr again."""
        os.dup2(2, 1)
