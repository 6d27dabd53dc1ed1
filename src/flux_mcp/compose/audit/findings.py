"""What the audit looks for, and what it finds."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "refuse"]
Severity = Literal["refuse", "warn"]
Code = Literal["forbidden", "contradiction", "negated_wording", "regex_timeout"]


@dataclass(frozen=True)
class Forbidden:
    """One thing a pack forbids."""

    pattern: str
    """A word ("people"), a phrase ("stock photo"), or a regular expression."""
    kind: Literal["words", "regex"] = "words"
    severity: Severity = "refuse"
    reason: str = ""
    """Why it is forbidden; the caller who is refused reads it."""
    instead: str = ""
    """A positive wording of the pack's own; empty: the audit proposes one."""
    allowed_in: tuple[str, ...] = ()
    """Phrases in which it is allowed: "people mover"."""
    related: bool = False
    """Whether words of the same idea count as well: for "people" also "crowd", "woman", "child"."""


@dataclass(frozen=True)
class Finding:
    """One place of a prompt, and what is wrong with it. `prompt[start:end] == text`."""

    verdict: Literal["advice", "warn", "refuse"]
    """What this finding alone asks for; advice never changes the verdict of an audit."""
    code: Code
    pattern: str
    """The forbidden pattern; for contradictions and negated wording the thing that is negated."""
    block: str
    """`Block.name` of the block it begins in."""
    start: int
    end: int
    text: str
    reason: str
    rewording: str
    """What to write instead; may be empty."""
    other_block: str | None = None
    """For contradictions: the block of the other side, the negation."""
    other_start: int | None = None
    other_end: int | None = None


@dataclass(frozen=True)
class Audit:
    """The verdict on a prompt: that of its severest finding, advice not counted."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    """In the order in which they stand in the prompt."""
