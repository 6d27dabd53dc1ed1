"""What a server that many clients share asks of its own process: threads, memory, collections.

Owns no state of ours; the three functions change settings of the interpreter and the C library.
Measured with 200 clients on two cores: benchmarks/README.md, `load`.
"""

import ctypes
import gc
import sys

SWITCH_INTERVAL_S = 0.0005
"""How long a thread keeps the interpreter while another wants it; Python's own default is 5 ms."""
FULL_COLLECTION_EVERY = 100
"""Collections of the middle generation before a full one; Python's own default is 10."""
_M_ARENA_MAX = -8  # malloc.h of glibc


def share_interpreter() -> None:
    """Let the database's thread have the interpreter soon, however busy the event loop is.

    SQLite gives the interpreter up and asks for it again for each row. With Python's default, a
    search of 20 rows waited up to twenty times 5 ms beside a loop that was never idle: the "convoy
    effect" of github.com/python/cpython/issues/52194.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def share_heap() -> None:
    """Have all threads allocate from one heap; call it before there are threads.

    glibc gives each thread a heap of its own, up to eight for each core (mallopt(3),
    `M_ARENA_MAX`), and keeps in each what its thread needed most: decoded pictures. Elsewhere
    nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Make full collections short and rare; call it when all is imported.

    The 200,000 objects of our modules and libraries stay for ever: they are left out from now on. A
    full collection that looked at each of them stopped every client for a tenth of a second, every
    few seconds. One of what remains, the connections of 200 clients, takes 50 ms; it found two
    thousand objects, so it can come ten times less often. Younger ones are collected as before.
    """
    gc.collect()
    gc.freeze()
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, FULL_COLLECTION_EVERY)
