"""Does a negation reach the next item of a list?

"no cars, people or animals" goes on, "no cars, people walking" does not. What is not clearly part
of the list counts as affirmed: a prompt that is refused can be worded more plainly, one that passes
by mistake cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flux_mcp.compose.audit.ideas import are_related
from flux_mcp.compose.audit.inflection import is_adjective
from flux_mcp.compose.audit.lexicon import CueKind, cues, lexicon
from flux_mcp.compose.audit.tables import words
from flux_mcp.compose.audit.text import TokenKind, TokenView

_LONGEST_ITEM = 5
_LONGEST_LIST = 20
_AND = words("and plus")
_OR = words("nor or")
_NOT_AFTER_OR = words("just maybe only perhaps with")
_ONLY = words("instead only")
"""Behind an item they affirm it: "no adults, children only"."""
_ENDS = frozenset(
    {
        TokenKind.STOP,
        TokenKind.EDGE,
        TokenKind.DASH,
        TokenKind.LINE,
        TokenKind.COLON,
        TokenKind.CLOSE,
        TokenKind.BULLET,
    }
)
_NEGATING = frozenset({CueKind.DETERMINER, CueKind.LEXICAL, CueKind.PREDICATE})


@dataclass(frozen=True)
class ListRule:
    """Which items a cue takes into its list."""

    since: int
    """The first token behind the cue."""
    lists: bool
    """The cue is a verb: "avoid text, people" needs no conjunction."""
    verbs: bool
    """Verbs may stand in the list: "do not add, draw or depict people"."""
    known: bool
    """Items may have determiners: "remove the people, the cars and the signs"."""
    only_or: bool
    """Only an "or" continues the list, as behind "is not"."""


@dataclass(frozen=True)
class Item:
    """The words from one comma or conjunction to the next."""

    start: int
    end: int
    closer: str = ""
    """"or", "and", "," or "" for the end of the clause."""
    after_comma: bool = False
    """Whether a comma is before that conjunction."""

    @property
    def behind(self) -> int:
        """The first token behind what closes it."""
        return self.end + 1 + self.after_comma


def comma_goes_on(view: TokenView, start: int, rule: ListRule) -> bool:
    """Return whether the words behind a comma, from `start` on, are negated as those before it."""
    if not view.is_word(start):
        return False
    if view.key(start) in _OR:
        return or_goes_on(view, start + 1)
    last = None if rule.lists else view.key(start - 2)
    if view.key(start) in _AND:
        return not rule.only_or and _oxford_and(view, start, rule.since, last)
    items = _items(view, start)
    known = rule.known and rule.lists
    bare = [
        is_bare(view, item, known=known) or (rule.verbs and _is_verb(view, item)) for item in items
    ]
    if rule.only_or or _or_closes(view, items, bare):
        return _or_closes(view, items, bare)
    if all(bare) and (rule.lists or _and_closes(view, items, last)):
        return True
    return bare[0] and _same_family(view, items, view.key(start - 2))


def or_goes_on(view: TokenView, behind: int) -> bool:
    """Return whether the words behind an "or" are negated as those before it."""
    return view.key(behind) not in _NOT_AFTER_OR


def and_goes_on(view: TokenView, behind: int, last: str | None) -> bool:
    """Return whether the words behind an "and" are negated as those before it.

    Args:
        view: All tokens.
        behind: The first one behind the "and".
        last: The word before it; `None` where the cue is a verb, and any thing may follow.
    """
    if begins_new_statement(view, behind):
        return False
    item = _item_at(view, behind)
    return not _has_activity(view, item) and (last is None or _belongs(view, item, last))


def is_bare(view: TokenView, item: Item, *, known: bool = False) -> bool:
    """Return whether an item is nothing but the name of a thing; if known, with a determiner."""
    if known and view.key(item.start) in lexicon().determiners:
        item = Item(item.start + 1, item.end)
    places = [place for place in range(item.start, item.end) if view.is_word(place)]
    if not 0 < len(places) <= _LONGEST_ITEM or begins_new_statement(view, item.start):
        return False
    if view.key(item.end) in _ONLY:
        return False
    return not any(_leads_away(view, place) for place in places) and not _has_activity(view, item)


def begins_new_statement(view: TokenView, start: int) -> bool:
    """Return whether the words from here on begin something that is not in the list."""
    word = view.key(start)
    if not view.is_word(start) or word.isdigit():
        return True
    known = lexicon()
    if word in known.affirming or word in known.commands or word in known.prepositions:
        return True
    return _is_freed(view, start) or (word.endswith("ing") and known.is_activity(word))


def _item_at(view: TokenView, start: int) -> Item:
    for place in range(start, len(view)):
        word, kind = view.key(place), view.kind(place)
        if kind in _ENDS or word in lexicon().boundaries:
            return Item(start, place)
        if kind is TokenKind.COMMA:
            closer = _closer(view.key(place + 1))
            return Item(start, place, closer or ",", after_comma=bool(closer))
        if kind is TokenKind.SLASH:
            return Item(start, place, "or")
        if place > start and not view.is_glued(place) and _closer(word):
            return Item(start, place, _closer(word))
    return Item(start, len(view))


def _closer(word: str) -> str:
    return "or" if word in _OR else "and" if word in _AND else ""


def _items(view: TokenView, start: int) -> list[Item]:
    """Return the next items, up to and with the first that ends in a conjunction."""
    items = [_item_at(view, start)]
    while items[-1].closer == "," and len(items) < _LONGEST_LIST:
        items.append(_item_at(view, items[-1].behind))
    return items


def _leads_away(view: TokenView, place: int) -> bool:
    """Return whether a word leads to a place, to a clause, or to a negation of its own."""
    word = view.key(place)
    if view.is_glued(place):
        return False
    if word == "with" or word in lexicon().prepositions or word in lexicon().relatives:
        return True
    return any(kind in _NEGATING for phrase, kind in cues().get(word, ()) if len(phrase) == 1)


def _is_verb(view: TokenView, item: Item) -> bool:
    return item.end == item.start + 1 and view.key(item.start) in lexicon().commands


def _is_freed(view: TokenView, start: int) -> bool:
    """Return whether a compound in "-free" or "-less" begins here."""
    place = start + 1
    while view.is_glued(place):
        if view.key(place) in ("free", "less"):
            return True
        place += 1
    return False


def _has_activity(view: TokenView, item: Item) -> bool:
    """Return whether an activity or an auxiliary follows the first word of an item."""
    for place in range(item.start + 1, item.end):
        if not view.is_word(place) or view.is_glued(place):
            continue
        if view.key(place) in lexicon().auxiliaries:
            return view.key(place + 1) not in lexicon().neutral
        if lexicon().is_activity(view.key(place)):
            return True
    return False


def _or_closes(view: TokenView, items: Sequence[Item], bare: Sequence[bool]) -> bool:
    """Return whether an "or" closes the list; ", or" does so over longer items too."""
    end = items[-1]
    if end.closer != "or":
        return False
    far = end.after_comma and not begins_new_statement(view, items[0].start)
    return (all(bare) or far) and not _joins_activities(view, end)


def _joins_activities(view: TokenView, item: Item) -> bool:
    """Return whether an "or" joins two activities: "people walking or sitting"."""
    return all(
        word.endswith("ing") and lexicon().is_activity(word)
        for word in (view.key(item.end - 1), view.key(item.behind))
    )


def _and_closes(view: TokenView, items: Sequence[Item], last: str | None) -> bool:
    """Return whether an "and" closes a list whose first item belongs to what was negated."""
    end = items[-1]
    first = end.behind
    if last is None and view.key(first) in lexicon().determiners:
        first += 1
    if end.closer != "and" or not and_goes_on(view, first, None):
        return False
    if last is not None and not is_bare(view, _item_at(view, end.behind)):
        # "no food, fork and knife beside it": with a place behind, only what prompts exclude.
        families = lexicon().family_of
        return all(view.key(item.end - 1) in families for item in items)
    return last is None or _belongs(view, items[0], last)


def _oxford_and(view: TokenView, place: int, since: int, last: str | None) -> bool:
    """Return whether ", and X" closes a list of more than two; else X begins something new."""
    in_list = any(view.kind(one) is TokenKind.COMMA for one in range(since, place - 1))
    return in_list and and_goes_on(view, place + 1, last)


def _belongs(view: TokenView, item: Item, last: str) -> bool:
    """Return whether an item goes with what was negated before it.

    A thing without a description does ("no cats and dogs"); one with a description only if it is
    of the same idea, or of those that prompts exclude: "no people and empty chairs" has chairs.
    """
    named: list[str] = []
    for place in range(item.start, item.end):
        word = view.key(place)
        if word in lexicon().prepositions:
            break
        if is_adjective(word):
            return False
        if word not in lexicon().neutral:
            named.append(word)
    if len(named) == 1:
        return True
    families = lexicon().family_of
    return any(word in families or are_related(word, last) for word in named)


def _same_family(view: TokenView, items: Sequence[Item], last: str) -> bool:
    """Return whether a list without a conjunction goes on: its things are commonly excluded.

    One item of the same family as the last word negated, or at least two that fill the rest of
    the clause.
    """
    described = range(items[0].start, items[0].end - 1)
    if any(is_adjective(view.key(place)) for place in described):
        return False
    families = lexicon().family_of
    heads = [view.key(item.end - 1) for item in items]
    if are_related(heads[0], last):
        return True
    known = [families.get(head) for head in heads]
    if known[0] is None:
        return False
    return known[0] == families.get(last) or (len(known) > 1 and None not in known)
