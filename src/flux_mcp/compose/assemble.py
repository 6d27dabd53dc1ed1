"""Puts a prompt together: placeholders filled, texts tidied, blocks joined.

`assemble` gives the prompt with its blocks, and for each block where its text came from.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from flux_mcp.compose.problems import shorten
from flux_mcp.errors import InvalidRequestError, PromptTooLongError

MAX_CHARACTERS = 2000
"""Of an assembled prompt, as of a prompt that a caller writes."""

_SENTENCE_END = re.compile(r"[.!?…:][\"”“»)\]]*\Z")
_RUNS_ON = re.compile(
    r"(?:\A|\W)(?:an?|the|of|with|in|on|and|or|by|at|for|from|to|as|showing)\Z|[\u2013\u2014\-(/]\Z",
    re.IGNORECASE,
)
_LOWER = re.compile(r"[\W_]*[a-zß-öø-ÿ]")


@dataclass(frozen=True)
class PromptPart:
    """A text that goes into a prompt, as it was written."""

    name: str
    """As `Block.name`."""
    text: str
    source: str
    """As `Block.source`."""
    placeholder: str | None = None
    """The name placeholders ask for it by; `None` where they cannot."""


@dataclass(frozen=True)
class Block:
    """A part of the prompt, and where it came from. `prompt[start:end] == text`."""

    name: str
    """`fixed`, `subject`, `variable:<name>`, `extra`; `prompt` for a text that stands alone."""
    text: str
    """Tidied, as it is in the assembled prompt."""
    start: int
    """Offset of its first character in the assembled prompt."""
    source: str
    """`fixed_block.txt`, `subjects/cat.txt`, `variable_style.txt (noir)`, `argument extra`."""

    @property
    def end(self) -> int:
        """Offset just past its last character in the assembled prompt."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Fill:
    """What replaced a `{placeholder}`: which text, from where, in which block."""

    placeholder: str
    """`subject`, or the name of a variable."""
    block: str
    """Name of the block that had the placeholder."""
    text: str
    """What was filled in, before it was tidied."""
    source: str
    """As `Block.source`."""


@dataclass(frozen=True)
class Assembled:
    """A prompt, its blocks in order, and what was filled into them."""

    prompt: str
    blocks: tuple[Block, ...]
    fills: tuple[Fill, ...]


def assemble(
    parts: Sequence[PromptPart],
    *,
    woven: frozenset[str] = frozenset(),
    max_characters: int = MAX_CHARACTERS,
) -> Assembled:
    """Put a prompt together: fill placeholders, tidy each part, join them.

    A part whose placeholder is in another part makes no block of its own.

    Args:
        parts: The parts in order.
        woven: Placeholders whose parts never make a block of their own.
        max_characters: Most characters of the prompt.

    Raises:
        InvalidRequestError: a placeholder without a part, or a circle of them.
        PromptTooLongError: the message has the length of each block.
    """
    values = {part.placeholder: part for part in parts if part.placeholder is not None}
    filler = _Filler(lambda name: _value(values, name).text)
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

    A space if the left one ends a sentence or breaks off in the middle of one ("a photo of"), a
    full stop if the right one begins a sentence, else a comma.
    """
    if _SENTENCE_END.search(left) or _RUNS_ON.search(left):
        return " "
    return ", " if _LOWER.match(right) else ". "


def _value(values: Mapping[str, PromptPart], name: str) -> PromptPart:
    if name in values:
        return values[name]
    close = get_close_matches(name.lower().replace(" ", "_"), values, n=1)
    meant = f"Did you mean {{{close[0]}}}? " if close else ""
    known = ", ".join(f"{{{one}}}" for one in values) or "none"
    raise InvalidRequestError(
        f"There is nothing to put in place of {{{shorten(name)}}}.",
        f"{meant}Placeholders: {known}. Write {{{{{shorten(name)}}}}} for the braces themselves.",
    )


def _names_below(text: str, values: Mapping[str, PromptPart]) -> tuple[str, ...]:
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


# --- placeholders ---------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"\{\{(?P<literal>[\w -]+)\}\}|\{(?P<name>[\w -]+)\}")
_MAX_FILLED_CHARACTERS = 20_000
"""A text that grows beyond this is refused: ten times what a prompt may have."""


@dataclass(frozen=True)
class Placeholder:
    """A name in braces, as it was written, and its offset."""

    name: str
    start: int


def placeholders(text: str) -> Iterator[Placeholder]:
    """Yield every `{name}` of a text in order; names may be misspelt."""
    for found in _PLACEHOLDER.finditer(text):
        if found["name"] is not None:
            yield Placeholder(found["name"], found.start())


def names_in(text: str) -> frozenset[str]:
    """Return the names a text has placeholders for."""
    return frozenset(placeholder.name for placeholder in placeholders(text))


class _Filler:
    """Fills placeholders with named texts, which may have placeholders themselves.

    Args:
        text_of: The text for a name. Raises `RequestError` for a name there is nothing for.
    """

    def __init__(self, text_of: Callable[[str], str]) -> None:
        self._text_of = text_of
        self._filled: dict[str, str] = {}
        self._open: list[str] = []

    def fill(self, text: str) -> str:
        """Return the text with every placeholder filled.

        Raises:
            RequestError: a placeholder there is nothing for.
            InvalidRequestError: texts that ask for each other in a circle.
            PromptTooLongError: a text that grows far beyond any prompt.
        """
        filled = _PLACEHOLDER.sub(self._replace, text)
        if len(filled) > _MAX_FILLED_CHARACTERS:
            raise PromptTooLongError(
                f"The prompt grows beyond {_MAX_FILLED_CHARACTERS} characters when its "
                "placeholders are filled.",
                "Shorten it, or use fewer placeholders.",
            )
        return filled

    def _replace(self, found: re.Match[str]) -> str:
        if found["literal"] is not None:
            return f"{{{found['literal']}}}"
        value = self._value(found["name"])
        follows = found.string[found.end() : found.end() + 1]
        if follows and follows in ",;:.!?)" and value.endswith(".") and not value.endswith(".."):
            # A whole sentence was given for a place inside of one.
            return value[:-1]
        return value

    def _value(self, name: str) -> str:
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            raise InvalidRequestError(
                f"The placeholders form a circle: {circle}.", "Remove one of them."
            )
        if name not in self._filled:
            # Each text is filled once: texts that name others twice do not multiply the work.
            self._open.append(name)
            self._filled[name] = self.fill(self._text_of(name)).strip()
            self._open.pop()
        return self._filled[name]


# --- tidying --------------------------------------------------------------------------------------

# Where a quotation begins and ends depends on the marks alone, not on the text between them:
# tidying leaves the marks, so it finds the same quotations again.
_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|„[^“”]*[“”]|«[^»]*»')
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\s+"), " "),
    # Not before a digit: `a .5 mm gap` stays.
    (re.compile(r" +([,;:.!?)\]])(?=[\s,;:.!?)\]]|\Z)"), r"\1"),
    (re.compile(r"([(\[]) +"), r"\1"),
    (re.compile(r"\.{4,}"), "..."),
    (re.compile(r"(?<!\.)\.\.(?!\.)"), "."),
    # Commas and semicolons give way to a stronger mark beside them.
    (re.compile(r"[,;]*;[,;]*"), ";"),
    (re.compile(r",{2,}"), ","),
    (re.compile(r"(?<=[:!?])[,;]+"), ""),
    (re.compile(r"[,;]+(?=[.:!?])"), ""),
)
_LEADING = re.compile(r"\A(?:[,;:.!?]+(?=\s|\Z)|\s)+")
_TRAILING = re.compile(r"[\s,;]+\Z")


def tidy(text: str) -> str:
    """Return the text with single spaces, and without doubled or stranded punctuation.

    `tidy(tidy(text)) == tidy(text)`, and `quotations(tidy(text)) == quotations(text)`.
    """
    pieces = list(_pieces(text))
    tidied = [piece if is_quoted else _tidy_piece(piece) for piece, is_quoted in pieces]
    if pieces and not pieces[0][1]:
        tidied[0] = _LEADING.sub("", tidied[0])
    if pieces and not pieces[-1][1]:
        tidied[-1] = _TRAILING.sub("", tidied[-1])
    return "".join(tidied)


def _tidy_piece(piece: str) -> str:
    before = None
    while before != piece:
        # A rule can make room for one before it: `, ,` becomes `,,` and then `,`.
        before = piece
        for pattern, replacement in _RULES:
            piece = pattern.sub(replacement, piece)
    return piece


def quotations(text: str) -> tuple[str, ...]:
    """Return every quotation of a text with its marks: what the image should show."""
    return tuple(piece for piece, is_quoted in _pieces(text) if is_quoted)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the whole text in order: quotations (true), and the text between them (false)."""
    start = 0
    for found in _QUOTED.finditer(text):
        if found.start() > start:
            yield text[start : found.start()], False
        yield found[0], True
        start = found.end()
    if start < len(text):
        yield text[start:], False
