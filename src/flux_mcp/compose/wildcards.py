"""Choices drawn by a seed: `"*"`, `"noir|pastel"`, `"noir:3|pastel:1"`. Pure.

Every choice holds as many tickets as its weight. A ticket's number is a hash of seed, pack,
variable, choice and ticket; the highest wins. So a draw needs no state: it is the same on every
platform and Python, whatever else is drawn, and a choice that is added takes over some draws and
leaves all others alone.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flux_mcp.compose.problems import nearest, shorten
from flux_mcp.errors import InvalidRequestError

ANY = "*"
MAX_WEIGHT = 100
"""Weights are whole numbers up to this: each unit costs one hash."""

_OPTION = re.compile(r"\s*(?P<name>[^\s:|]+)\s*(?::\s*(?P<weight>\d{1,9})\s*)?")


@dataclass(frozen=True)
class Wildcard:
    """Several choices with their weights, one of which is to be drawn."""

    weights: Mapping[str, int]

    def draw(self, *key: str | int) -> str:
        """Return the name the key draws: by weight, the same for the same key."""
        tickets = (
            (_number(*key, name, ticket), name)
            for name, weight in self.weights.items()
            for ticket in range(weight)
        )
        return max(tickets)[1]


def _number(*key: str | int) -> bytes:
    parts = [str(part).encode() for part in key]
    # Lengths keep ("ab", "c") and ("a", "bc") apart.
    return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).digest()


def read_wildcard(text: str, choices: Mapping[str, int]) -> Wildcard | None:
    """Read what a caller gave as a choice; `None` where it is no wildcard.

    Args:
        text: `*`, or names of choices with `|` between them and perhaps `:weight` behind.
        choices: Weight of every choice there is; those of weight 0 are not drawn by `*`.

    Raises:
        InvalidRequestError: a wildcard that names what is no choice, or has no weight in it.
    """
    if text.strip() == ANY:
        return Wildcard(choices)
    if "|" not in text:
        return None
    weights: dict[str, int] = {}
    for option in text.split("|"):
        found = _OPTION.fullmatch(option)
        if found is None:
            raise InvalidRequestError(
                f"'{shorten(option.strip())}' in '{shorten(text)}' is not a choice with a weight.",
                "Write choices like noir:3|pastel:1, with whole numbers.",
            )
        if found["name"] not in choices:
            raise InvalidRequestError(
                f"'{shorten(found['name'])}' in '{shorten(text)}' is no choice.",
                nearest(found["name"], choices, what="Choices"),
            )
        weight = int(found["weight"] or 1)
        weights[found["name"]] = weights.get(found["name"], 0) + weight
    if not 0 < max(weights.values()) <= MAX_WEIGHT:
        raise InvalidRequestError(
            f"The weights of '{shorten(text)}' must be whole numbers up to {MAX_WEIGHT}, "
            "not all 0.",
            "Write choices like noir:3|pastel:1.",
        )
    return Wildcard(weights)
