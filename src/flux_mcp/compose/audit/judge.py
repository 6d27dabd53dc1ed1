"""The audit: every finding, and the verdict. Pure but for the time limit of regular expressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux_mcp.compose.audit.contradictions import Contradiction, contradictions
from flux_mcp.compose.audit.findings import Audit, Finding, Forbidden, Verdict
from flux_mcp.compose.audit.ideas import idea_of
from flux_mcp.compose.audit.mentions import TIME_LIMIT_S, Mention, mentions
from flux_mcp.compose.audit.patterns import Ready, ready
from flux_mcp.compose.audit.reading import Negation, Polarity, Reading, read
from flux_mcp.compose.audit.things import thing_of
from flux_mcp.compose.blocks import Block

_SEVEREST: tuple[Verdict, ...] = ("refuse", "warn", "pass")


def audit(blocks: Sequence[Block], forbidden: Sequence[Forbidden]) -> Audit:
    """Judge an assembled prompt.

    Args:
        blocks: Its parts, in the order in which they stand.
        forbidden: What it must not mention; their order does not matter.

    Raises:
        InvalidRequestError: a pattern is empty, too long, or no valid regular expression.
    """
    patterns = [ready(one) for one in dict.fromkeys(forbidden)]
    judged = _Judge(read(blocks), blocks)
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


def audit_text(text: str, forbidden: Sequence[Forbidden]) -> Audit:
    """Judge a text that stands alone; raises as `audit`."""
    return audit([Block("prompt", text, 0, "argument prompt")], forbidden)


def check_forbidden(forbidden: Forbidden) -> None:
    """Check a pattern without searching for it.

    Raises:
        InvalidRequestError: it is empty, too long, or no valid regular expression.
    """
    ready(forbidden)


@dataclass(frozen=True)
class _Judge:
    """A prompt that was read, and what is to be said about it."""

    reading: Reading
    blocks: Sequence[Block]

    def forbidden(self, pattern: Ready) -> Iterator[Finding]:
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
        for one in contradictions(self.reading):
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
        things = [thing_of(self.reading, run) for run in negation.things]
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
