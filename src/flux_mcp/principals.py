"""Who asks: the principal on whose behalf the current task acts. Owns that, one value per task.

A principal is the name of a token. Its jobs and images are its own: no other name can look at
them, cancel them or draw from them, and is told what it would be told of an id that does not exist.
`LOCAL` is whoever starts programs on this machine (stdio, the command line, a token without a
name): it can read the files anyway, so it sees everything.

A context variable, because every use case asks and none may forget: the server sets it once for
each message, before anything else looks at the message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOCAL = "local"

_acting: ContextVar[str] = ContextVar("flux_mcp_principal", default=LOCAL)


def acting() -> str:
    """Return the principal on whose behalf this task acts; `LOCAL` unless it was said otherwise."""
    return _acting.get()


def only() -> str | None:
    """Return the principal whose jobs and images may be seen; `None` means all of them."""
    name = _acting.get()
    return None if name == LOCAL else name


@contextmanager
def acting_as(principal: str) -> Iterator[None]:
    """Act on behalf of `principal` inside the block, and in tasks that are started there."""
    token = _acting.set(principal)
    try:
        yield
    finally:
        _acting.reset(token)
