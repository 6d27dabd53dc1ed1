"""What a negation is about: the thing itself, without the words around it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from flux_mcp.compose.audit import lexicon
from flux_mcp.compose.audit.reading import Reading
from flux_mcp.compose.audit.tokens import Token
from flux_mcp.compose.audit.wordlists import words

_MEANT_BY_CUE = {"nobody": "people", "one": "people"}
_LEADING = lexicon.SHOWING | lexicon.NEUTRAL | words("used using showing including adding having")


@dataclass(frozen=True)
class Thing:
    """Something that is negated."""

    head: str
    """The word that names it."""
    modifiers: tuple[str, ...]
    """Words before the head that narrow it: "harsh" in "no harsh shadows"."""
    places: tuple[int, ...]
    """Of the modifiers and the head among the tokens."""
    leaves_others: bool
    """Whether it is said of others only: "no other people"."""

    @property
    def name(self) -> str:
        """`harsh shadows`."""
        return " ".join((*self.modifiers, self.head))


def thing_of(reading: Reading, run: Sequence[int]) -> Thing | None:
    """Return what a run of negated words is about; `None` if it names nothing."""
    tokens = reading.tokens
    leaves_others = any(tokens[place].key in lexicon.NARROWING for place in run)
    kept = _without_doing(tokens, run)
    while kept and tokens[kept[-1]].key in lexicon.NEUTRAL:
        kept = kept[:-1]
    while kept and tokens[kept[0]].key in _LEADING:
        kept = kept[1:]
    kept = [place for place in kept if tokens[place].key not in lexicon.NEUTRAL]
    if not kept:
        return None
    *modifiers, head = (tokens[place].key for place in kept)
    head = _MEANT_BY_CUE.get(head) or (head.removesuffix("less") if len(run) == 1 else head)
    return Thing(head, tuple(modifiers), tuple(kept), leaves_others)


def _without_doing(tokens: Sequence[Token], run: Sequence[int]) -> list[int]:
    """Return the words before the first that says what the thing does: "people walking"."""
    for count, place in enumerate(run):
        word = tokens[place].key
        if count and (lexicon.is_doing(word) or word in lexicon.AUXILIARIES):
            return list(run[:count])
    return list(run)
