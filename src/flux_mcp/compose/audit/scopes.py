"""Which words of a prompt are negated.

`read_scopes` walks over the tokens once. A cue such as "without" opens a scope, the words behind it
are negated, and something ends it: a boundary, a new clause, or a preposition (the street is there,
even when no one is in the street). At commas and conjunctions `lists` decides whether the scope
goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flux_mcp.compose.audit import lists
from flux_mcp.compose.audit.lexicon import CueKind, lexicon
from flux_mcp.compose.audit.tables import words
from flux_mcp.compose.audit.text import TokenKind, TokenView

_GOVERNS = frozenset({CueKind.VERB, CueKind.PREDICATE})
_NAMES = frozenset({CueKind.DETERMINER, CueKind.LEXICAL})
_OR = words("nor or")
_PART_OF_CUE = words("just merely only simply yet")
"""Directly behind a cue these end nothing: "not yet crowded"."""
_FIRST_PREPOSITIONS = words("about for from than")
"""Directly behind a cue these belong to it: "not for people"."""
_CLEARING_REACH = 7
_FILLING_REACH = 5
_WRITING_REACH = 4
_WRITING_FAMILY = 0
"""The first of `Lexicon.commonly_excluded`: text, logos, labels."""
_ASIDE_REACH = 10


@dataclass
class Scope:
    """A cue and the words it negates, as places in the tokens."""

    cue: range
    kind: CueKind
    narrow: bool = False
    """Behind "is not": what it denies ends with the clause."""
    header: bool = False
    """A heading such as "Avoid:": everything in its list is negated."""
    words: list[int] = field(default_factory=list)
    in_place: bool = False
    """Whether a place narrows it: "no people in the street"."""


@dataclass
class Scopes:
    """For each token: the scope that negates it, and whether an exception takes it out."""

    of: list[Scope | None]
    excepted: list[bool]
    all: list[Scope]


def read_scopes(view: TokenView, skipped: Sequence[bool]) -> Scopes:
    """Find every scope. Tokens that are skipped (quotations) neither open, end nor fill one."""
    walk = _Walk(view)
    marks, words_and_cues = _Marks(walk), _Words(walk)
    place = 0
    while place < len(view):
        if skipped[place]:
            place += 1
        elif view.is_word(place):
            place = words_and_cues.read(place)
        else:
            place = marks.read(place)
    return walk.found


# --- the state of the walk ------------------------------------------------------------------------


class _Walk:
    """Which scope is open, and what was found so far."""

    def __init__(self, view: TokenView) -> None:
        self.view = view
        self.found = Scopes([None] * len(view), [False] * len(view), [])
        self.scope: Scope | None = None
        self.suspended = False
        """In a place behind the negated words: only an "or" returns to them."""
        self.fresh = True
        """At the first word of a clause or an item."""
        self.excepting = False
        """Behind an exception: what follows is affirmed."""
        self.clause = 0
        """Where the clause began."""

    def open(self, scope: Scope) -> None:
        """Begin a scope."""
        self.scope = scope
        self.suspended = False
        self.excepting = False
        self.found.all.append(scope)

    def end(self, place: int) -> None:
        """End the scope, and begin a clause behind this place."""
        self.scope = None
        self.suspended = False
        self.excepting = False
        self.clause = place + 1

    def suspend(self) -> None:
        """Go on from the negated words to the place they are in."""
        self.suspended = True
        if self.scope is not None:
            self.scope.in_place = True

    def take(self, place: int) -> None:
        """Negate the word at a place, or note that an exception takes it out."""
        if self.scope is not None and not self.suspended:
            self.found.of[place] = self.scope
            self.scope.words.append(place)
        else:
            self.found.excepted[place] = self.excepting

    @property
    def in_heading(self) -> bool:
        """Whether the list of a heading is open."""
        return self.scope is not None and self.scope.header


# --- words and cues -------------------------------------------------------------------------------


class _Words:
    """Reads the words of a walk, and the cues among them."""

    def __init__(self, walk: _Walk) -> None:
        self._walk = walk
        self._view = walk.view

    def read(self, place: int) -> int:
        """Read a word, or a cue of several; return the place to go on from."""
        view = self._view
        if view.is_glued(place):
            self._walk.take(place)
            return place + 1
        if view.key(place) == "--":
            return self._option(place)
        cue = view.cue_at(place)
        if cue is not None:
            return self._apply(place, *cue)
        if self._walk.scope is None:
            self._outside_word(place, view.key(place))
        elif view.is_glued(place + 1) or self._walk.scope.header:
            self._compound_or_entry(place)
        else:
            self._inside_word(place, view.key(place), self._walk.scope)
        self._walk.fresh = False
        return place + 1

    def _outside_word(self, place: int, word: str) -> None:
        if word in lexicon().boundaries or word == "with":
            self._walk.excepting = self._walk.excepting and word == "with"
            self._walk.clause = place + 1
        elif _is_clearing(self._view, self._walk.clause, place):
            self._walk.open(Scope(range(place, place + 1), CueKind.LEXICAL))
        self._walk.found.excepted[place] = self._walk.excepting

    def _compound_or_entry(self, place: int) -> None:
        if self._walk.in_heading and self._view.key(place) in lexicon().boundaries:
            self._walk.end(place)
        else:
            self._walk.take(place)

    def _inside_word(self, place: int, word: str, scope: Scope) -> None:
        if word in lexicon().boundaries:
            if word not in _PART_OF_CUE or scope.cue.stop != place:
                self._walk.end(place)
        elif self._begins_clause(place, word, scope) or word in lexicon().quantities:
            self._walk.end(place)
        elif word in lexicon().any:
            self._walk.suspended = False
        elif word == "with" or word in lexicon().containing:
            self._with(place, word, scope)
        elif word in lexicon().relatives or self._leads_away(place, word, scope):
            self._walk.suspend()
        else:
            self._walk.take(place)

    def _begins_clause(self, place: int, word: str, scope: Scope) -> bool:
        if word == "there":
            # "under no circumstances should there be people" is one clause
            inverted = self._view.key(place - 1) in lexicon().auxiliaries
            return self._view.key(place + 1) in lexicon().copulas and not inverted
        if scope.kind not in _NAMES:
            return False
        full = word in lexicon().full and self._view.key(place + 1) in ("by", "of", "with")
        return word in lexicon().pronouns or (full and bool(scope.words))

    def _leads_away(self, place: int, word: str, scope: Scope) -> bool:
        """Return whether what follows is there: a place, or a thing that is named as known."""
        before = self._view.key(place - 1)
        if word in lexicon().prepositions:
            if word == "for" and before in lexicon().transparent_before_for:
                return False
            if word == "by" and scope.kind in _GOVERNS and before.endswith(("ed", "en", "ing")):
                return False
            return scope.cue.stop != place or word not in _FIRST_PREPOSITIONS
        if not scope.words or self._walk.fresh or scope.kind is CueKind.VERB:
            return False
        first = self._view.key(scope.words[0])
        if scope.kind is CueKind.PREDICATE:
            # "does not reach the people" leaves them, "does not show the people" does not
            return word in lexicon().definite and first not in lexicon().presence_forms
        # "without showing the people" is about the people
        shows = scope.words == [place - 1] and before.endswith("ing")
        return not shows and _is_known(self._view, place)

    def _with(self, place: int, word: str, scope: Scope) -> None:
        view = self._view
        contains = _is_container(view, place - 1) and not self._walk.suspended
        if contains:
            return
        if word != "with":
            self._walk.take(place)
            return
        governed = scope.kind in _GOVERNS and view.key(scope.cue.stop) in lexicon().showing
        writing = _carries_writing(view, place) and not self._walk.suspended
        if not (governed or writing or _is_filling(view, self._walk.clause, place)):
            self._walk.end(place)

    def _option(self, place: int) -> int:
        """Read an option as on a command line: `--no people, text`."""
        self._walk.end(place)
        if self._view.key(place + 1) != "no":
            return place + 1
        self._walk.open(Scope(range(place, place + 2), CueKind.VERB, header=True))
        return place + 2

    # --- cues ------------------------------------------------------------------------------------

    def _apply(self, place: int, behind: int, kind: CueKind) -> int:
        if kind in (CueKind.ASIDE, CueKind.PLACE):
            if self._walk.scope is not None and kind is CueKind.PLACE:
                self._walk.scope.in_place = True
            return behind
        if kind is CueKind.EXAMPLE:
            self._walk.suspended = False
            return behind
        if kind in (CueKind.AND, CueKind.OR):
            self._join(place, behind, kind)
            self._walk.fresh = True
            return behind
        if kind is CueKind.HEDGE:
            self._walk.end(place)
        elif kind is CueKind.EXCEPTION:
            self._except(place, behind)
        else:
            behind = self._negate(place, behind, kind)
        self._walk.fresh = False
        return behind

    def _join(self, place: int, behind: int, kind: CueKind) -> None:
        scope = self._walk.scope
        if scope is None:
            if self._view.key(place) == "nor":
                self._walk.open(Scope(range(place, behind), CueKind.DETERMINER))
            elif kind is CueKind.AND:
                self._walk.clause = behind
            return
        if scope.header:
            return
        if kind is CueKind.OR:
            if not lists.or_goes_on(self._view, behind):
                self._walk.end(place)
        elif not self._and_goes_on(place, behind, scope):
            self._walk.end(place)
        self._walk.suspended = False

    def _and_goes_on(self, place: int, behind: int, scope: Scope) -> bool:
        view = self._view
        if scope.narrow or (self._walk.suspended and scope.kind not in _GOVERNS):
            return False
        gerund = bool(scope.words) and view.key(scope.words[0]).endswith("ing")
        if gerund and view.key(behind).endswith("ing"):
            # "without showing people and including text"
            return True
        parallel = scope.kind is CueKind.VERB and view.key(scope.cue.stop) in lexicon().determiners
        if parallel and view.key(behind) in lexicon().determiners:
            # "remove the people and the cars"
            behind += 1
        last = None if scope.kind in _GOVERNS or gerund else view.key(place - 1)
        return lists.and_goes_on(view, behind, last)

    def _except(self, place: int, behind: int) -> None:
        if self._walk.scope is not None:
            self._walk.end(place)
            self._walk.excepting = True
        elif any(
            self._view.key(one) in lexicon().universals for one in range(self._walk.clause, place)
        ):
            self._walk.open(Scope(range(place, behind), CueKind.LEXICAL))

    def _negate(self, place: int, behind: int, kind: CueKind) -> int:
        """Open a scope, or cancel the open one; return the place to go on from."""
        describes = kind is CueKind.PREDICATE and self._view.key(place - 1) in lexicon().articles
        if describes or _is_approximate(self._view, place) or self._keeps(behind, kind):
            # "a not too crowded square" is a square
            self._walk.end(place)
            return behind
        may_name = kind is CueKind.DETERMINER or self._view.is_glued(behind)
        name = _name_words(self._view, place, behind) if may_name else range(0)
        if name:
            self._name(range(place, behind), name)
            return name.stop
        outer = None if self._walk.suspended else self._walk.scope
        if outer is not None and outer.header:
            return behind
        if outer is not None and self._cancels(place, kind, outer):
            self._walk.end(place)
            return behind
        narrow = kind is CueKind.PREDICATE and self._view.key(place - 1) in lexicon().copulas
        if narrow and "there" in (self._view.key(place - 2), self._view.key(behind)):
            # "there are not any people"
            kind, narrow = CueKind.DETERMINER, False
        self._walk.open(Scope(range(place, behind), kind, narrow))
        if self._view.key(place) == "nobody":
            self._walk.take(place)
        return behind

    def _keeps(self, behind: int, kind: CueKind) -> bool:
        """Return whether a change is denied, not a thing: "do not change the text"."""
        is_change = self._view.key(behind) in lexicon().changing_forms
        return is_change and kind is not CueKind.DETERMINER and self._view.cue_at(behind) is None

    def _name(self, cue: range, name: range) -> None:
        """Negate the words of a name; that of a sign forbids, it does not describe the image."""
        scope = Scope(cue, CueKind.DETERMINER)
        for place in name:
            self._walk.found.of[place] = scope
        if self._view.key(name.start) not in lexicon().ban_words:
            scope.words.extend(name)
            self._walk.found.all.append(scope)

    def _cancels(self, place: int, kind: CueKind, outer: Scope) -> bool:
        """Return whether a cue inside of a scope cancels it: "not without", "no lack of"."""
        if kind is CueKind.DETERMINER:
            return False
        joined = self._view.key(place - 1) in _OR
        return not self._walk.fresh or (joined and kind is CueKind.VERB and outer.kind in _GOVERNS)


# --- punctuation ----------------------------------------------------------------------------------


class _Marks:
    """Reads the punctuation of a walk, with the brackets and lists of lines that are open."""

    def __init__(self, walk: _Walk) -> None:
        self._walk = walk
        self._view = walk.view
        self._outside: list[tuple[Scope | None, bool]] = []
        """The scope, and whether it was suspended, where each open bracket begins."""
        self._listing = False
        """In the lines below a heading."""
        self._effects = {
            TokenKind.COLON: self._colon,
            TokenKind.OPEN: self._bracket,
            TokenKind.CLOSE: self._close,
            TokenKind.LINE: self._line,
            TokenKind.DASH: self._dash,
            TokenKind.STOP: self._stop,
            TokenKind.EDGE: self._edge,
            TokenKind.SLASH: self._slash,
        }

    def read(self, place: int) -> int:
        """Read a mark; return the place to go on from."""
        kind = self._view.kind(place)
        if kind is TokenKind.COMMA:
            return self._comma(place)
        if kind in self._effects:
            self._effects[kind](place)
        self._walk.fresh = True
        return place + 1

    def _comma(self, place: int) -> int:
        scope = self._walk.scope
        self._walk.excepting = False
        self._walk.fresh = True
        if scope is None or scope.header:
            self._walk.clause = place + 1
        elif scope.cue.stop == place:
            aside = _aside_end(self._view, place)
            if aside is not None and scope.kind is not CueKind.DETERMINER:
                return aside + 1
            self._walk.scope = None
        elif self._goes_on(place, scope):
            self._walk.suspended = False
        else:
            self._walk.end(place)
        return place + 1

    def _goes_on(self, place: int, scope: Scope) -> bool:
        """Return whether the scope reaches over a comma or into a bracket."""
        cue = self._view.cue_at(place + 1)
        if scope.header or (cue is not None and cue[1] is CueKind.EXAMPLE):
            return True
        rule = lists.ListRule(
            since=scope.cue.stop,
            lists=scope.kind is CueKind.VERB,
            verbs=self._view.key(scope.cue.stop) in lexicon().commands,
            known=self._view.key(scope.cue.stop) in lexicon().determiners,
            only_or=scope.narrow,
        )
        return lists.comma_goes_on(self._view, place + 1, rule)

    def _colon(self, place: int) -> None:
        heading = _heading_words(self._view, self._walk.clause, place)
        if heading:
            self._walk.open(Scope(heading, CueKind.VERB, header=True))
            self._listing = self._view.kind(place + 1) is TokenKind.LINE
        elif self._lists_contents(place):
            return
        elif not self._walk.in_heading and self._walk.scope is not None:
            self._walk.end(place)

    def _bracket(self, place: int) -> None:
        scope = self._walk.scope
        self._outside.append((scope, self._walk.suspended))
        if scope is None or self._lists_contents(place) or self._goes_on(place, scope):
            return
        self._walk.end(place)

    def _lists_contents(self, place: int) -> bool:
        """Open a list of what is in things: "no distracting elements (people, text)"."""
        scope = self._walk.scope
        if scope is None or self._walk.suspended or not _is_container(self._view, place - 1):
            return False
        self._walk.open(Scope(scope.cue, scope.kind, header=True))
        return True

    def _close(self, _place: int) -> None:
        if self._outside:
            self._walk.scope, self._walk.suspended = self._outside.pop()

    def _line(self, place: int) -> None:
        view = self._view
        is_entry = (
            view.kind(place + 1) is TokenKind.BULLET or view.kind(place - 1) is TokenKind.COLON
        )
        is_blank = view.key(place).count("\n") > 1
        if self._listing and is_entry and not is_blank:
            last = self._walk.found.all[-1]
            self._walk.scope = last if last.header else self._walk.scope
            return
        self._listing = False
        self._walk.end(place)

    def _dash(self, place: int) -> None:
        if not self._walk.in_heading and self._view.key(place + 1) not in _OR:
            self._walk.end(place)

    def _stop(self, place: int) -> None:
        if self._walk.in_heading and self._view.key(place) == ";":
            return
        self._walk.end(place)
        self._listing = self._listing and self._view.kind(place + 1) is TokenKind.LINE

    def _edge(self, place: int) -> None:
        self._walk.end(place)
        self._outside.clear()
        self._listing = False

    def _slash(self, place: int) -> None:
        if self._walk.scope is not None and not lists.and_goes_on(self._view, place + 1, None):
            self._walk.end(place)
        self._walk.suspended = False


# --- questions about the words around a place -----------------------------------------------------


def _is_approximate(view: TokenView, place: int) -> bool:
    """Return whether a cue leaves something over: "almost no", "nearly completely free of"."""
    before, earlier = view.key(place - 1), view.key(place - 2)
    if before in lexicon().approximators or (earlier, before) == ("far", "from"):
        return True
    return before.endswith("ly") and earlier in lexicon().approximators


def _name_words(view: TokenView, place: int, behind: int) -> range:
    """Return the words that form a name with their "no"; empty if there is no name.

    "no-people zone", "a no smoking sign", "no parking sign": what comes behind is affirmed.
    """
    last = behind
    while view.is_glued(last):
        last += 1
    if last > behind:
        return range(behind, last)
    if behind - place > 1 or not view.is_word(behind):
        return range(0)
    known = lexicon()
    is_sign = view.key(behind) in known.ban_words and view.key(behind + 1) in known.sign_words
    in_name = view.key(place - 1) in known.articles and view.is_word(behind + 1)
    return range(behind, behind + 1) if is_sign or in_name else range(0)


def _heading_words(view: TokenView, start: int, colon: int) -> range:
    """Return the words of a heading that negates what is listed behind its colon, or nothing."""
    known = lexicon()
    first, negates = colon, False
    while first > start and view.is_word(first - 1):
        word = view.key(first - 1)
        if word in known.heading_negations:
            negates = True
        elif word not in known.heading_words:
            break
        first -= 1
    return range(first, colon) if negates else range(0)


def _is_clearing(view: TokenView, start: int, place: int) -> bool:
    """Return whether "of" belongs to a verb of clearing: "clear the street of people"."""
    if view.key(place) != "of":
        return False
    for before in range(place - 1, max(start, place - _CLEARING_REACH + 1) - 1, -1):
        if view.key(before) in lexicon().clearing:
            return view.key(before + 1) in lexicon().definite or view.key(before + 1) == "all"
    return False


def _is_filling(view: TokenView, start: int, place: int) -> bool:
    """Return whether a verb of filling is before "with": "not filled with people"."""
    before = range(max(start, place - _FILLING_REACH), place)
    return any(view.key(one) in lexicon().filling_forms for one in before)


def _carries_writing(view: TokenView, place: int) -> bool:
    """Return whether writing belongs to the things before "with": "no signs with text"."""
    behind = (view.key(one) for one in range(place + 1, place + _WRITING_REACH))
    first = next((word for word in behind if word not in lexicon().neutral), "")
    is_writing = lexicon().family_of.get(first) == _WRITING_FAMILY
    return is_writing and view.key(place - 1).endswith("s")


def _is_container(view: TokenView, place: int) -> bool:
    """Return whether what a thing contains matters: "no images with people"."""
    return view.key(place) in lexicon().container_forms


def _is_known(view: TokenView, place: int) -> bool:
    """Return whether a thing is named as known, so it is there: "watching the parade"."""
    word, before = view.key(place), view.key(place - 1)
    if word in ("a", "an"):
        # "no one carries an umbrella" denies the umbrella too
        return not lexicon().is_activity(before)
    return word in lexicon().definite and before != "of"


def _aside_end(view: TokenView, comma: int) -> int | None:
    """Return the comma that ends an aside: "do not, under any circumstances, show people"."""
    for place in range(comma + 1, min(comma + _ASIDE_REACH, len(view))):
        if view.kind(place) is TokenKind.COMMA:
            return place
    return None
