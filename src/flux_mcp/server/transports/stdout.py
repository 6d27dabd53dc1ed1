"""StdoutGuard: nothing but the protocol reaches stdout, and nothing that is printed waits.

It keeps a private duplicate of file descriptor 1 for the protocol, and points 1 at stderr from the
first moment; stderr is relayed to whoever reads it (observability/stderr.py). Only the standard
library is imported here: it must come before everything that could print.
"""

import os
import sys

from flux_mcp.observability.stderr import STDERR, StderrRelay

STDIN, STDOUT = 0, 1


class StdoutGuard:
    """Keeps stray output off the protocol's pipe.

    Attributes:
        pipe: File descriptor of what was stdout: for the protocol alone.
        stderr: What is between this process's stderr and who reads it.
    """

    def __init__(self) -> None:
        self.stderr = StderrRelay()
        self.pipe = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
        # Only now: what an import or a start-up file printed goes to stderr as well.
        sys.stdout.flush()


def claim_stdin() -> int:
    """Return a file descriptor of what was stdin; who reads stdin from now on finds it empty."""
    pipe = os.dup(STDIN)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, STDIN)
    os.close(nothing)
    return pipe
