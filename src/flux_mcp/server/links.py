"""Links to images over HTTP: under which address its caller reaches this server.

The server says so once for each message that came over HTTP; whoever makes an answer asks
`image_url`. Over stdio there is no such address, and nothing is added to an answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.requests import HTTPConnection

_reached_at: ContextVar[str | None] = ContextVar("flux_mcp_reached_at", default=None)


def base_url(request: HTTPConnection, public_url: str | None) -> str:
    """Return the address under which a request reached this server, without a slash at its end.

    Args:
        request: One that the guard has admitted: its Host is a name of this server.
        public_url: The setting: what callers use where a proxy changes Host, scheme or path.
    """
    if public_url is not None:
        return public_url.rstrip("/")
    return f"{request.url.scheme}://{request.headers['host']}"


@contextmanager
def reached_at(base: str) -> Iterator[None]:
    """Answer a caller who reached this server at `base` inside the block."""
    token = _reached_at.set(base)
    try:
        yield
    finally:
        _reached_at.reset(token)


def image_url(image_id: str) -> str | None:
    """Return the link to a full image for the caller being answered; `None` over stdio."""
    base = _reached_at.get()
    return None if base is None else link_to(base, image_id)


def link_to(base: str, image_id: str) -> str:
    """Return the link to a full image of the server at `base`."""
    return f"{base}/images/{image_id}.png"
