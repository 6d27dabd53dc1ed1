"""Text as it is compared: one kind of space, quote and hyphen, no invisible characters. Pure.

Spans are told in the text as it was written, so every folded character knows where it came from.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_PLAIN = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u02b9\u2032\uff07\u00b4`", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2013\u2014\u2015\u2e3a\u2e3b", "\u2014"),
    **dict.fromkeys("\u2028\u2029\u0085\u000b\u000c", "\n"),
    **dict.fromkeys("\u3001\uff0c", ","),
    **dict.fromkeys("\u3002\uff0e\uff61", "."),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("\u00d8", "O"),
    **dict.fromkeys("\u00f8", "o"),
    "\r": " ",
    "\u2026": ".",
}


@dataclass(frozen=True)
class Folded:
    """A folded text and where each of its characters stands in the original."""

    text: str
    _starts: Sequence[int]
    _ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where `text[start:end]` stands in the original; it may not be empty."""
        return self._starts[start], self._ends[end - 1]


def fold(text: str) -> Folded:
    """Return the text as it is compared, in its own letter case.

    Full-width letters and ligatures become plain ones, accents go, a combining mark belongs to the
    letter before it, and what cannot be seen (soft hyphens, zero-width characters) is left out.
    """
    if text.isascii():
        plain = text.replace("`", "'").replace("\r", " ")
        plain = plain.replace("\x0b", "\n").replace("\x0c", "\n")
        return Folded(plain, range(len(text)), range(1, len(text) + 1))
    folded: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for place, character in enumerate(text):
        plain = _plain(character)
        if not plain:
            # What adds nothing belongs to the letter before it.
            if ends and unicodedata.combining(character):
                ends[-1] = place + 1
            continue
        folded.append(plain)
        starts.extend([place] * len(plain))
        ends.extend([place + 1] * len(plain))
    return Folded("".join(folded), starts, ends)


def _plain(character: str) -> str:
    """Return what a character is compared as; empty if it counts for nothing."""
    if character.isascii() and character not in "`\r\x0b\x0c":
        return character
    known = _PLAIN.get(character)
    if known is not None:
        return known
    category = unicodedata.category(character)
    if category in ("Cf", "Mn", "Me"):
        return ""
    if category == "Zs":
        return " "
    decomposed = unicodedata.normalize("NFKD", character)
    return "".join(_PLAIN.get(one, one) for one in decomposed if not unicodedata.combining(one))
