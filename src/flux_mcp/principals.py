"""Principals: on whose behalf the current task acts.

A principal is the name of a token. Jobs and images belong to the principal that asked for them: for
any other, their ids do not exist. `LOCAL` is whoever starts programs on this machine (stdio, the
command line, a token without a name); it can read the files anyway, and sees everything.

The server sets the principal once for each message, before anything else handles the message; it is
a context variable, so that no use case can forget to pass it on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOCAL = "local"

_acting: ContextVar[str] = ContextVar("flux_mcp_principal", default=LOCAL)


def acting() -> str:
    """Return the principal on whose behalf this task acts; `LOCAL` unless one was set."""
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
