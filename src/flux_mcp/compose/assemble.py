"""FIXED + SUBJECT + VARIABLE + EXTRA -> one prompt, with where each part of it came from. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from flux_mcp.compose.blocks import Block, Fill
from flux_mcp.compose.placeholders import Filler, names_in
from flux_mcp.compose.problems import shorten
from flux_mcp.compose.tidy import tidy
from flux_mcp.errors import InvalidRequestError, PromptTooLongError

MAX_CHARACTERS = 2000
"""Of an assembled prompt: the founding documents' number."""

_SENTENCE_END = re.compile(r"[.!?…:][\"”“»)\]]*\Z")
_RUNS_ON = re.compile(
    r"(?:\A|\W)(?:an?|the|of|with|in|on|and|or|by|at|for|from|to|as|showing)\Z|[\u2013\u2014\-(/]\Z",
    re.IGNORECASE,
)
_LOWER = re.compile(r"[\W_]*[a-zß-öø-ÿ]")


@dataclass(frozen=True)
class Part:
    """A text that goes into a prompt, as it was written."""

    name: str
    """As `Block.name`."""
    text: str
    source: str
    """As `Block.source`."""
    placeholder: str | None = None
    """The name placeholders ask for it by; `None` where they cannot."""


@dataclass(frozen=True)
class Assembled:
    """A prompt, its blocks in order, and what was filled into them."""

    prompt: str
    blocks: tuple[Block, ...]
    fills: tuple[Fill, ...]


def assemble(
    parts: Sequence[Part],
    *,
    woven: frozenset[str] = frozenset(),
    max_characters: int = MAX_CHARACTERS,
) -> Assembled:
    """Put a prompt together: fill placeholders, tidy each part, join them.

    A part that a placeholder of another has placed makes no block of its own.

    Args:
        parts: The parts in order.
        woven: Placeholders whose parts never make a block of their own.
        max_characters: Most characters of the prompt.

    Raises:
        InvalidRequestError: a placeholder without a part, or a circle of them.
        PromptTooLongError: the message has the length of each block.
    """
    values = {part.placeholder: part for part in parts if part.placeholder is not None}
    filler = Filler(lambda name: _value(values, name).text)
    standing = [part for part in parts if part.placeholder not in woven]
    filled = [(part, filler.fill(part.text)) for part in standing]
    placed = {name for part in standing for name in _names_below(part.text, values)}
    blocks: list[Block] = []
    fills: list[Fill] = []
    prompt = ""
    for part, raw in filled:
        text = tidy(raw)
        if not text or part.placeholder in placed:
            continue
        prompt += separator(prompt, text) if prompt else ""
        blocks.append(Block(part.name, text, len(prompt), part.source))
        prompt += text
        below = [values[name] for name in _names_below(part.text, values)]
        fills += [Fill(str(one.placeholder), part.name, one.text, one.source) for one in below]
    if len(prompt) > max_characters:
        raise PromptTooLongError(*_too_long(prompt, blocks, max_characters))
    return Assembled(prompt, tuple(blocks), tuple(fills))


def separator(left: str, right: str) -> str:
    """Return what goes between two blocks: a space, a comma, or a full stop.

    A space where the left one ends a sentence or breaks off in the middle of one ("a photo of"), a
    full stop where the right one begins a sentence, else a comma.
    """
    if _SENTENCE_END.search(left) or _RUNS_ON.search(left):
        return " "
    return ", " if _LOWER.match(right) else ". "


def _value(values: Mapping[str, Part], name: str) -> Part:
    if name in values:
        return values[name]
    close = get_close_matches(name.lower().replace(" ", "_"), values, n=1)
    meant = f"Did you mean {{{close[0]}}}? " if close else ""
    known = ", ".join(f"{{{one}}}" for one in values) or "none"
    raise InvalidRequestError(
        f"There is nothing to put in place of {{{shorten(name)}}}.",
        f"{meant}Placeholders: {known}. Write {{{{{shorten(name)}}}}} for the braces themselves.",
    )


def _names_below(text: str, values: Mapping[str, Part]) -> tuple[str, ...]:
    """Return every name that is placed in a text, also inside of what is placed."""
    found: dict[str, None] = {}
    waiting = [text]
    while waiting:
        new = sorted(names_in(waiting.pop()) - found.keys())
        found.update(dict.fromkeys(new))
        waiting.extend(_value(values, name).text for name in new)
    return tuple(found)


def _too_long(prompt: str, blocks: Sequence[Block], most: int) -> tuple[str, str]:
    lengths = ", ".join(f"{block.name} {len(block.text)}" for block in blocks)
    # What the caller wrote is easiest to shorten, whatever the pack's own blocks are.
    theirs = [block for block in blocks if block.source.startswith("argument ")]
    longest = max(theirs or blocks, key=lambda block: len(block.text))
    message = f"The prompt has {len(prompt)} characters and may have {most} at most: {lengths}."
    return message, f"Shorten {longest.name} ({longest.source})."
