"""Which words are negated. Pure.

One walk over the tokens. A cue opens a scope, the words behind it are negated, and something ends
it: a boundary, a new beginning, a preposition (what stands in the street is there, even when no one
is in the street). `lists` decides at commas and conjunctions whether it goes on, `reach` answers
the smaller questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flux_mcp.compose.audit import lexicon, lists, reach
from flux_mcp.compose.audit.cues import Sort
from flux_mcp.compose.audit.tokens import Kind
from flux_mcp.compose.audit.view import View
from flux_mcp.compose.audit.wordlists import words

_GOVERNS = frozenset({Sort.VERB, Sort.PREDICATE})
_NAMES = frozenset({Sort.DETERMINER, Sort.LEXICAL})
_PART_OF_CUE = words("just merely only simply yet")
"""Directly behind a cue these end nothing: "not yet crowded"."""
_OR = words("nor or")
_FIRST_PREPOSITIONS = words("about for from than")
"""Directly behind a cue these belong to it: "not for people"."""


@dataclass
class Scope:
    """A cue and the words it negates, as places in the tokens."""

    cue: range
    sort: Sort
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


def read_scopes(view: View, skipped: Sequence[bool]) -> Scopes:
    """Find every scope. Tokens that are skipped (quotations) neither open, end nor fill one."""
    walk = _Walk(view)
    place = 0
    while place < len(view):
        place = place + 1 if skipped[place] else walk.step(place)
    return walk.found


class _Walk:
    """The walk: which scope is open, and in what state."""

    def __init__(self, view: View) -> None:
        self.found = Scopes([None] * len(view), [False] * len(view), [])
        self._view = view
        self._scope: Scope | None = None
        self._suspended = False
        """In a place behind the negated words: only an "or" leads back."""
        self._fresh = True
        """At the first word of a clause or an item."""
        self._excepting = False
        self._clause = 0
        """Where the clause began."""
        self._outside: list[tuple[Scope | None, bool]] = []
        """What was open where a bracket opened."""
        self._listing = False
        """In the lines below a heading."""
        self._marks = {
            Kind.COLON: self._colon,
            Kind.OPEN: self._bracket,
            Kind.CLOSE: self._close,
            Kind.LINE: self._line,
            Kind.DASH: self._dash,
            Kind.STOP: self._stop,
            Kind.EDGE: self._edge,
            Kind.SLASH: self._slash,
        }

    def step(self, place: int) -> int:
        """Read a token; return the place to go on from."""
        kind = self._view.kind(place)
        if kind is Kind.WORD:
            return self._word(place)
        if kind is Kind.COMMA:
            return self._comma(place)
        if kind in self._marks:
            self._marks[kind](place)
        self._fresh = True
        return place + 1

    def _open(self, scope: Scope) -> None:
        self._scope = scope
        self._suspended = False
        self._excepting = False
        self.found.all.append(scope)

    def _end(self, place: int) -> None:
        self._scope = None
        self._suspended = False
        self._excepting = False
        self._clause = place + 1

    def _suspend(self) -> None:
        self._suspended = True
        if self._scope is not None:
            self._scope.in_place = True

    def _take(self, place: int) -> None:
        if self._scope is not None and not self._suspended:
            self.found.of[place] = self._scope
            self._scope.words.append(place)
        else:
            self.found.excepted[place] = self._excepting

    @property
    def _in_heading(self) -> bool:
        return self._scope is not None and self._scope.header

    # --- marks -----------------------------------------------------------------------------------

    def _comma(self, place: int) -> int:
        scope = self._scope
        self._excepting = False
        self._fresh = True
        if scope is None or scope.header:
            self._clause = place + 1
        elif scope.cue.stop == place:
            aside = reach.aside_end(self._view, place)
            if aside is not None and scope.sort is not Sort.DETERMINER:
                return aside + 1
            self._scope = None
        elif self._goes_on(place, scope):
            self._suspended = False
        else:
            self._end(place)
        return place + 1

    def _goes_on(self, place: int, scope: Scope) -> bool:
        """Return whether the scope reaches over a comma or into a bracket."""
        cue = self._view.cue_at(place + 1)
        if scope.header or (cue is not None and cue[1] is Sort.EXAMPLE):
            return True
        hold = lists.Hold(
            since=scope.cue.stop,
            lists=scope.sort is Sort.VERB,
            verbs=self._view.key(scope.cue.stop) in lexicon.COMMANDS,
            known=self._view.key(scope.cue.stop) in lexicon.DETERMINERS,
            only_or=scope.narrow,
        )
        return lists.comma_goes_on(self._view, place + 1, hold)

    def _colon(self, place: int) -> None:
        heading = reach.heading(self._view, self._clause, place)
        if heading:
            self._open(Scope(heading, Sort.VERB, header=True))
            self._listing = self._view.kind(place + 1) is Kind.LINE
        elif self._lists_contents(place):
            return
        elif not self._in_heading and self._scope is not None:
            self._end(place)

    def _bracket(self, place: int) -> None:
        scope = self._scope
        self._outside.append((scope, self._suspended))
        if scope is None or self._lists_contents(place) or self._goes_on(place, scope):
            return
        self._end(place)

    def _lists_contents(self, place: int) -> bool:
        """Open a list of what is in things: "no distracting elements (people, text)"."""
        scope = self._scope
        if scope is None or self._suspended or not reach.is_container(self._view, place - 1):
            return False
        self._open(Scope(scope.cue, scope.sort, header=True))
        return True

    def _close(self, _place: int) -> None:
        if self._outside:
            self._scope, self._suspended = self._outside.pop()

    def _line(self, place: int) -> None:
        view = self._view
        is_entry = view.kind(place + 1) is Kind.BULLET or view.kind(place - 1) is Kind.COLON
        is_blank = view.key(place).count("\n") > 1
        if self._listing and is_entry and not is_blank:
            self._scope = self.found.all[-1] if self.found.all[-1].header else self._scope
            return
        self._listing = False
        self._end(place)

    def _dash(self, place: int) -> None:
        if not self._in_heading and self._view.key(place + 1) not in _OR:
            self._end(place)

    def _stop(self, place: int) -> None:
        if self._in_heading and self._view.key(place) == ";":
            return
        self._end(place)
        self._listing = self._listing and self._view.kind(place + 1) is Kind.LINE

    def _edge(self, place: int) -> None:
        self._end(place)
        self._outside.clear()
        self._listing = False

    def _slash(self, place: int) -> None:
        if self._scope is not None and not lists.and_goes_on(self._view, place + 1, None):
            self._end(place)
        self._suspended = False

    # --- words -----------------------------------------------------------------------------------

    def _word(self, place: int) -> int:
        view = self._view
        if view.is_glued(place):
            self._take(place)
            return place + 1
        if view.key(place) == "--":
            return self._option(place)
        cue = view.cue_at(place)
        if cue is not None:
            return self._apply(place, *cue)
        if self._scope is None:
            self._outside_word(place, view.key(place))
        elif view.is_glued(place + 1) or self._scope.header:
            self._compound_or_entry(place)
        else:
            self._inside_word(place, view.key(place), self._scope)
        self._fresh = False
        return place + 1

    def _outside_word(self, place: int, word: str) -> None:
        if word in lexicon.BOUNDARIES or word == "with":
            self._excepting = self._excepting and word == "with"
            self._clause = place + 1
        elif reach.clears(self._view, self._clause, place):
            self._open(Scope(range(place, place + 1), Sort.LEXICAL))
        self.found.excepted[place] = self._excepting

    def _compound_or_entry(self, place: int) -> None:
        if self._in_heading and self._view.key(place) in lexicon.BOUNDARIES:
            self._end(place)
        else:
            self._take(place)

    def _inside_word(self, place: int, word: str, scope: Scope) -> None:
        if word in lexicon.BOUNDARIES:
            if word not in _PART_OF_CUE or scope.cue.stop != place:
                self._end(place)
        elif self._begins_clause(place, word, scope) or word in lexicon.QUANTITIES:
            self._end(place)
        elif word in lexicon.ANY:
            self._suspended = False
        elif word == "with" or word in lexicon.CONTAINING:
            self._with(place, word, scope)
        elif word in lexicon.RELATIVES or self._leads_away(place, word, scope):
            self._suspend()
        else:
            self._take(place)

    def _begins_clause(self, place: int, word: str, scope: Scope) -> bool:
        if word == "there":
            # "under no circumstances should there be people" is one clause
            inverted = self._view.key(place - 1) in lexicon.AUXILIARIES
            return self._view.key(place + 1) in lexicon.COPULAS and not inverted
        if scope.sort not in _NAMES:
            return False
        full = word in lexicon.FULL and self._view.key(place + 1) in ("by", "of", "with")
        return word in lexicon.PRONOUNS or (full and bool(scope.words))

    def _leads_away(self, place: int, word: str, scope: Scope) -> bool:
        """Return whether what follows is there: a place, or a thing that is named as known."""
        before = self._view.key(place - 1)
        if word in lexicon.PREPOSITIONS:
            if word == "for" and before in lexicon.TRANSPARENT_BEFORE_FOR:
                return False
            if word == "by" and scope.sort in _GOVERNS and before.endswith(("ed", "en", "ing")):
                return False
            return scope.cue.stop != place or word not in _FIRST_PREPOSITIONS
        if not scope.words or self._fresh or scope.sort is Sort.VERB:
            return False
        first = self._view.key(scope.words[0])
        if scope.sort is Sort.PREDICATE:
            # "does not reach the people" leaves them, "does not show the people" does not
            return word in lexicon.DEFINITE and first not in lexicon.presence()
        # "without showing the people" is about the people
        shows = scope.words == [place - 1] and before.endswith("ing")
        return not shows and reach.is_known(self._view, place)

    def _with(self, place: int, word: str, scope: Scope) -> None:
        view = self._view
        contains = reach.is_container(view, place - 1) and not self._suspended
        if contains:
            return
        if word != "with":
            self._take(place)
            return
        governed = scope.sort in _GOVERNS and view.key(scope.cue.stop) in lexicon.SHOWING
        writing = reach.carries_writing(view, place) and not self._suspended
        if not (governed or writing or reach.fills(view, self._clause, place)):
            self._end(place)

    def _option(self, place: int) -> int:
        """Read an option as on a command line: `--no people, text`."""
        self._end(place)
        if self._view.key(place + 1) != "no":
            return place + 1
        self._open(Scope(range(place, place + 2), Sort.VERB, header=True))
        return place + 2

    # --- cues ------------------------------------------------------------------------------------

    def _apply(self, place: int, behind: int, sort: Sort) -> int:
        if sort in (Sort.ASIDE, Sort.PLACE):
            if self._scope is not None and sort is Sort.PLACE:
                self._scope.in_place = True
            return behind
        if sort is Sort.EXAMPLE:
            self._suspended = False
            return behind
        if sort in (Sort.AND, Sort.OR):
            self._join(place, behind, sort)
            self._fresh = True
            return behind
        if sort is Sort.HEDGE:
            self._end(place)
        elif sort is Sort.EXCEPTION:
            self._except(place, behind)
        else:
            behind = self._negate(place, behind, sort)
        self._fresh = False
        return behind

    def _join(self, place: int, behind: int, sort: Sort) -> None:
        scope = self._scope
        if scope is None:
            if self._view.key(place) == "nor":
                self._open(Scope(range(place, behind), Sort.DETERMINER))
            elif sort is Sort.AND:
                self._clause = behind
            return
        if scope.header:
            return
        if sort is Sort.OR:
            if not lists.or_goes_on(self._view, behind):
                self._end(place)
        elif not self._and_goes_on(place, behind, scope):
            self._end(place)
        self._suspended = False

    def _and_goes_on(self, place: int, behind: int, scope: Scope) -> bool:
        view = self._view
        if scope.narrow or (self._suspended and scope.sort not in _GOVERNS):
            return False
        gerund = bool(scope.words) and view.key(scope.words[0]).endswith("ing")
        if gerund and view.key(behind).endswith("ing"):
            # "without showing people and including text"
            return True
        parallel = scope.sort is Sort.VERB and view.key(scope.cue.stop) in lexicon.DETERMINERS
        if parallel and view.key(behind) in lexicon.DETERMINERS:
            # "remove the people and the cars"
            behind += 1
        last = None if scope.sort in _GOVERNS or gerund else view.key(place - 1)
        return lists.and_goes_on(view, behind, last)

    def _except(self, place: int, behind: int) -> None:
        if self._scope is not None:
            self._end(place)
            self._excepting = True
        elif any(self._view.key(one) in lexicon.UNIVERSALS for one in range(self._clause, place)):
            self._open(Scope(range(place, behind), Sort.LEXICAL))

    def _negate(self, place: int, behind: int, sort: Sort) -> int:
        """Open a scope, or turn the open one over; return the place to go on from."""
        describes = sort is Sort.PREDICATE and self._view.key(place - 1) in lexicon.ARTICLES
        if describes or reach.is_approximate(self._view, place) or self._keeps(behind, sort):
            # "a not too crowded square" is a square
            self._end(place)
            return behind
        may_name = sort is Sort.DETERMINER or self._view.is_glued(behind)
        name = reach.named(self._view, place, behind) if may_name else range(0)
        if name:
            self._name(range(place, behind), name)
            return name.stop
        outer = None if self._suspended else self._scope
        if outer is not None and outer.header:
            return behind
        if outer is not None and self._turns_over(place, sort, outer):
            self._end(place)
            return behind
        narrow = sort is Sort.PREDICATE and self._view.key(place - 1) in lexicon.COPULAS
        if narrow and "there" in (self._view.key(place - 2), self._view.key(behind)):
            # "there are not any people"
            sort, narrow = Sort.DETERMINER, False
        self._open(Scope(range(place, behind), sort, narrow))
        if self._view.key(place) == "nobody":
            self._take(place)
        return behind

    def _keeps(self, behind: int, sort: Sort) -> bool:
        """Return whether a change is denied, not a thing: "do not change the text"."""
        is_change = self._view.key(behind) in lexicon.changing()
        return is_change and sort is not Sort.DETERMINER and self._view.cue_at(behind) is None

    def _name(self, cue: range, name: range) -> None:
        """Negate the words of a name; that of a sign forbids, it does not describe the picture."""
        scope = Scope(cue, Sort.DETERMINER)
        for place in name:
            self.found.of[place] = scope
        if self._view.key(name.start) not in lexicon.BAN_WORDS:
            scope.words.extend(name)
            self.found.all.append(scope)

    def _turns_over(self, place: int, sort: Sort, outer: Scope) -> bool:
        """Return whether a cue inside of a scope cancels it: "not without", "no lack of"."""
        if sort is Sort.DETERMINER:
            return False
        joined = self._view.key(place - 1) in _OR
        return not self._fresh or (joined and sort is Sort.VERB and outer.sort in _GOVERNS)
