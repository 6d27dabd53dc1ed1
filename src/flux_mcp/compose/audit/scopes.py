"""Which words are negated. Pure.

One walk over the tokens. A cue opens a scope, the words behind it are negated, and something ends
it: a boundary, a new beginning, a preposition (what stands in the street is there, even when no one
is in the street). `lists` decides at commas and conjunctions whether it goes on, `reach` answers
the smaller questions. Here: what words and cues do; `marks` has the punctuation, `walk` the state.
"""

from collections.abc import Sequence

from flux_mcp.compose.audit import lexicon, lists, reach
from flux_mcp.compose.audit.cues import Sort
from flux_mcp.compose.audit.marks import Marks
from flux_mcp.compose.audit.view import View
from flux_mcp.compose.audit.walk import Scope, Scopes, Walk
from flux_mcp.compose.audit.wordlists import words

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
