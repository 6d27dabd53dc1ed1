"""Line breaks that are there only because a line was full. Pure."""

from collections.abc import Sequence
from functools import cache

from flux_mcp.compose.audit import lexicon
from flux_mcp.compose.audit.cues import Sort, rows
from flux_mcp.compose.audit.tokens import Kind, Token
from flux_mcp.compose.audit.wordlists import words

_JOINING = words("and or nor plus with")
_DETERMINERS = words("a additional an any extra more other single some such the")
_FOLLOWING = words("and or nor of")


def unwrap(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens without the breaks inside of a sentence; other breaks end one.

    A break is inside where the line before leaves something open (a comma, "no", "the", "in") or
    the next one carries on ("or people").
    """
    return [
        token
        for place, token in enumerate(tokens)
        if token.kind is not Kind.LINE or not _is_inside(tokens, place)
    ]


def _is_inside(tokens: Sequence[Token], place: int) -> bool:
    if not 0 < place < len(tokens) - 1 or tokens[place].key.count("\n") > 1:
        return False
    before, behind = tokens[place - 1], tokens[place + 1]
    if behind.kind is not Kind.WORD:
        return False
    if before.kind is Kind.COMMA:
        return True
    leaves_open = before.kind is Kind.WORD and (before.hangs or before.key in _opening())
    return leaves_open or (before.kind is Kind.WORD and behind.key in _FOLLOWING)


@cache
def _opening() -> frozenset[str]:
    """Return the words that leave something open."""
    sorts = (Sort.DETERMINER, Sort.LEXICAL, Sort.VERB, Sort.PREDICATE)
    cues = frozenset(row.split()[-1] for sort in sorts for row in rows(sort))
    known = _DETERMINERS | lexicon.PREPOSITIONS | lexicon.DEFINITE | lexicon.COPULAS
    return cues | known | _JOINING
