"""A prompt as the audit understands it: its tokens, and what it says of each.

A thing is affirmed, negated, or written in letters (quoted). Here the parts come together: scopes,
denials behind the thing, compounds such as "people-free", and quotations.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import chain

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit import predicates
from flux_mcp.compose.audit.ideas import idea_of
from flux_mcp.compose.audit.lexicon import CueKind, lexicon
from flux_mcp.compose.audit.scopes import Scope, read_scopes
from flux_mcp.compose.audit.tables import words
from flux_mcp.compose.audit.text import Token, TokenKind, TokenView, tokenize, unwrap

_LONGEST_QUOTATION = 20
_WRITING_BEFORE = 7
_WRITING_BEHIND = 4
"""How many tokens around a quotation may have a word of writing."""
_FREEING = words("free less")
_SETTING = words("break breaking set sets setting")
_HANGING_REACH = 7
_SETTING_REACH = 4


class Polarity(Enum):
    """What a prompt says of a thing."""

    AFFIRMED = "affirmed"
    NEGATED = "negated"
    QUOTED = "quoted"
    """Letters that the image should show: neither."""


@dataclass(frozen=True)
class Negation:
    """A wording that negates, and the things it negates."""

    start: int
    end: int
    """Span of the whole wording in the prompt: "no text or logos"."""
    things: tuple[tuple[int, ...], ...]
    """For each thing the places of its tokens."""
    in_place: bool
    """Whether it holds for one place only: "no people in the street"."""
    of_statement: bool
    """Whether it is said with "not": "the sky is not blue" denies no other blue."""


@dataclass(frozen=True)
class PromptReading:
    """The tokens of all blocks, and what is said of each."""

    tokens: tuple[Token, ...]
    polarity: tuple[Polarity, ...]
    scope: tuple[Scope | None, ...]
    excepted: tuple[bool, ...]
    """Named as an exception: "no people except a child"."""
    negations: tuple[Negation, ...]
    places: Mapping[str, Sequence[int]]
    """The places of each word among the tokens."""

    def polarity_of(self, first: int, last: int) -> Polarity:
        """Return what is said of the words from one place to another, both included.

        The last word decides. A pattern that has its own "no" in it means it: such a match counts
        as affirmed.
        """
        scope = self.scope[last]
        if scope is not None and scope.cue and first <= scope.cue.start <= last:
            return Polarity.AFFIRMED
        return self.polarity[last]

    def quotations(self) -> Iterator[int]:
        """Yield the first word of each quotation that the image should show as letters."""
        for place, polarity in enumerate(self.polarity):
            if polarity is Polarity.QUOTED and self.tokens[place - 1].kind is TokenKind.QUOTE:
                yield place


def read(blocks: Sequence[Block]) -> PromptReading:
    """Read the blocks of a prompt, in their order."""
    tokens = _tokens(blocks)
    quoted = _quoted(tokens)
    view = TokenView(tokens)
    scopes = read_scopes(view, quoted)
    denials = predicates.denials(view, quoted)
    freed = list(_freed(tokens))
    negated = [scope is not None for scope in scopes.of]
    subjects = [subject for denial in denials for subject in denial.subjects]
    for place in (place for found in (*subjects, *freed) for place in found):
        negated[place] = not negated[place]
    polarity = [Polarity.NEGATED if one else Polarity.AFFIRMED for one in negated]
    for place, is_quoted in enumerate(quoted):
        if is_quoted:
            polarity[place] = Polarity.QUOTED
    wordings = [
        *(_of_scope(view, scope) for scope in scopes.all if scope.words),
        *(_Wording(one.subjects[0].start, one.end, chain(*one.subjects)) for one in denials),
        *(_Wording(found.start, found.stop + 1, found) for found in freed),
    ]
    negations = [
        Negation(
            tokens[one.start].start,
            tokens[one.stop - 1].end,
            tuple(_runs(tokens, [place for place in one.words if negated[place]])),
            one.in_place,
            one.narrow,
        )
        for one in wordings
    ]
    negations.extend(_lessened(tokens, negated))
    return PromptReading(
        tuple(tokens),
        tuple(polarity),
        tuple(scopes.of),
        tuple(scopes.excepted),
        tuple(sorted((one for one in negations if one.things), key=lambda one: one.start)),
        _places(tokens),
    )


@dataclass(frozen=True)
class _Wording:
    """The tokens of a whole wording, and those it negates."""

    start: int
    stop: int
    words: Iterable[int]
    in_place: bool = False
    narrow: bool = False


def _of_scope(view: TokenView, scope: Scope) -> _Wording:
    start = min(scope.cue.start, scope.words[0])
    if scope.kind is CueKind.PREDICATE and view.key(start - 1) in lexicon().auxiliaries:
        start -= 1
    stop = max(scope.cue.stop, scope.words[-1] + 1)
    return _Wording(start, stop, scope.words, scope.in_place, scope.kind is CueKind.PREDICATE)


def _lessened(tokens: Sequence[Token], negated: Sequence[bool]) -> Iterator[Negation]:
    """Yield the words in "-less" that deny an idea: "textless"."""
    for place, token in enumerate(tokens):
        if not token.key.endswith("less") or negated[place]:
            continue
        if idea_of(token.key.removesuffix("less")) is not None:
            yield Negation(token.start, token.end, ((place,),), in_place=False, of_statement=False)


def _places(tokens: Sequence[Token]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, token in enumerate(tokens):
        found.setdefault(token.key, []).append(place)
    return found


def _tokens(blocks: Sequence[Block]) -> list[Token]:
    """Return the tokens of all blocks; an edge where a block does not run on into the next."""
    found: list[Token] = []
    before: Block | None = None
    for block in blocks:
        if before is not None and block.start - before.end != 1:
            found.append(Token("", TokenKind.EDGE, before.end, before.end))
        found.extend(unwrap(tokenize(block.text, block.start)))
        before = block
    return found


def _runs(tokens: Sequence[Token], places: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield places in runs without a gap; two things are never in one run."""
    run: list[int] = []
    for place in places:
        if run and (place != run[-1] + 1 or tokens[place].kind is not TokenKind.WORD):
            yield tuple(run)
            run = []
        run.append(place)
    if run:
        yield tuple(run)


# --- quotations -----------------------------------------------------------------------------------


def _quoted(tokens: Sequence[Token]) -> list[bool]:
    """Return for each token whether it is in a quotation that the image should show as letters."""
    found = [False] * len(tokens)
    for opening, closing in _pairs(tokens):
        is_short = closing - opening - 1 <= _LONGEST_QUOTATION
        if is_short and (_writing_before(tokens, opening) or _writing_behind(tokens, closing)):
            found[opening : closing + 1] = [True] * (closing + 1 - opening)
    return found


def _pairs(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    opening: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token.kind is TokenKind.EDGE:
            opening.clear()
        elif token.kind is TokenKind.QUOTE:
            if token.key in opening:
                if _may_close(tokens, place):
                    yield opening.pop(token.key), place
            elif _may_open(tokens, place):
                opening[token.key] = place


def _may_open(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a mark may open; an apostrophe may not follow a word without a space."""
    touches_word = place > 0 and tokens[place - 1].end == tokens[place].start
    return tokens[place].key == '"' or not touches_word


def _may_close(tokens: Sequence[Token], place: int) -> bool:
    return tokens[place].key == '"' or tokens[place - 1].end == tokens[place].start


def _writing_before(tokens: Sequence[Token], opening: int) -> bool:
    for token in reversed(tokens[max(0, opening - _WRITING_BEFORE) : opening]):
        if token.kind in (TokenKind.STOP, TokenKind.EDGE):
            return False
        if token.kind is TokenKind.WORD and token.key in lexicon().writing_forms:
            return True
    return False


def _writing_behind(tokens: Sequence[Token], closing: int) -> bool:
    behind = tokens[closing + 1 : closing + 1 + _WRITING_BEHIND]
    for token in behind:
        if token.kind is not TokenKind.WORD:
            return False
        if token.key in lexicon().writing_forms:
            return True
    return False


# --- "people-free" --------------------------------------------------------------------------------


def _freed(tokens: Sequence[Token]) -> Iterator[range]:
    """Yield the words that a "free" negates: "people-free", "text- and logo-free", "text free"."""
    for place, token in enumerate(tokens):
        if token.kind is not TokenKind.WORD or token.key not in _FREEING or not place:
            continue
        start = place - 1
        if token.glued:
            while start and tokens[start].glued:
                start -= 1
            yield range(start, place)
            yield from _hanging(tokens, start)
        elif token.key == "free" and _is_apart(tokens, place):
            yield range(start, place)


def _hanging(tokens: Sequence[Token], compound: int) -> Iterator[range]:
    """Yield the first halves of compounds that share their second: "text- and logo-free"."""
    for place in range(compound - 1, max(-1, compound - _HANGING_REACH), -1):
        if tokens[place].hangs:
            yield range(place, place + 1)
        elif tokens[place].kind is not TokenKind.COMMA and tokens[place].key not in ("and", "or"):
            return


def _is_apart(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a "free" without a hyphen frees the word before it: "text free design"."""
    before, behind = tokens[place - 1], tokens[place + 1] if place + 1 < len(tokens) else None
    if before.kind is not TokenKind.WORD or before.key in _never_freed():
        return False
    if any(one.key in _SETTING for one in tokens[max(0, place - _SETTING_REACH) : place]):
        return False
    return behind is None or behind.glued or behind.key not in _not_freeing_behind()


@cache
def _never_freed() -> frozenset[str]:
    """Return the words that a "free" behind them does not negate."""
    return lexicon().auxiliaries | words("a an and as feel for in of or the to very with")


@cache
def _not_freeing_behind() -> frozenset[str]:
    """Return the words that give a "free" before them another meaning."""
    known = lexicon()
    return words("of to will range spirit").union(
        known.prepositions, known.auxiliaries, known.relatives
    )
