"""What one place of a prompt denies and another shows. Pure.

"no people" in one block does not undo "a crowd of women" in another: FLUX reads both and draws
women. So such a prompt is refused, whatever the pack forbids.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from flux_mcp.compose.audit import special_forms
from flux_mcp.compose.audit.ideas import Idea, idea_of, words_of
from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.reading import Negation, Polarity, Reading
from flux_mcp.compose.audit.things import Thing, thing_of

Shown = tuple[int, bool]
"""The token that shows a thing, and whether it surely means it."""


@dataclass(frozen=True)
class Contradiction:
    """A thing that is shown in one place and denied in another."""

    thing: Thing
    negation: Negation
    place: int
    """The token that shows it."""
    is_sure: bool
    """Whether the word surely means what is denied, and the denial is of all of it."""


def contradictions(reading: Reading) -> Iterator[Contradiction]:
    """Yield every word that shows what is denied elsewhere; each word once, the surest first."""
    known: dict[str, tuple[Shown, ...]] = {}
    excepted = _excepted(reading)
    found: list[Contradiction] = []
    for negation in reading.negations:
        for run in negation.things:
            thing = thing_of(reading, run)
            if thing is None or thing.leaves_others or thing.head in special_forms.ADJECTIVES:
                continue
            if thing.name not in known:
                known[thing.name] = tuple(_shown(reading, thing))
            whole = not negation.in_place and not (negation.of_doing and not idea_of(thing.head))
            found.extend(
                Contradiction(thing, negation, place, is_sure and whole)
                for place, is_sure in known[thing.name]
                if reading.tokens[place].key not in excepted
            )
    told: set[int] = set()
    for one in sorted(found, key=lambda one: not one.is_sure):
        if one.place not in told:
            told.add(one.place)
            yield one


def _excepted(reading: Reading) -> frozenset[str]:
    """Return every form of what is named as an exception: "no people except a child"."""
    named = {
        token.key
        for token, is_excepted in zip(reading.tokens, reading.excepted, strict=True)
        if is_excepted
    }
    return frozenset().union(*(forms(word) for word in named))


def _shown(reading: Reading, thing: Thing) -> Iterator[Shown]:
    idea = idea_of(thing.head)
    if idea is not None and not thing.modifiers:
        yield from _idea_shown(reading, idea)
        return
    for word in forms(thing.head) & reading.places.keys():
        for place in reading.places[word]:
            if _is_shown(reading, place) and _is_same(reading, place, thing):
                yield place, True


def _idea_shown(reading: Reading, idea: Idea) -> Iterator[Shown]:
    meant = words_of(idea)
    for word in meant.keys() & reading.places.keys():
        for place in reading.places[word]:
            if _is_shown(reading, place):
                yield place, meant[word]
    if idea.quotations:
        for place in reading.quotations():
            yield place, True


def _is_shown(reading: Reading, place: int) -> bool:
    return reading.polarity[place] is Polarity.AFFIRMED and not reading.excepted[place]


def _is_same(reading: Reading, place: int, thing: Thing) -> bool:
    """Return whether the words before are those of the thing: "harsh" before "shadows"."""
    first = place - len(thing.modifiers)
    before = tuple(token.key for token in reading.tokens[max(0, first) : place])
    return before == thing.modifiers
