"""Which words are to be drawn as letters: those in quotation marks near a word for writing. Pure.

Quotation marks alone are not enough: in `a crowd of "people"` nobody wants letters.
"""

from collections.abc import Iterator, Sequence
from functools import cache

from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.tokens import Kind, Token
from flux_mcp.compose.audit.wordlists import words

_WRITING = words("""
    banner billboard brand call caption cover embroider engrave font graffiti handwriting heading
    headline inscribe inscription label letter logo marquee message name phrase placard poster print
    quote read say script sign slogan spell stencil subtitle tagline text title typeface typography
    word wordmark write
""")
_BEFORE = 7
_BEHIND = 4
_LONGEST = 20


def quoted(tokens: Sequence[Token]) -> list[bool]:
    """Return for each token whether it stands in a quotation that is to be drawn as letters."""
    found = [False] * len(tokens)
    for opening, closing in _pairs(tokens):
        is_short = closing - opening - 1 <= _LONGEST
        if is_short and (_writing_before(tokens, opening) or _writing_behind(tokens, closing)):
            found[opening : closing + 1] = [True] * (closing + 1 - opening)
    return found


@cache
def _writing() -> frozenset[str]:
    return frozenset().union(*(forms(word) for word in _WRITING))


def _pairs(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    opening: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token.kind is Kind.EDGE:
            opening.clear()
        elif token.kind is Kind.QUOTE:
            if token.key in opening:
                if _may_close(tokens, place):
                    yield opening.pop(token.key), place
            elif _may_open(tokens, place):
                opening[token.key] = place


def _may_open(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a mark may open; an apostrophe may not follow a word without a space."""
    touches_word = place > 0 and tokens[place - 1].end == tokens[place].start
    return tokens[place].key == '"' or not touches_word


def _may_close(tokens: Sequence[Token], place: int) -> bool:
    return tokens[place].key == '"' or tokens[place - 1].end == tokens[place].start


def _writing_before(tokens: Sequence[Token], opening: int) -> bool:
    for token in reversed(tokens[max(0, opening - _BEFORE) : opening]):
        if token.kind in (Kind.STOP, Kind.EDGE):
            return False
        if token.kind is Kind.WORD and token.key in _writing():
            return True
    return False


def _writing_behind(tokens: Sequence[Token], closing: int) -> bool:
    behind = tokens[closing + 1 : closing + 1 + _BEHIND]
    for token in behind:
        if token.kind is not Kind.WORD:
            return False
        if token.key in _writing():
            return True
    return False
