"""Which words are negated. Pure.

One walk over the tokens. A cue opens a scope, the words behind it are negated, and something ends
it: a boundary, a new beginning, a preposition (what stands in the street is there, even when no one
is in the street). `lists` decides at commas and conjunctions whether it goes on, `reach` answers
the smaller questions. Here: what words and cues do; `marks` has the punctuation, `walk` the state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flux_mcp.compose.audit import lexicon, lists
from flux_mcp.compose.audit import lists as reach
from flux_mcp.compose.audit.inflection import words
from flux_mcp.compose.audit.lexicon import Sort
from flux_mcp.compose.audit.text import TokenKind, View


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


class Walk:
    """Which scope is open, and what was found so far."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.found = Scopes([None] * len(view), [False] * len(view), [])
        self.scope: Scope | None = None
        self.suspended = False
        """In a place behind the negated words: only an "or" leads back."""
        self.fresh = True
        """At the first word of a clause or an item."""
        self.excepting = False
        """Behind an exception: what follows is there."""
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
        """Leave the negated words for a place that holds them."""
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


_OR_MARK = words("nor or")


class Marks:
    """Reads the marks of a walk; knows which brackets and lists of lines are open."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._view = walk.view
        self._outside: list[tuple[Scope | None, bool]] = []
        """What was open where a bracket opened."""
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
            aside = reach.aside_end(self._view, place)
            if aside is not None and scope.sort is not Sort.DETERMINER:
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
        heading = reach.heading(self._view, self._walk.clause, place)
        if heading:
            self._walk.open(Scope(heading, Sort.VERB, header=True))
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
        if scope is None or self._walk.suspended or not reach.is_container(self._view, place - 1):
            return False
        self._walk.open(Scope(scope.cue, scope.sort, header=True))
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
        if not self._walk.in_heading and self._view.key(place + 1) not in _OR_MARK:
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


_GOVERNS = frozenset({Sort.VERB, Sort.PREDICATE})
_NAMES = frozenset({Sort.DETERMINER, Sort.LEXICAL})
_PART_OF_CUE = words("just merely only simply yet")
"""Directly behind a cue these end nothing: "not yet crowded"."""
_OR = words("nor or")
_FIRST_PREPOSITIONS = words("about for from than")
"""Directly behind a cue these belong to it: "not for people"."""


def read_scopes(view: View, skipped: Sequence[bool]) -> Scopes:
    """Find every scope. Tokens that are skipped (quotations) neither open, end nor fill one."""
    walk = Walk(view)
    marks, words_and_cues = Marks(walk), _Words(walk)
    place = 0
    while place < len(view):
        if skipped[place]:
            place += 1
        elif view.is_word(place):
            place = words_and_cues.read(place)
        else:
            place = marks.read(place)
    return walk.found


class _Words:
    """Reads the words of a walk, and the cues among them."""

    def __init__(self, walk: Walk) -> None:
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
        if word in lexicon.BOUNDARIES or word == "with":
            self._walk.excepting = self._walk.excepting and word == "with"
            self._walk.clause = place + 1
        elif reach.clears(self._view, self._walk.clause, place):
            self._walk.open(Scope(range(place, place + 1), Sort.LEXICAL))
        self._walk.found.excepted[place] = self._walk.excepting

    def _compound_or_entry(self, place: int) -> None:
        if self._walk.in_heading and self._view.key(place) in lexicon.BOUNDARIES:
            self._walk.end(place)
        else:
            self._walk.take(place)

    def _inside_word(self, place: int, word: str, scope: Scope) -> None:
        if word in lexicon.BOUNDARIES:
            if word not in _PART_OF_CUE or scope.cue.stop != place:
                self._walk.end(place)
        elif self._begins_clause(place, word, scope) or word in lexicon.QUANTITIES:
            self._walk.end(place)
        elif word in lexicon.ANY:
            self._walk.suspended = False
        elif word == "with" or word in lexicon.CONTAINING:
            self._with(place, word, scope)
        elif word in lexicon.RELATIVES or self._leads_away(place, word, scope):
            self._walk.suspend()
        else:
            self._walk.take(place)

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
        if not scope.words or self._walk.fresh or scope.sort is Sort.VERB:
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
        contains = reach.is_container(view, place - 1) and not self._walk.suspended
        if contains:
            return
        if word != "with":
            self._walk.take(place)
            return
        governed = scope.sort in _GOVERNS and view.key(scope.cue.stop) in lexicon.SHOWING
        writing = reach.carries_writing(view, place) and not self._walk.suspended
        if not (governed or writing or reach.fills(view, self._walk.clause, place)):
            self._walk.end(place)

    def _option(self, place: int) -> int:
        """Read an option as on a command line: `--no people, text`."""
        self._walk.end(place)
        if self._view.key(place + 1) != "no":
            return place + 1
        self._walk.open(Scope(range(place, place + 2), Sort.VERB, header=True))
        return place + 2

    # --- cues ------------------------------------------------------------------------------------

    def _apply(self, place: int, behind: int, sort: Sort) -> int:
        if sort in (Sort.ASIDE, Sort.PLACE):
            if self._walk.scope is not None and sort is Sort.PLACE:
                self._walk.scope.in_place = True
            return behind
        if sort is Sort.EXAMPLE:
            self._walk.suspended = False
            return behind
        if sort in (Sort.AND, Sort.OR):
            self._join(place, behind, sort)
            self._walk.fresh = True
            return behind
        if sort is Sort.HEDGE:
            self._walk.end(place)
        elif sort is Sort.EXCEPTION:
            self._except(place, behind)
        else:
            behind = self._negate(place, behind, sort)
        self._walk.fresh = False
        return behind

    def _join(self, place: int, behind: int, sort: Sort) -> None:
        scope = self._walk.scope
        if scope is None:
            if self._view.key(place) == "nor":
                self._walk.open(Scope(range(place, behind), Sort.DETERMINER))
            elif sort is Sort.AND:
                self._walk.clause = behind
            return
        if scope.header:
            return
        if sort is Sort.OR:
            if not lists.or_goes_on(self._view, behind):
                self._walk.end(place)
        elif not self._and_goes_on(place, behind, scope):
            self._walk.end(place)
        self._walk.suspended = False

    def _and_goes_on(self, place: int, behind: int, scope: Scope) -> bool:
        view = self._view
        if scope.narrow or (self._walk.suspended and scope.sort not in _GOVERNS):
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
        if self._walk.scope is not None:
            self._walk.end(place)
            self._walk.excepting = True
        elif any(
            self._view.key(one) in lexicon.UNIVERSALS for one in range(self._walk.clause, place)
        ):
            self._walk.open(Scope(range(place, behind), Sort.LEXICAL))

    def _negate(self, place: int, behind: int, sort: Sort) -> int:
        """Open a scope, or turn the open one over; return the place to go on from."""
        describes = sort is Sort.PREDICATE and self._view.key(place - 1) in lexicon.ARTICLES
        if describes or reach.is_approximate(self._view, place) or self._keeps(behind, sort):
            # "a not too crowded square" is a square
            self._walk.end(place)
            return behind
        may_name = sort is Sort.DETERMINER or self._view.is_glued(behind)
        name = reach.named(self._view, place, behind) if may_name else range(0)
        if name:
            self._name(range(place, behind), name)
            return name.stop
        outer = None if self._walk.suspended else self._walk.scope
        if outer is not None and outer.header:
            return behind
        if outer is not None and self._turns_over(place, sort, outer):
            self._walk.end(place)
            return behind
        narrow = sort is Sort.PREDICATE and self._view.key(place - 1) in lexicon.COPULAS
        if narrow and "there" in (self._view.key(place - 2), self._view.key(behind)):
            # "there are not any people"
            sort, narrow = Sort.DETERMINER, False
        self._walk.open(Scope(range(place, behind), sort, narrow))
        if self._view.key(place) == "nobody":
            self._walk.take(place)
        return behind

    def _keeps(self, behind: int, sort: Sort) -> bool:
        """Return whether a change is denied, not a thing: "do not change the text"."""
        is_change = self._view.key(behind) in lexicon.changing()
        return is_change and sort is not Sort.DETERMINER and self._view.cue_at(behind) is None

    def _name(self, cue: range, name: range) -> None:
        """Negate the words of a name; that of a sign forbids, it does not describe the picture."""
        scope = Scope(cue, Sort.DETERMINER)
        for place in name:
            self._walk.found.of[place] = scope
        if self._view.key(name.start) not in lexicon.BAN_WORDS:
            scope.words.extend(name)
            self._walk.found.all.append(scope)

    def _turns_over(self, place: int, sort: Sort, outer: Scope) -> bool:
        """Return whether a cue inside of a scope cancels it: "not without", "no lack of"."""
        if sort is Sort.DETERMINER:
            return False
        joined = self._view.key(place - 1) in _OR
        return not self._walk.fresh or (joined and sort is Sort.VERB and outer.sort in _GOVERNS)
