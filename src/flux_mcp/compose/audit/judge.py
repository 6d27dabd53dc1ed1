"""The audit itself: from a prompt and what is forbidden to the findings and the verdict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit.findings import Audit, Finding, Forbidden, Verdict
from flux_mcp.compose.audit.ideas import Idea, idea_of, words_of
from flux_mcp.compose.audit.inflection import forms, is_adjective
from flux_mcp.compose.audit.lexicon import lexicon
from flux_mcp.compose.audit.mentions import (
    TIME_LIMIT_S,
    CompiledPattern,
    Mention,
    compile_pattern,
    mentions,
    places_of,
)
from flux_mcp.compose.audit.reading import Negation, Polarity, PromptReading, read
from flux_mcp.compose.audit.tables import words
from flux_mcp.compose.audit.text import Token

_SEVEREST: tuple[Verdict, ...] = ("refuse", "warn", "pass")
_MEANT_BY_CUE = {"nobody": "people", "one": "people"}


@dataclass(frozen=True)
class NegatedThing:
    """Something that is negated."""

    head: str
    """The word that names it."""
    modifiers: tuple[str, ...]
    """Words before the head that narrow it: "harsh" in "no harsh shadows"."""
    leaves_others: bool
    """Whether it is said of others only: "no other people"."""

    @property
    def name(self) -> str:
        """`harsh shadows`."""
        return " ".join((*self.modifiers, self.head))


@dataclass(frozen=True)
class Contradiction:
    """A thing that is shown in one place and denied in another."""

    thing: NegatedThing
    negation: Negation
    place: int
    """The token that shows it."""
    is_sure: bool
    """Whether the word surely means what is denied, and the denial is of all of it."""


def judge(blocks: Sequence[Block], forbidden: Sequence[Forbidden]) -> Audit:
    """Judge an assembled prompt; arguments and errors are those of `audit`."""
    patterns = [compile_pattern(one) for one in dict.fromkeys(forbidden)]
    judged = _Findings(read(blocks), blocks)
    findings = [
        *(finding for pattern in patterns for finding in judged.forbidden(pattern)),
        *judged.contradictions(),
        *judged.negated_wordings(),
    ]
    findings.sort(key=lambda one: (one.start, one.end, one.code, one.pattern, one.reason))
    verdicts = {finding.verdict for finding in findings}
    return Audit(
        next(one for one in _SEVEREST if one in verdicts or one == "pass"), tuple(findings)
    )


# --- findings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Findings:
    """The findings about a prompt that was read."""

    reading: PromptReading
    blocks: Sequence[Block]

    def forbidden(self, pattern: CompiledPattern) -> Iterator[Finding]:
        asked = pattern.forbidden
        try:
            found = list(mentions(self.reading, pattern, self.blocks))
        except TimeoutError:
            yield self._timed_out(asked)
            return
        for mention in found:
            if mention.polarity is Polarity.AFFIRMED:
                yield self._mentioned(asked, mention)

    def _mentioned(self, asked: Forbidden, mention: Mention) -> Finding:
        text = self._text(mention.start, mention.end)
        because = f": {asked.reason}" if asked.reason else "."
        return Finding(
            verdict=asked.severity,
            code="forbidden",
            pattern=asked.pattern,
            block=self._block(mention.start),
            start=mention.start,
            end=mention.end,
            text=text,
            reason=f"'{asked.pattern}' is forbidden{because}",
            rewording=asked.instead or _rewording(asked.pattern.casefold(), text),
        )

    def _timed_out(self, asked: Forbidden) -> Finding:
        first = self.blocks[0]
        return Finding(
            verdict=asked.severity,
            code="regex_timeout",
            pattern=asked.pattern,
            block=first.name,
            start=first.start,
            end=first.start,
            text="",
            reason=f"The search for '{asked.pattern}' took longer than {TIME_LIMIT_S:g} s: it is "
            "not known whether it stands in the prompt.",
            rewording="",
        )

    def contradictions(self) -> Iterator[Finding]:
        for one in _contradictions(self.reading):
            finding = self._contradiction(one)
            if finding is not None:
                yield finding

    def _contradiction(self, one: Contradiction) -> Finding | None:
        token = self.reading.tokens[one.place]
        block, other = self._block(token.start), self._block(one.negation.start)
        if block == other and not one.is_sure:
            return None
        denial = self._text(one.negation.start, one.negation.end)
        return Finding(
            verdict="refuse" if block != other and one.is_sure else "warn",
            code="contradiction",
            pattern=one.thing.name,
            block=block,
            start=token.start,
            end=token.end,
            text=self._text(token.start, token.end),
            reason=f"'{denial}' in {other} denies it, and FLUX draws what is named.",
            rewording=f"Leave out one of the two. {_rewording(one.thing.head, one.thing.name)}",
            other_block=other,
            other_start=one.negation.start,
            other_end=one.negation.end,
        )

    def negated_wordings(self) -> Iterator[Finding]:
        for negation in self.reading.negations:
            finding = self._negated_wording(negation)
            if finding is not None:
                yield finding

    def _negated_wording(self, negation: Negation) -> Finding | None:
        things = [_thing_of(self.reading, run) for run in negation.things]
        named = [thing for thing in things if thing is not None]
        if not named:
            return None
        proposals = dict.fromkeys(_rewording(thing.head, thing.name) for thing in named)
        return Finding(
            verdict="advice",
            code="negated_wording",
            pattern=", ".join(dict.fromkeys(thing.name for thing in named)),
            block=self._block(negation.start),
            start=negation.start,
            end=negation.end,
            text=self._text(negation.start, negation.end),
            reason="FLUX has no negative prompt: it tends to draw what is named, negated or not.",
            rewording=" ".join(proposals),
        )

    def _block(self, start: int) -> str:
        return next(block.name for block in reversed(self.blocks) if block.start <= start)

    def _text(self, start: int, end: int) -> str:
        """Return `prompt[start:end]`; blocks that run on have one space between them."""
        parts = (
            block.text[max(0, start - block.start) : max(0, end - block.start)]
            for block in self.blocks
        )
        return " ".join(part for part in parts if part)


def _rewording(word: str, name: str) -> str:
    """Propose a positive wording of the absence of something."""
    idea = idea_of(word)
    if idea is None:
        return f"Say what is there instead of '{name}'."
    return f"Write what is there instead, for example: {idea.instead}."


# --- contradictions -------------------------------------------------------------------------------


Shown = tuple[int, bool]
"""The token that shows a thing, and whether it surely means it."""


def _contradictions(reading: PromptReading) -> Iterator[Contradiction]:
    """Yield every word that shows what is denied elsewhere: each word once, the surest first."""
    known: dict[str, tuple[Shown, ...]] = {}
    excepted = _excepted(reading)
    found: list[Contradiction] = []
    for negation in reading.negations:
        for run in negation.things:
            thing = _thing_of(reading, run)
            if thing is None or thing.leaves_others or is_adjective(thing.head):
                continue
            if thing.name not in known:
                known[thing.name] = tuple(_shown(reading, thing))
            whole = not negation.in_place and not (
                negation.of_statement and not idea_of(thing.head)
            )
            found.extend(
                Contradiction(thing, negation, place, is_sure and whole)
                for place, is_sure in known[thing.name]
                if reading.tokens[place].key not in excepted
            )
    seen: set[int] = set()
    for one in sorted(found, key=lambda one: not one.is_sure):
        if one.place not in seen:
            seen.add(one.place)
            yield one


def _excepted(reading: PromptReading) -> frozenset[str]:
    """Return every form of what is named as an exception: "no people except a child"."""
    named = {
        token.key
        for token, is_excepted in zip(reading.tokens, reading.excepted, strict=True)
        if is_excepted
    }
    return frozenset().union(*(forms(word) for word in named))


def _shown(reading: PromptReading, thing: NegatedThing) -> Iterator[Shown]:
    idea = idea_of(thing.head)
    if idea is not None and not thing.modifiers:
        yield from _idea_shown(reading, idea)
        return
    for word in forms(thing.head) & reading.places.keys():
        for place in reading.places[word]:
            if _is_shown(reading, place) and _is_same(reading, place, thing):
                yield place, True


def _idea_shown(reading: PromptReading, idea: Idea) -> Iterator[Shown]:
    meant = words_of(idea)
    for place in places_of(reading, idea):
        if _is_shown(reading, place):
            yield place, meant.get(reading.tokens[place].key, False)
    if idea.letters:
        for place in reading.quotations():
            yield place, True


def _is_shown(reading: PromptReading, place: int) -> bool:
    return reading.polarity[place] is Polarity.AFFIRMED and not reading.excepted[place]


def _is_same(reading: PromptReading, place: int, thing: NegatedThing) -> bool:
    """Return whether the words before are those of the thing: "harsh" before "shadows"."""
    first = place - len(thing.modifiers)
    before = tuple(token.key for token in reading.tokens[max(0, first) : place])
    return before == thing.modifiers


# --- negated things -------------------------------------------------------------------------------


def _thing_of(reading: PromptReading, run: Sequence[int]) -> NegatedThing | None:
    """Return what a run of negated words is about; `None` if it names nothing."""
    tokens = reading.tokens
    leaves_others = any(tokens[place].key in lexicon().narrowing for place in run)
    kept = _without_activity(tokens, run)
    while kept and tokens[kept[-1]].key in lexicon().neutral:
        kept = kept[:-1]
    while kept and tokens[kept[0]].key in _leading():
        kept = kept[1:]
    kept = [place for place in kept if tokens[place].key not in lexicon().neutral]
    if not kept:
        return None
    *modifiers, head = (tokens[place].key for place in kept)
    head = _MEANT_BY_CUE.get(head) or (head.removesuffix("less") if len(run) == 1 else head)
    return NegatedThing(head, tuple(modifiers), leaves_others)


def _without_activity(tokens: Sequence[Token], run: Sequence[int]) -> list[int]:
    """Return the words before the first activity: "people" of "people walking"."""
    for count, place in enumerate(run):
        word = tokens[place].key
        if count and (lexicon().is_activity(word) or word in lexicon().auxiliaries):
            return list(run[:count])
    return list(run)


@cache
def _leading() -> frozenset[str]:
    """Return the words before a thing that say nothing about it."""
    known = lexicon()
    return words("used using showing including adding having").union(known.showing, known.neutral)
