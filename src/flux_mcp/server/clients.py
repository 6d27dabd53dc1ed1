"""What a client gets that differs from what others get, by the table in clients.toml.

`fit` is pure. The server says once for each message who sent it (`asked_by`), as it does for the
principal; whoever makes an answer asks `current_fit`. The table is read for the first of these, not
before a client's handshake is answered.
"""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flux_mcp.settings.settings import Settings

if TYPE_CHECKING:
    from flux_mcp.jobs.job import PreviewSize

CLIENTS_TOML = Path(__file__).with_name("clients.toml")

PREVIEW_BUDGET_BYTES = 600_000
"""Of all previews of one result together, before base64."""

_asked_by: ContextVar[tuple[str, str | None] | None] = ContextVar("flux_mcp_client", default=None)


@dataclass(frozen=True)
class PreviewBudget:
    """How much all previews of one result may have together.

    Attributes:
        size_bytes: Before base64.
        pixels: By which some providers of models charge; `None` for no limit but the size that is
            asked for.
    """

    size_bytes: int = PREVIEW_BUDGET_BYTES
    pixels: int | None = None

    def side_px(self, longest_px: int, count: int) -> int:
        """Return how long the sides of each of `count` previews may be, at most `longest_px`."""
        if self.pixels is None:
            return longest_px
        return min(longest_px, max(1, math.isqrt(self.pixels // max(1, count))))


@dataclass(frozen=True)
class ClientFit:
    """What one client gets.

    Attributes:
        links: Whether links to the full PNGs are in results.
        structured: Whether structured content is, and output schemas in tools/list.
        preview: How large an image a result has where the call does not say.
        preview_bytes: All previews of one result together, before base64.
        preview_pixels: All previews of one result together; `None` for no limit of its own.
        wait_s: Seconds a call waits for its images where it does not say; `None`: as every client.
        poll_s: Seconds flux_get_job waits where it does not say; `None`: as every client.
    """

    links: bool = True
    structured: bool = True
    preview: "PreviewSize" = "small"
    preview_bytes: int = PREVIEW_BUDGET_BYTES
    preview_pixels: int | None = None
    wait_s: float | None = None
    poll_s: float | None = None

    @property
    def budget(self) -> PreviewBudget:
        """What its previews may have."""
        return PreviewBudget(self.preview_bytes, self.preview_pixels)


@dataclass(frozen=True)
class Row:
    """One row of the table; what it does not set is as for every client.

    Attributes:
        name: Of the client, for people.
        client_info: A regular expression for the whole `clientInfo.name`; `None`: every client's.
        below: Only protocol revisions before this one; `None`: all.
        source: Where this is known from.
        different: The fields of `ClientFit` that differ.
    """

    name: str
    client_info: str | None
    below: str | None
    source: str
    different: Mapping[str, Any]

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """Return a row as clients.toml has it."""
        about = ("name", "client_info", "below", "source")
        below = table.get("below")
        return cls(
            name=table.get("name", f"every client of a revision before {below}"),
            client_info=table.get("client_info"),
            below=below,
            source=table["source"],
            different={key: value for key, value in table.items() if key not in about},
        )

    def is_for(self, protocol_version: str, client_name: str | None) -> bool:
        """Return whether a client has this row."""
        # Revisions are dates: as texts they sort as they do.
        if self.below is not None and protocol_version >= self.below:
            return False
        if self.client_info is None:
            return True
        return re.fullmatch(self.client_info, client_name or "", re.IGNORECASE) is not None


def fit(protocol_version: str, client_name: str | None, overrides: Mapping[str, Any]) -> ClientFit:
    """Return what a client gets: the defaults, then its revision's row, its own, the settings.

    Args:
        protocol_version: The revision of the protocol that it speaks.
        client_name: Its `clientInfo.name`; `None` where it gave none.
        overrides: Fields of `ClientFit` that were set for all clients (`overrides_of`).
    """
    fitted = ClientFit()
    revisions, clients = _rows()
    for row in revisions:
        if row.is_for(protocol_version, client_name):
            fitted = replace(fitted, **row.different)
    own = next((row for row in clients if row.is_for(protocol_version, client_name)), None)
    if own is not None:
        fitted = replace(fitted, **own.different)
    return replace(fitted, **overrides)


def overrides_of(settings: Settings) -> dict[str, Any]:
    """Return the fields of `ClientFit` that the settings decide for all clients."""
    overrides: dict[str, Any] = {
        name: value == "on"
        for name, value in (("links", settings.links), ("structured", settings.structured))
        if value != "auto"
    }
    if settings.preview != "auto":
        overrides["preview"] = settings.preview
    if settings.preview_bytes is not None:
        overrides["preview_bytes"] = settings.preview_bytes
    if settings.preview_pixels is not None:
        overrides["preview_pixels"] = settings.preview_pixels
    if settings.default_wait_s is not None:
        overrides["wait_s"] = settings.default_wait_s
    return overrides


@contextmanager
def asked_by(protocol_version: str, client_name: str | None) -> Iterator[None]:
    """Answer this client inside the block, and in tasks that are started there."""
    token = _asked_by.set((protocol_version, client_name))
    try:
        yield
    finally:
        _asked_by.reset(token)


def current_fit(overrides: Mapping[str, Any]) -> ClientFit:
    """Return what the client gets that is being answered; outside of a message, any client."""
    client = _asked_by.get()
    return ClientFit(**overrides) if client is None else fit(*client, overrides)


def known_clients() -> tuple[Row, ...]:
    """Return every row of the table, those of revisions first."""
    revisions, clients = _rows()
    return (*revisions, *clients)


@cache
def _rows() -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Return the rows of revisions, and those of clients: of these the first that fits counts."""
    tables = tomllib.loads(CLIENTS_TOML.read_text(encoding="utf-8"))
    revisions, clients = (
        tuple(Row.of(table) for table in tables[kind]) for kind in ("revision", "client")
    )
    return revisions, clients
