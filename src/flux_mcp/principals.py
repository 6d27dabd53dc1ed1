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
_over_network: ContextVar[bool] = ContextVar("flux_mcp_over_network", default=False)


def acting() -> str:
    """Return the principal on whose behalf this task acts; `LOCAL` unless one was set."""
    return _acting.get()


def only() -> str | None:
    """Return the principal whose jobs and images may be seen; `None` means all of them."""
    name = _acting.get()
    return None if name == LOCAL else name


def is_over_network() -> bool:
    """Return whether this task answers a message of HTTP: whoever sent it may sit elsewhere."""
    return _over_network.get()


@contextmanager
def acting_as(principal: str, *, over_network: bool = False) -> Iterator[None]:
    """Act on behalf of `principal` inside the block, and in tasks that are started there.

    Args:
        principal: The name of a token, or `LOCAL`.
        over_network: Whether its message came over HTTP.
    """
    token, place = _acting.set(principal), _over_network.set(over_network)
    try:
        yield
    finally:
        _over_network.reset(place)
        _acting.reset(token)
