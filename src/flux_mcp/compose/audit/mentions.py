"""Where forbidden patterns stand in a prompt, and whether they are meant. Pure."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flux_mcp.compose.audit.folding import fold
from flux_mcp.compose.audit.patterns import Ready, Steps
from flux_mcp.compose.audit.reading import Polarity, Reading
from flux_mcp.compose.audit.tokens import Kind, Token
from flux_mcp.compose.blocks import Block

if TYPE_CHECKING:
    import regex

TIME_LIMIT_S = 0.1
"""For one regular expression over one prompt; what usual ones need is a thousandth of it."""
MAX_MENTIONS = 100
"""Of one regular expression; more tell nothing new."""
_SHORTEST_S = 0.001


@dataclass(frozen=True)
class Mention:
    """A forbidden pattern in a prompt."""

    start: int
    end: int
    polarity: Polarity


def mentions(reading: Reading, pattern: Ready, blocks: Sequence[Block]) -> Iterator[Mention]:
    """Yield every mention of a pattern, in no particular order.

    Raises:
        TimeoutError: a regular expression took longer than TIME_LIMIT_S.
    """
    allowed = [_span(reading, *found) for found in occurrences(reading, pattern.allowed)]
    if pattern.expression is None:
        found = _words(reading, pattern)
    else:
        found = _matches(reading, pattern.expression, blocks)
    for mention in found:
        if not any(start <= mention.start and mention.end <= end for start, end in allowed):
            yield mention


def occurrences(reading: Reading, phrases: Sequence[Steps]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last token of each place where one of the phrases stands.

    A phrase may run over a line break. Places are told once.
    """
    known: set[tuple[int, int]] = set()
    for steps in phrases:
        for word in steps[0] & reading.places.keys():
            for place in reading.places[word]:
                last = _last(reading.tokens, place, steps)
                if last is not None and (place, last) not in known:
                    known.add((place, last))
                    yield place, last


def _last(tokens: Sequence[Token], place: int, steps: Steps) -> int | None:
    for step in steps[1:]:
        place += 1
        while place < len(tokens) and tokens[place].kind is Kind.LINE:
            place += 1
        if place >= len(tokens) or tokens[place].key not in step:
            return None
    return place


def _span(reading: Reading, first: int, last: int) -> tuple[int, int]:
    return reading.tokens[first].start, reading.tokens[last].end


def _words(reading: Reading, pattern: Ready) -> Iterator[Mention]:
    for first, last in occurrences(reading, pattern.phrases):
        yield Mention(*_span(reading, first, last), reading.polarity_of(first, last))
    for word in pattern.without & reading.places.keys():
        for place in reading.places[word]:
            opposite = reading.polarity[place] is Polarity.NEGATED
            polarity = Polarity.AFFIRMED if opposite else Polarity.NEGATED
            yield Mention(*_span(reading, place, place), polarity)
    if pattern.quotations:
        for place in reading.quotations():
            yield Mention(*_span(reading, place, place), Polarity.AFFIRMED)


def _matches(
    reading: Reading, expression: "regex.Pattern[str]", blocks: Sequence[Block]
) -> Iterator[Mention]:
    ends = time.monotonic() + TIME_LIMIT_S
    count = 0
    for block in blocks:
        folded = fold(block.text)
        left = max(_SHORTEST_S, ends - time.monotonic())
        for match in expression.finditer(folded.text, timeout=left):
            if match.end() > match.start() and count < MAX_MENTIONS:
                count += 1
                start, end = folded.span(match.start(), match.end())
                start, end = start + block.start, end + block.start
                yield Mention(start, end, _polarity_between(reading, start, end))


def _polarity_between(reading: Reading, start: int, end: int) -> Polarity:
    places = [
        place
        for place, token in enumerate(reading.tokens)
        if token.kind is Kind.WORD and token.start < end and start < token.end
    ]
    return reading.polarity_of(places[0], places[-1]) if places else Polarity.AFFIRMED
