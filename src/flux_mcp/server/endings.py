"""Signals: the first one ends a server in order, the second ends the process at once.

Nothing is lost by the second: the GPU lock falls with the process, the worker sees its stdin close,
and the next leader finds the job that was running.
"""

import signal

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
DRAIN_S = 5
"""How long answers that are under way may take when the server is told to end."""


def end_at_once_next_time() -> None:
    """Let the system do what it does with these signals when nobody handles them."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
