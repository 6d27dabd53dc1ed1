"""Negations that come after what they negate: "people are not visible", "text: none". Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux_mcp.compose.audit import lexicon, lists
from flux_mcp.compose.audit.inflection import words
from flux_mcp.compose.audit.text import TokenKind, View

ABSENT = words("""
    absent avoided banned deleted disallowed eliminated erased excluded forbidden gone invisible
    missing nonexistent omitted prohibited removed undesirable undesired unseen unwanted
    unwelcome verboten
""")
"""Said of a thing, they mean that it is not there."""

PRESENT = words("""
    allowed anywhere appear appearing around depicted desired displayed exist featured found
    here included necessary needed permitted present required seen shown there used visible
    wanted welcome
""")
"""Said of a thing after "not", they mean the same."""

OUT = words("""
    away cropped cut edited filtered kept left masked out painted photoshopped taken wiped
""")
"""Before "out", they mean it as well: "left out"."""

PLACES = words("composition design drawing frame illustration image photo picture scene shot view")
"""What is not in them is not there: "people are not in the picture"."""

KEEPING = words("""
    airbrush crop cropping edit editing filter keep keeping leave leaving paint photoshop
""")
"""With "out" behind their object they leave it out: "keep people out"."""

STOPPING = words("ban banning block blocking keep keeping stop stopping")
"""With "from" and a doing behind their object: "stop people from appearing"."""

_NOT = words("never not nowhere")
_CHAIN = lexicon.AUXILIARIES | words("""
    all already also altogether always both clearly completely deliberately entirely ever
    explicitly fully intentionally just kept largely remain remains simply stay stays strictly
    to totally wholly
""")
_HARMLESS = lexicon.AUXILIARIES | OUT | words("actually anymore currently even ever to")
_FOLLOWERS = words("""
    and altogether anymore anywhere at because but by completely entirely everywhere for from
    here in inside on or so throughout too while within
""")
_NONE = words("none no zero 0 nothing")
_NONE_AFTER = frozenset({TokenKind.COLON, TokenKind.DASH, TokenKind.OPEN})
_QUANTITIES = words("""
    all any bit both bunch couple crowd dozen each flock gathering group handful kind line lot
    lots mass mob number pair plenty queue row sort team throng type
""")
_JOINERS = words("and nor or")
_NO_SUBJECT = lexicon.BOUNDARIES | lexicon.RELATIVES | _JOINERS | words("not with without")
_PARTICLES = words("away off out")
_TRIGGERS = ABSENT | PRESENT | _NONE | _PARTICLES | words("from in nowhere part")
_REACH = 8


@dataclass(frozen=True)
class Denial:
    """Things that are denied by what comes behind them."""

    subjects: tuple[range, ...]
    """The tokens of each."""
    end: int
    """The first token behind the whole wording."""


def denials(view: View, skipped: Sequence[bool]) -> list[Denial]:
    """Return every denial that comes behind what it denies."""
    found: list[Denial] = []
    for place, word in enumerate(view.keys[: len(view)]):
        if word not in _TRIGGERS or view.is_glued(place) or skipped[place]:
            continue
        kept_out = _kept_out(view, place)
        verb = _verb_of_absence(view, place) if kept_out is None else None
        if kept_out is not None:
            found.append(Denial((kept_out,), place + 1))
        elif verb is not None:
            subjects = tuple(reversed(list(_subjects(view, verb))))
            if subjects:
                found.append(Denial(subjects, place + 1))
    return found


def _verb_of_absence(view: View, place: int) -> int | None:
    """Return where the verb phrase that denies its subject begins, if one ends here."""
    word = view.key(place)
    if word in _NONE:
        return _said_alone(view, place)
    first, negations = _chain(view, place)
    if word == "nowhere":
        return None if view.is_word(place + 1) else first
    if word in ABSENT or _is_out(view, place):
        return first if negations % 2 == 0 and _ends(view, place) else None
    if word in PRESENT:
        return first if negations == 1 and _ends(view, place) else None
    return first if negations == 1 and _is_picture(view, place) else None


def _is_out(view: View, place: int) -> bool:
    """Return whether a thing is left out, or out of the picture ("out of frame")."""
    if view.key(place) != "out":
        return False
    of_picture = view.key(place + 1) == "of" and _names_picture(view, place + 2)
    return of_picture or view.key(place - 1) in OUT


def _is_picture(view: View, place: int) -> bool:
    if view.key(place) == "part":
        return view.key(place + 1) == "of"
    return view.key(place) == "in" and _names_picture(view, place + 1)


def _names_picture(view: View, place: int) -> bool:
    if view.key(place) in lexicon.DEFINITE or view.key(place) in ("any", "a"):
        place += 1
    return view.key(place) in PLACES or view.key(place) == "sight"


def _chain(view: View, place: int) -> tuple[int, int]:
    """Return where the auxiliaries before a predicate begin, and how many negations are there.

    -1 negations if an adverb stands between: "not clearly visible" denies nothing.
    """
    first = place
    negations = 0
    if view.key(place) == "out" and view.key(place - 1) in OUT:
        first -= 1
    while first > 0 and view.is_word(first - 1) and not view.is_glued(first - 1):
        word = view.key(first - 1)
        if word in _NOT:
            if any(view.key(one) not in _HARMLESS for one in range(first, place)):
                return first, -1
            negations += 1
        elif word == "longer" and view.key(first - 2) == "no":
            negations += 1
            first -= 1
        elif word not in _CHAIN:
            break
        first -= 1
    return first, negations


def _said_alone(view: View, place: int) -> int | None:
    """Return the mark before a "none" that stands alone: "text: none", "People? None."."""
    if view.is_word(place + 1) or not place:
        return None
    is_question = view.kind(place - 1) is TokenKind.STOP and view.key(place - 1) == "?"
    is_verb = view.key(place) == "none" and view.key(place - 1) in lexicon.COPULAS
    said = is_question or is_verb or view.kind(place - 1) in _NONE_AFTER
    return place - 1 if said else None


def _ends(view: View, place: int) -> bool:
    """Return whether nothing behind a predicate gives it another meaning."""
    if not view.is_word(place + 1):
        return True
    if view.key(place + 1) == "of":
        return view.key(place) == "out"
    if view.key(place) in ABSENT and view.key(place + 1).endswith("ly"):
        return True
    return not view.is_glued(place + 1) and view.key(place + 1) in _FOLLOWERS


def _subjects(view: View, verb: int) -> Iterator[range]:
    """Yield the things a verb phrase speaks of: "text, logos and people are not allowed"."""
    start = _subject_start(view, verb)
    if start == verb:
        return
    yield range(start, _thing_end(view, start, verb))
    joined = view.key(start - 1) in _JOINERS or view.kind(start - 1) is TokenKind.SLASH
    while joined and start > 1:
        end = start - 1 if view.kind(start - 2) is not TokenKind.COMMA else start - 2
        start = _subject_start(view, end)
        if not lists.is_bare(view, lists.Item(start, end), known=True):
            return
        yield range(start, end)
        joined = view.kind(start - 1) in (TokenKind.COMMA, TokenKind.SLASH)


def _subject_start(view: View, end: int) -> int:
    start = end
    while start > 0 and view.is_word(start - 1):
        if not view.is_glued(start - 1) and view.key(start - 1) in _NO_SUBJECT:
            break
        start -= 1
    return start


def _thing_end(view: View, start: int, verb: int) -> int:
    """Return where the thing itself ends: before "in the street", but not in "crowd of people"."""
    for place in range(start + 1, verb):
        if view.key(place) in lexicon.PREPOSITIONS:
            return place
        before = view.key(place - 1)
        hands_on = before in _QUANTITIES or before in lexicon.containers()
        if view.key(place) == "of" and not hands_on:
            return place
    return verb


def _kept_out(view: View, place: int) -> range | None:
    """Return what a verb keeps out ("keep people out of the frame") or from ("from appearing")."""
    is_particle = view.key(place) in _PARTICLES and _ends(view, place)
    is_from = view.key(place) == "from" and view.key(place + 1).endswith("ing")
    if not is_particle and not is_from:
        return None
    verbs = KEEPING if is_particle else STOPPING
    for verb in range(place - 1, max(-1, place - _REACH), -1):
        if not view.is_word(verb) or view.key(verb) in lexicon.PREPOSITIONS:
            return None
        if view.key(verb) in verbs and verb + 1 < place:
            return range(verb + 1, place)
    return None
