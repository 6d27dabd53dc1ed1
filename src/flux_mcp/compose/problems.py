"""The problems of a pack: which file, which line, and how to fix it; and how messages quote."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal


@dataclass(frozen=True, order=True)
class PackProblem:
    """An error or a warning about a file of a pack."""

    file: str
    """`<pack>/pack.json`: below the folder that holds the packs, with forward slashes."""
    line: int
    """From 1; 0 for the file or folder as a whole."""
    column: int
    """From 1; 0 if only the line is known."""
    message: str
    fix: str
    """One sentence that says what to do; never empty."""
    severity: Literal["error", "warning"] = "error"
    """An error disables the pack, a warning does not."""

    @property
    def place(self) -> str:
        """`file:line:column`, as editors and CI systems read it."""
        return ":".join(
            [self.file, *(str(number) for number in (self.line, self.column) if number)]
        )

    def __str__(self) -> str:
        """`file:line:column: [warning: ]what is wrong. how to fix it.`."""
        kind = "" if self.severity == "error" else "warning: "
        return f"{self.place}: {kind}{self.message} {self.fix}"


def has_errors(problems: Iterable[PackProblem]) -> bool:
    """Say whether any of the problems disables the pack."""
    return any(problem.severity == "error" for problem in problems)


LONGEST_QUOTE = 100
"""Characters of a caller's text that a message quotes at most."""


def shorten(text: str, most: int = LONGEST_QUOTE) -> str:
    """Return a text to quote, cut if it is longer."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def nearest(name: str, known: Iterable[str], *, what: str) -> str:
    """Return a hint such as `Did you mean 'light'? Variables: light, mood.`.

    Args:
        name: The name that was written.
        known: The names that exist.
        what: What they are names of, with a capital letter: `Variables`.
    """
    names = list(known)
    close = get_close_matches(name.lower(), names, n=1)
    meant = f"Did you mean '{close[0]}'? " if close else ""
    return f"{meant}{what}: {', '.join(names) or 'none'}."
