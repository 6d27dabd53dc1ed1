"""Forbidden patterns made ready for the search: words by their forms, regular expressions checked.

`regex` is imported when the first regular expression is met: most packs have none.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from flux_mcp.compose.audit.findings import Forbidden
from flux_mcp.compose.audit.folding import fold
from flux_mcp.compose.audit.ideas import idea_of, words_of
from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.tokens import Kind, tokenize
from flux_mcp.errors import InvalidRequestError

if TYPE_CHECKING:
    import regex

MAX_PATTERN_CHARACTERS = 500
_LESS = "less"

Steps = tuple[frozenset[str], ...]
"""For each word of a phrase the forms it may have."""


@dataclass(frozen=True)
class Ready:
    """A forbidden pattern that can be searched for."""

    forbidden: Forbidden
    phrases: tuple[Steps, ...]
    """Any of them counts; empty for a regular expression."""
    without: frozenset[str]
    """Words that mean its absence: "textless"."""
    expression: "regex.Pattern[str] | None"
    allowed: tuple[Steps, ...]
    quotations: bool
    """Whether letters to be drawn count: related words of "text" were asked for."""


@lru_cache(maxsize=1024)
def ready(forbidden: Forbidden) -> Ready:
    """Make a pattern ready, and check it.

    Raises:
        InvalidRequestError: it is empty, too long, or no valid regular expression.
    """
    pattern = forbidden.pattern
    if not pattern.strip():
        raise InvalidRequestError("A forbidden pattern is empty.", "Name what is forbidden.")
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise InvalidRequestError(
            f"The forbidden pattern '{pattern[:40]}…' has {len(pattern)} characters and may have "
            f"at most {MAX_PATTERN_CHARACTERS}.",
            "Split it into several patterns.",
        )
    allowed = tuple(_steps(phrase) for phrase in forbidden.allowed_in)
    if forbidden.kind == "regex":
        return Ready(forbidden, (), frozenset(), _expression(pattern), allowed, quotations=False)
    steps = _steps(pattern)
    idea = idea_of(_only_word(pattern)) if forbidden.related else None
    related = (frozenset(words_of(idea)),) if idea else None
    return Ready(
        forbidden,
        (steps, related) if related else (steps,),
        frozenset(form + _LESS for form in steps[0]) if len(steps) == 1 else frozenset(),
        None,
        allowed,
        quotations=idea is not None and idea.quotations,
    )


def _only_word(pattern: str) -> str:
    tokens = tokenize(pattern)
    return tokens[0].key if len(tokens) == 1 else ""


def _steps(phrase: str) -> Steps:
    """Return the forms of each word of a phrase; marks stand for themselves.

    Raises:
        InvalidRequestError: it has no word.
    """
    tokens = tokenize(phrase)
    if not any(token.kind is Kind.WORD for token in tokens):
        raise InvalidRequestError(
            f"The forbidden pattern '{phrase}' has no word.",
            "Name a word or a phrase, or make it a regular expression.",
        )
    return tuple(
        forms(token.key) if token.kind is Kind.WORD else frozenset({token.key}) for token in tokens
    )


def _expression(pattern: str) -> "regex.Pattern[str]":
    import regex  # noqa: PLC0415  # 30 ms to import, and most packs have none

    try:
        return regex.compile(fold(pattern).text, regex.IGNORECASE)
    except regex.error as error:
        raise InvalidRequestError(
            f"The forbidden pattern '{pattern}' is no valid regular expression: {error}.",
            "Mend it, or leave out kind to look for the words as they are.",
        ) from error
    except (RecursionError, OverflowError, MemoryError) as error:
        raise InvalidRequestError(
            f"The forbidden pattern '{pattern}' is too large to compile.", "Make it smaller."
        ) from error
