"""Forbidden patterns: made ready to search for, and found in a prompt with their polarity."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit.findings import Forbidden
from flux_mcp.compose.audit.ideas import Idea, idea_of, ideas, sure_ideas_of, words_of
from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.lexicon import lexicon
from flux_mcp.compose.audit.reading import Polarity, PromptReading
from flux_mcp.compose.audit.text import Token, TokenKind, fold, tokenize
from flux_mcp.errors import InvalidRequestError

if TYPE_CHECKING:
    import regex

MAX_PATTERN_CHARACTERS = 500
TIME_LIMIT_S = 0.1
"""For one regular expression over one prompt; usual ones need a thousandth of it."""
MAX_MENTIONS = 100
"""Of one regular expression; more add nothing new."""
_GROUP_REACH = 3
"""How many words behind "a crowd of" or "a crowded" may say what it is: "noisy black birds"."""
_SHORTEST_TIMEOUT_S = 0.001

# --- patterns -------------------------------------------------------------------------------------

Phrase = tuple[frozenset[str], ...]
"""For each word of a phrase the forms it may have."""


@dataclass(frozen=True)
class CompiledPattern:
    """A forbidden pattern, ready to search for."""

    forbidden: Forbidden
    phrases: tuple[Phrase, ...]
    """Any of them counts; empty for a regular expression."""
    without: frozenset[str]
    """Words that mean its absence: "textless"."""
    expression: "regex.Pattern[str] | None"
    allowed: tuple[Phrase, ...]
    idea: Idea | None
    """The idea whose words count as well, where the pattern asks for related words."""


@lru_cache(maxsize=1024)
def compile_pattern(forbidden: Forbidden) -> CompiledPattern:
    """Return a pattern ready to search for.

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
    allowed = tuple(_forms_by_word(phrase) for phrase in forbidden.allowed_in)
    if forbidden.kind == "regex":
        return CompiledPattern(forbidden, (), frozenset(), _expression(pattern), allowed, idea=None)
    phrase = _forms_by_word(pattern)
    idea = idea_of(_only_word(pattern)) if forbidden.related else None
    without = phrase[0] if len(phrase) == 1 else frozenset[str]()
    if idea is not None:
        without |= words_of(idea).keys()
    return CompiledPattern(
        forbidden, (phrase,), frozenset(f"{form}less" for form in without), None, allowed, idea
    )


def unrelated(forbidden: Forbidden) -> str:
    """Return why a pattern's `related` has no effect; empty where it has one, or is not set."""
    if not forbidden.related:
        return ""
    if forbidden.kind == "regex":
        return f"'related' has no effect on the regular expression '{forbidden.pattern}'."
    if idea_of(_only_word(forbidden.pattern)) is None:
        known = ", ".join(idea.name for idea in ideas())
        return f"No words related to '{forbidden.pattern}' are known. Known ideas: {known}."
    return ""


def _only_word(pattern: str) -> str:
    tokens = tokenize(pattern)
    return tokens[0].key if len(tokens) == 1 else ""


def _forms_by_word(phrase: str) -> Phrase:
    """Return the forms of each word of a phrase; marks stand for themselves.

    Raises:
        InvalidRequestError: it has no word.
    """
    tokens = tokenize(phrase)
    if not any(token.kind is TokenKind.WORD for token in tokens):
        raise InvalidRequestError(
            f"The forbidden pattern '{phrase}' has no word.",
            "Name a word or a phrase, or make it a regular expression.",
        )
    return tuple(
        forms(token.key) if token.kind is TokenKind.WORD else frozenset({token.key})
        for token in tokens
    )


def _expression(pattern: str) -> "regex.Pattern[str]":
    import regex  # noqa: PLC0415  # 30 ms to import, and most packs have none

    try:
        return regex.compile(fold(pattern).text, regex.IGNORECASE)
    except regex.error as error:
        raise InvalidRequestError(
            f"The forbidden pattern '{pattern}' is no valid regular expression: {error}.",
            "Fix it, or leave out kind to search for the words as they are.",
        ) from error
    except (RecursionError, OverflowError, MemoryError) as error:
        raise InvalidRequestError(
            f"The forbidden pattern '{pattern}' is too large to compile.", "Make it smaller."
        ) from error


# --- mentions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mention:
    """A place of a prompt where a forbidden pattern is, and whether it is meant there."""

    start: int
    end: int
    polarity: Polarity


def mentions(
    reading: PromptReading, pattern: CompiledPattern, blocks: Sequence[Block]
) -> Iterator[Mention]:
    """Yield every mention of a pattern, in no particular order.

    Raises:
        TimeoutError: a regular expression took longer than TIME_LIMIT_S.
    """
    allowed = [_span(reading, *found) for found in _occurrences(reading, pattern.allowed)]
    if pattern.expression is None:
        found = _words(reading, pattern)
    else:
        found = _matches(reading, pattern.expression, blocks)
    for mention in found:
        if not any(start <= mention.start and mention.end <= end for start, end in allowed):
            yield mention


def _occurrences(reading: PromptReading, phrases: Sequence[Phrase]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last token of each place where one of the phrases is, once.

    A phrase may run over a line break.
    """
    known: set[tuple[int, int]] = set()
    for phrase in phrases:
        for word in phrase[0] & reading.places.keys():
            for place in reading.places[word]:
                last = _last(reading.tokens, place, phrase)
                if last is not None and (place, last) not in known:
                    known.add((place, last))
                    yield place, last


def _last(tokens: Sequence[Token], place: int, phrase: Phrase) -> int | None:
    for forms_of_word in phrase[1:]:
        place += 1
        while place < len(tokens) and tokens[place].kind is TokenKind.LINE:
            place += 1
        if place >= len(tokens) or tokens[place].key not in forms_of_word:
            return None
    return place


def _span(reading: PromptReading, first: int, last: int) -> tuple[int, int]:
    return reading.tokens[first].start, reading.tokens[last].end


def _words(reading: PromptReading, pattern: CompiledPattern) -> Iterator[Mention]:
    for first, last in _occurrences(reading, pattern.phrases):
        yield Mention(*_span(reading, first, last), reading.polarity_of(first, last))
    for word in pattern.without & reading.places.keys():
        for place in reading.places[word]:
            opposite = reading.polarity[place] is Polarity.NEGATED
            polarity = Polarity.AFFIRMED if opposite else Polarity.NEGATED
            yield Mention(*_span(reading, place, place), polarity)
    if pattern.idea is not None:
        own = set(_occurrences(reading, pattern.phrases))
        for place in places_of(reading, pattern.idea):
            if (place, place) not in own:
                yield Mention(*_span(reading, place, place), reading.polarity_of(place, place))
        if pattern.idea.letters:
            for place in reading.quotations():
                yield Mention(*_span(reading, place, place), Polarity.AFFIRMED)


# --- words of an idea -----------------------------------------------------------------------------


def places_of(reading: PromptReading, idea: Idea) -> Iterator[int]:
    """Yield the place of each word that means an idea where it stands, negated or not.

    "bear" is an animal, but not in "teddy bear"; "a crowd" are people, but not that of birds.
    """
    elsewhere = {
        place
        for first, last in _occurrences(reading, _elsewhere(idea))
        for place in range(first, last + 1)
    }
    for word in words_of(idea).keys() & reading.places.keys():
        for place in reading.places[word]:
            if place not in elsewhere and not _is_of_others(reading, place, idea):
                yield place
    for word in idea.told_by & reading.places.keys():
        for place in reading.places[word]:
            if _is_before_place(reading, place, idea):
                yield place


@cache
def _elsewhere(idea: Idea) -> tuple[Phrase, ...]:
    return tuple(_forms_by_word(phrase) for phrase in idea.elsewhere)


@cache
def _forms_of(words: frozenset[str]) -> frozenset[str]:
    return frozenset().union(*map(forms, words))


def _is_of_others(reading: PromptReading, place: int, idea: Idea) -> bool:
    """Return whether a group is one of other things: "a crowd of birds", "a couple of apples"."""
    key = reading.tokens[place].key
    is_quantity = key in _forms_of(idea.quantities)
    if not is_quantity and key not in _forms_of(idea.groups):
        return False
    if place + 1 >= len(reading.tokens) or reading.tokens[place + 1].key != "of":
        return False
    members = list(_words_behind(reading, place + 2))
    if any(word in words_of(idea) for word in members):
        return False
    return is_quantity or any(sure_ideas_of(word) for word in members)


def _is_before_place(reading: PromptReading, place: int, idea: Idea) -> bool:
    return any(word in _forms_of(idea.places) for word in _words_behind(reading, place + 1))


def _words_behind(reading: PromptReading, start: int) -> Iterator[str]:
    """Yield the next words, to the end of what they describe."""
    for token in reading.tokens[start : start + _GROUP_REACH]:
        if token.kind is not TokenKind.WORD or token.key in lexicon().prepositions:
            return
        yield token.key


def _matches(
    reading: PromptReading, expression: "regex.Pattern[str]", blocks: Sequence[Block]
) -> Iterator[Mention]:
    ends = time.monotonic() + TIME_LIMIT_S
    count = 0
    for block in blocks:
        folded = fold(block.text)
        left = max(_SHORTEST_TIMEOUT_S, ends - time.monotonic())
        for match in expression.finditer(folded.text, timeout=left):
            if match.end() > match.start() and count < MAX_MENTIONS:
                count += 1
                start, end = folded.span(match.start(), match.end())
                start, end = start + block.start, end + block.start
                yield Mention(start, end, _polarity_between(reading, start, end))


def _polarity_between(reading: PromptReading, start: int, end: int) -> Polarity:
    places = [
        place
        for place, token in enumerate(reading.tokens)
        if token.kind is TokenKind.WORD and token.start < end and start < token.end
    ]
    return reading.polarity_of(places[0], places[-1]) if places else Polarity.AFFIRMED
