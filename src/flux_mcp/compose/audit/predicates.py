"""Negations behind the things they negate: "people are not visible", "text: none"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from flux_mcp.compose.audit import lists
from flux_mcp.compose.audit.lexicon import lexicon
from flux_mcp.compose.audit.tables import words
from flux_mcp.compose.audit.text import TokenKind, TokenView

_NOT = words("never not nowhere")
_NONE = words("none no zero 0 nothing")
_NONE_AFTER = frozenset({TokenKind.COLON, TokenKind.DASH, TokenKind.OPEN})
_JOINERS = words("and nor or")
_PARTICLES = words("away off out")
_REACH = 8


@dataclass(frozen=True)
class Denial:
    """Things that are denied by the words behind them."""

    subjects: tuple[range, ...]
    """The tokens of each."""
    end: int
    """The first token behind the whole wording."""


def denials(view: TokenView, skipped: Sequence[bool]) -> list[Denial]:
    """Return every denial that comes behind the things it denies."""
    found: list[Denial] = []
    triggers = _triggers()
    for place, word in enumerate(view.keys[: len(view)]):
        if word not in triggers or view.is_glued(place) or skipped[place]:
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


@cache
def _triggers() -> frozenset[str]:
    """Return the words at which a denial may end."""
    known = lexicon()
    return (_NONE | _PARTICLES | words("from in nowhere part")).union(known.absent, known.present)


def _verb_of_absence(view: TokenView, place: int) -> int | None:
    """Return where the verb phrase that denies its subject begins, if one ends here."""
    word = view.key(place)
    if word in _NONE:
        return _said_alone(view, place)
    first, negations = _chain(view, place)
    if word == "nowhere":
        return None if view.is_word(place + 1) else first
    if word in lexicon().absent or _is_out(view, place):
        return first if negations % 2 == 0 and _ends(view, place) else None
    if word in lexicon().present:
        return first if negations == 1 and _ends(view, place) else None
    return first if negations == 1 and _is_picture(view, place) else None


def _is_out(view: TokenView, place: int) -> bool:
    """Return whether a thing is left out, or out of the image ("out of frame")."""
    if view.key(place) != "out":
        return False
    of_picture = view.key(place + 1) == "of" and _names_picture(view, place + 2)
    return of_picture or view.key(place - 1) in lexicon().out


def _is_picture(view: TokenView, place: int) -> bool:
    if view.key(place) == "part":
        return view.key(place + 1) == "of"
    return view.key(place) == "in" and _names_picture(view, place + 1)


def _names_picture(view: TokenView, place: int) -> bool:
    if view.key(place) in lexicon().definite or view.key(place) in ("any", "a"):
        place += 1
    return view.key(place) in lexicon().picture_words or view.key(place) == "sight"


def _chain(view: TokenView, place: int) -> tuple[int, int]:
    """Return where the auxiliaries before a predicate begin, and how many negations are there.

    -1 negations if an adverb is between them: "not clearly visible" denies nothing.
    """
    known = lexicon()
    first = place
    negations = 0
    if view.key(place) == "out" and view.key(place - 1) in known.out:
        first -= 1
    while first > 0 and view.is_word(first - 1) and not view.is_glued(first - 1):
        word = view.key(first - 1)
        if word in _NOT:
            between = {view.key(one) for one in range(first, place)}
            if between.difference(known.harmless, known.auxiliaries, known.out):
                return first, -1
            negations += 1
        elif word == "longer" and view.key(first - 2) == "no":
            negations += 1
            first -= 1
        elif word not in known.chain and word not in known.auxiliaries:
            break
        first -= 1
    return first, negations


def _said_alone(view: TokenView, place: int) -> int | None:
    """Return the mark before a "none" that stands alone: "text: none", "People? None."."""
    if view.is_word(place + 1) or not place:
        return None
    is_question = view.kind(place - 1) is TokenKind.STOP and view.key(place - 1) == "?"
    is_verb = view.key(place) == "none" and view.key(place - 1) in lexicon().copulas
    said = is_question or is_verb or view.kind(place - 1) in _NONE_AFTER
    return place - 1 if said else None


def _ends(view: TokenView, place: int) -> bool:
    """Return whether nothing behind a predicate gives it another meaning."""
    if not view.is_word(place + 1):
        return True
    if view.key(place + 1) == "of":
        return view.key(place) == "out"
    if view.key(place) in lexicon().absent and view.key(place + 1).endswith("ly"):
        return True
    return not view.is_glued(place + 1) and view.key(place + 1) in lexicon().followers


def _subjects(view: TokenView, verb: int) -> Iterator[range]:
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


def _subject_start(view: TokenView, end: int) -> int:
    no_subject = _no_subject()
    start = end
    while start > 0 and view.is_word(start - 1):
        if not view.is_glued(start - 1) and view.key(start - 1) in no_subject:
            break
        start -= 1
    return start


@cache
def _no_subject() -> frozenset[str]:
    """Return the words that end a subject, read backwards."""
    known = lexicon()
    return (_JOINERS | words("not with without")).union(known.boundaries, known.relatives)


def _thing_end(view: TokenView, start: int, verb: int) -> int:
    """Return where the thing itself ends: before "in the street", but not in "crowd of people"."""
    known = lexicon()
    for place in range(start + 1, verb):
        if view.key(place) in known.prepositions:
            return place
        before = view.key(place - 1)
        passes_on = before in known.measures or before in known.container_forms
        if view.key(place) == "of" and not passes_on:
            return place
    return verb


def _kept_out(view: TokenView, place: int) -> range | None:
    """Return what a verb keeps out ("keep people out of the frame") or from ("from appearing")."""
    is_particle = view.key(place) in _PARTICLES and _ends(view, place)
    is_from = view.key(place) == "from" and view.key(place + 1).endswith("ing")
    if not is_particle and not is_from:
        return None
    verbs = lexicon().keeping if is_particle else lexicon().stopping
    for verb in range(place - 1, max(-1, place - _REACH), -1):
        if not view.is_word(verb) or view.key(verb) in lexicon().prepositions:
            return None
        if view.key(verb) in verbs and verb + 1 < place:
            return range(verb + 1, place)
    return None
