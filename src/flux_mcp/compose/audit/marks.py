"""What punctuation does to the scope of a negation: goes on over it, ends, or waits. Pure.

`lists` decides at commas whether a list goes on.
"""

from flux_mcp.compose.audit import lexicon, lists, reach
from flux_mcp.compose.audit.cues import Sort
from flux_mcp.compose.audit.tokens import Kind
from flux_mcp.compose.audit.walk import Scope, Walk
from flux_mcp.compose.audit.wordlists import words

_OR = words("nor or")


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
            Kind.COLON: self._colon,
            Kind.OPEN: self._bracket,
            Kind.CLOSE: self._close,
            Kind.LINE: self._line,
            Kind.DASH: self._dash,
            Kind.STOP: self._stop,
            Kind.EDGE: self._edge,
            Kind.SLASH: self._slash,
        }

    def read(self, place: int) -> int:
        """Read a mark; return the place to go on from."""
        kind = self._view.kind(place)
        if kind is Kind.COMMA:
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
            self._listing = self._view.kind(place + 1) is Kind.LINE
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
        is_entry = view.kind(place + 1) is Kind.BULLET or view.kind(place - 1) is Kind.COLON
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
        self._listing = self._listing and self._view.kind(place + 1) is Kind.LINE

    def _edge(self, place: int) -> None:
        self._walk.end(place)
        self._outside.clear()
        self._listing = False

    def _slash(self, place: int) -> None:
        if self._walk.scope is not None and not lists.and_goes_on(self._view, place + 1, None):
            self._walk.end(place)
        self._walk.suspended = False
