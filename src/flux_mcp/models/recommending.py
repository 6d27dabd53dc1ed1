"""Which model to download first for a card of a size: a reading of the registry. Pure."""

import re

from flux_mcp.errors import InvalidRequestError
from flux_mcp.models.registry import ModelSpec, Registry

_CARD = re.compile(r"(?P<size>\d+(\.\d+)?)\s*(g|gb|gib)?", re.IGNORECASE)


def card_gib(text: str) -> float:
    """Read the size of a card's memory: `16GB`, `16 GiB`, `16`.

    Makers write GB and mean GiB: a card of 16 GB has 16 GiB, less what the driver keeps.

    Raises:
        InvalidRequestError: it is not a size.
    """
    found = _CARD.fullmatch(text.strip())
    if found is None or float(found["size"]) <= 0:
        raise InvalidRequestError(
            f"'{text[:40]}' is not the size of a card's memory.", "Write it as 16GB."
        )
    return float(found["size"])


def recommended_for(gib: float, registry: Registry) -> tuple[ModelSpec, ...]:
    """Return the models that a card of `gib` GiB can draw with, the one to install first in front.

    First those that draw from words, then other kinds; among them first what is free to use, then
    what stays on the card whole, then the order of models.toml. Empty if none fits.
    """
    real = [row for row in registry if not row.is_demonstration and least_gib(row) <= gib]
    return tuple(
        sorted(
            real,
            key=lambda row: (
                row.kind != "text2img",
                row.licence != "apache-2.0",
                row.vram_gib.get("resident", gib + 1) > gib,
            ),
        )
    )


def least_gib(row: ModelSpec) -> float:
    """Return the least memory of a card a row can be drawn with, in GiB, parts offloaded or not."""
    return min(row.vram_gib.values())
