"""What is wrong with a pack: which file, which line, and how to fix it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal


@dataclass(frozen=True, order=True)
class PackProblem:
    """One thing that is wrong with a pack's files."""

    file: str
    """`<pack>/pack.json`: below the folder that holds the packs, with forward slashes."""
    line: int
    """From 1; 0 where it is about the file or folder as a whole."""
    column: int
    """From 1; 0 where the line says enough."""
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
"""Characters of a caller's words that a message quotes: it is to be read, not the input again."""


def shorten(text: str, most: int = LONGEST_QUOTE) -> str:
    """Return a text to quote, cut if it is longer."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def nearest(name: str, known: Iterable[str], *, what: str) -> str:
    """Return `Did you mean 'light'? Variables: light, mood.`, as far as there are any.

    Args:
        name: What was written.
        known: What there is.
        what: The plural of it, with a capital letter: `Variables`.
    """
    names = list(known)
    close = get_close_matches(name.lower(), names, n=1)
    meant = f"Did you mean '{close[0]}'? " if close else ""
    return f"{meant}{what}: {', '.join(names) or 'none'}."
