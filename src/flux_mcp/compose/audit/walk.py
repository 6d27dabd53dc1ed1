"""The walk over the tokens: which scope is open, and in what state.

`Walk` owns that state; `marks` and `scopes` decide what a token does to it.
"""

from dataclasses import dataclass, field

from flux_mcp.compose.audit.cues import Sort
from flux_mcp.compose.audit.view import View


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
