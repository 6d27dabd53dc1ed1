"""Does a negation reach the next item of a list? Pure.

"no cars, people or animals" goes on, "no cars, people walking" does not. The rule of thumb: what is
not clearly part of the list is there; a prompt that is refused can be worded more plainly, one that
slips through cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flux_mcp.compose.audit import inflection as special_forms
from flux_mcp.compose.audit import lexicon
from flux_mcp.compose.audit.ideas import are_kin
from flux_mcp.compose.audit.inflection import words
from flux_mcp.compose.audit.lexicon import Sort, table
from flux_mcp.compose.audit.text import TokenKind, View

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
_NEGATING = frozenset({Sort.DETERMINER, Sort.LEXICAL, Sort.PREDICATE})


@dataclass(frozen=True)
class Hold:
    """How firmly a cue holds on to a list."""

    since: int
    """The first token behind the cue."""
    lists: bool
    """It is a verb: "avoid text, people" needs no conjunction."""
    verbs: bool
    """Verbs may stand in the list: "do not add, draw or depict people"."""
    known: bool
    """Its things have determiners: "remove the people, the cars and the signs"."""
    only_or: bool
    """Only an "or" carries on, as behind "is not"."""


@dataclass(frozen=True)
class Item:
    """The words from one comma or conjunction to the next."""

    start: int
    end: int
    closer: str = ""
    """"or", "and", "," or "" for the end of the clause."""
    after_comma: bool = False
    """Whether a comma stands before that conjunction."""

    @property
    def behind(self) -> int:
        """The first token behind what closes it."""
        return self.end + 1 + self.after_comma


def comma_goes_on(view: View, start: int, hold: Hold) -> bool:
    """Return whether the words behind a comma, from `start` on, are negated as those before it."""
    if not view.is_word(start):
        return False
    if view.key(start) in _OR:
        return or_goes_on(view, start + 1)
    last = None if hold.lists else view.key(start - 2)
    if view.key(start) in _AND:
        return not hold.only_or and _oxford_and(view, start, hold.since, last)
    items = _items(view, start)
    known = hold.known and hold.lists
    bare = [
        is_bare(view, item, known=known) or (hold.verbs and _is_verb(view, item)) for item in items
    ]
    if hold.only_or or _or_closes(view, items, bare):
        return _or_closes(view, items, bare)
    if all(bare) and (hold.lists or _and_closes(view, items, last)):
        return True
    return bare[0] and _same_family(view, items, view.key(start - 2))


def or_goes_on(view: View, behind: int) -> bool:
    """Return whether the words behind an "or" are negated as those before it."""
    return view.key(behind) not in _NOT_AFTER_OR


def and_goes_on(view: View, behind: int, last: str | None) -> bool:
    """Return whether the words behind an "and" are negated as those before it.

    Args:
        view: All tokens.
        behind: The first one behind the "and".
        last: The word before it; `None` where the cue is a verb, and any thing may follow.
    """
    if begins_anew(view, behind):
        return False
    item = _item_at(view, behind)
    return not _has_doing(view, item) and (last is None or _is_kin(view, item, last))


def is_bare(view: View, item: Item, *, known: bool = False) -> bool:
    """Return whether an item is nothing but the name of a thing; if known, with a determiner."""
    if known and view.key(item.start) in lexicon.DETERMINERS:
        item = Item(item.start + 1, item.end)
    places = [place for place in range(item.start, item.end) if view.is_word(place)]
    if not 0 < len(places) <= _LONGEST_ITEM or begins_anew(view, item.start):
        return False
    if view.key(item.end) in _ONLY:
        return False
    return not any(_leads_away(view, place) for place in places) and not _has_doing(view, item)


def begins_anew(view: View, start: int) -> bool:
    """Return whether the words from here on begin something that is not in the list."""
    word = view.key(start)
    if not view.is_word(start) or word.isdigit():
        return True
    if word in lexicon.AFFIRMING or word in lexicon.COMMANDS or word in lexicon.PREPOSITIONS:
        return True
    return _is_freed(view, start) or (word.endswith("ing") and lexicon.is_doing(word))


def _item_at(view: View, start: int) -> Item:
    for place in range(start, len(view)):
        word, kind = view.key(place), view.kind(place)
        if kind in _ENDS or word in lexicon.BOUNDARIES:
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


def _items(view: View, start: int) -> list[Item]:
    """Return the next items, up to and with the first that ends in a conjunction."""
    items = [_item_at(view, start)]
    while items[-1].closer == "," and len(items) < _LONGEST_LIST:
        items.append(_item_at(view, items[-1].behind))
    return items


def _leads_away(view: View, place: int) -> bool:
    """Return whether a word leads to a place, to a clause, or to a negation of its own."""
    word = view.key(place)
    if view.is_glued(place):
        return False
    if word == "with" or word in lexicon.PREPOSITIONS or word in lexicon.RELATIVES:
        return True
    rows = table().get(word, ())
    return any(sort in _NEGATING for phrase, sort in rows if len(phrase) == 1)


def _is_verb(view: View, item: Item) -> bool:
    return item.end == item.start + 1 and view.key(item.start) in lexicon.COMMANDS


def _is_freed(view: View, start: int) -> bool:
    """Return whether a compound in "-free" or "-less" begins here."""
    place = start + 1
    while view.is_glued(place):
        if view.key(place) in ("free", "less"):
            return True
        place += 1
    return False


def _has_doing(view: View, item: Item) -> bool:
    """Return whether something is done, or is, behind the first word of an item."""
    for place in range(item.start + 1, item.end):
        if not view.is_word(place) or view.is_glued(place):
            continue
        if view.key(place) in lexicon.AUXILIARIES:
            return view.key(place + 1) not in lexicon.NEUTRAL
        if lexicon.is_doing(view.key(place)):
            return True
    return False


def _or_closes(view: View, items: Sequence[Item], bare: Sequence[bool]) -> bool:
    """Return whether an "or" closes the list; ", or" does so over longer items too."""
    end = items[-1]
    if end.closer != "or":
        return False
    far = end.after_comma and not begins_anew(view, items[0].start)
    return (all(bare) or far) and not _joins_doings(view, end)


def _joins_doings(view: View, item: Item) -> bool:
    """Return whether an "or" joins two doings: "people walking or sitting"."""
    return all(
        word.endswith("ing") and lexicon.is_doing(word)
        for word in (view.key(item.end - 1), view.key(item.behind))
    )


def _and_closes(view: View, items: Sequence[Item], last: str | None) -> bool:
    """Return whether an "and" closes a list whose first item belongs to what was negated."""
    end = items[-1]
    first = end.behind
    if last is None and view.key(first) in lexicon.DETERMINERS:
        first += 1
    if end.closer != "and" or not and_goes_on(view, first, None):
        return False
    if last is not None and not is_bare(view, _item_at(view, end.behind)):
        # "no food, fork and knife beside it": with a place behind, only what prompts exclude.
        families = lexicon.family_of()
        return all(view.key(item.end - 1) in families for item in items)
    return last is None or _is_kin(view, items[0], last)


def _oxford_and(view: View, place: int, since: int, last: str | None) -> bool:
    """Return whether ", and X" closes a list of more than two: else X begins something new."""
    in_list = any(view.kind(one) is TokenKind.COMMA for one in range(since, place - 1))
    return in_list and and_goes_on(view, place + 1, last)


def _is_kin(view: View, item: Item, last: str) -> bool:
    """Return whether an item goes with what was negated before it.

    A thing without a description does ("no cats and dogs"); one with a description only if it is
    of the same idea, or of those that prompts exclude: "no people and empty chairs" has chairs.
    """
    named: list[str] = []
    for place in range(item.start, item.end):
        word = view.key(place)
        if word in lexicon.PREPOSITIONS:
            break
        if word in special_forms.ADJECTIVES:
            return False
        if word not in lexicon.NEUTRAL:
            named.append(word)
    if len(named) == 1:
        return True
    families = lexicon.family_of()
    return any(word in families or are_kin(word, last) for word in named)


def _same_family(view: View, items: Sequence[Item], last: str) -> bool:
    """Return whether a list without a conjunction goes on: its things are commonly excluded.

    One item of the same family as the last word negated, or at least two that fill the rest of
    the clause.
    """
    described = range(items[0].start, items[0].end - 1)
    if any(view.key(place) in special_forms.ADJECTIVES for place in described):
        return False
    families = lexicon.family_of()
    heads = [view.key(item.end - 1) for item in items]
    if are_kin(heads[0], last):
        return True
    known = [families.get(head) for head in heads]
    if known[0] is None:
        return False
    return known[0] == families.get(last) or (len(known) > 1 and None not in known)


_CLEARING = words("clear clears clearing cleanse empty free purge rid strip")
_CLEARING_REACH = 7
_FILLING_REACH = 5
_WRITING_REACH = 4
_WRITING_FAMILY = 0
"""The first of `COMMONLY_EXCLUDED`: text, logos, labels."""
_HEADING = lexicon.HEADER_WORDS | lexicon.HEADER_NEGATIONS


def is_approximate(view: View, place: int) -> bool:
    """Return whether a cue leaves something over: "almost no", "nearly completely free of"."""
    before, earlier = view.key(place - 1), view.key(place - 2)
    if before in lexicon.APPROXIMATORS or (earlier, before) == ("far", "from"):
        return True
    return before.endswith("ly") and earlier in lexicon.APPROXIMATORS


def named(view: View, place: int, behind: int) -> range:
    """Return the words a name takes from its "no"; empty if it is no name.

    "no-people zone", "a no smoking sign", "no parking sign": what comes behind is there.
    """
    last = behind
    while view.is_glued(last):
        last += 1
    if last > behind:
        return range(behind, last)
    if behind - place > 1 or not view.is_word(behind):
        return range(0)
    is_sign = view.key(behind) in lexicon.BAN_WORDS and view.key(behind + 1) in lexicon.SIGN_WORDS
    in_name = view.key(place - 1) in lexicon.ARTICLES and view.is_word(behind + 1)
    return range(behind, behind + 1) if is_sign or in_name else range(0)


def heading(view: View, start: int, colon: int) -> range:
    """Return the words of a heading that negates what is listed behind its colon, or nothing."""
    first = colon
    while first > start and view.is_word(first - 1) and view.key(first - 1) in _HEADING:
        first -= 1
    found = range(first, colon)
    negates = any(view.key(place) in lexicon.HEADER_NEGATIONS for place in found)
    return found if negates else range(0)


def clears(view: View, start: int, place: int) -> bool:
    """Return whether "of" belongs to a clearing: "clear the street of people"."""
    if view.key(place) != "of":
        return False
    for before in range(place - 1, max(start, place - _CLEARING_REACH + 1) - 1, -1):
        if view.key(before) in _CLEARING:
            return view.key(before + 1) in lexicon.DEFINITE or view.key(before + 1) == "all"
    return False


def fills(view: View, start: int, place: int) -> bool:
    """Return whether a verb of filling stands before "with": "not filled with people"."""
    before = range(max(start, place - _FILLING_REACH), place)
    return any(view.key(one) in lexicon.filling() for one in before)


def carries_writing(view: View, place: int) -> bool:
    """Return whether writing belongs to the things before "with": "no signs with text"."""
    behind = (view.key(one) for one in range(place + 1, place + _WRITING_REACH))
    first = next((word for word in behind if word not in lexicon.NEUTRAL), "")
    is_writing = lexicon.family_of().get(first) == _WRITING_FAMILY
    return is_writing and view.key(place - 1).endswith("s")


def is_container(view: View, place: int) -> bool:
    """Return whether what a thing contains matters: "no images with people"."""
    return view.key(place) in lexicon.containers()


def is_known(view: View, place: int) -> bool:
    """Return whether a thing is named as known, so it is there: "watching the parade"."""
    word, before = view.key(place), view.key(place - 1)
    if word in ("a", "an"):
        # "no one carries an umbrella" denies the umbrella too
        return not lexicon.is_doing(before)
    return word in lexicon.DEFINITE and before != "of"


def aside_end(view: View, comma: int, farthest: int = 10) -> int | None:
    """Return the comma that ends an aside: "do not, under any circumstances, show people"."""
    for place in range(comma + 1, min(comma + farthest, len(view))):
        if view.kind(place) is TokenKind.COMMA:
            return place
    return None
