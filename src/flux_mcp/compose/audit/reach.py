"""Small questions about how far a negation reaches, each with the words it is about. Pure."""

from flux_mcp.compose.audit import lexicon
from flux_mcp.compose.audit.tokens import Kind
from flux_mcp.compose.audit.view import View
from flux_mcp.compose.audit.wordlists import words

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
        if view.kind(place) is Kind.COMMA:
            return place
    return None
