"""The audit of a prompt: what it mentions of what is forbidden, and where it contradicts itself.

It understands negations: "no people" does not mention people. Importing this package loads the
types of the results only; the judge and its word tables load when something is first audited.
"""

from collections.abc import Sequence

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit.findings import Audit, Code, Finding, Forbidden, Severity, Verdict

__all__ = [
    "Audit",
    "Code",
    "Finding",
    "Forbidden",
    "Severity",
    "Verdict",
    "audit",
    "audit_text",
    "check_forbidden",
    "unrelated",
]


def audit(blocks: Sequence[Block], forbidden: Sequence[Forbidden]) -> Audit:
    """Judge an assembled prompt.

    Args:
        blocks: Its parts, in the order in which they stand.
        forbidden: What it must not mention; their order does not matter.

    Raises:
        InvalidRequestError: a pattern is empty, too long, or no valid regular expression.
    """
    from flux_mcp.compose.audit import judge  # noqa: PLC0415  # the server starts without it

    return judge.judge(blocks, forbidden)


def audit_text(text: str, forbidden: Sequence[Forbidden]) -> Audit:
    """Judge a text that stands alone; raises as `audit`."""
    return audit([Block("prompt", text, 0, "argument prompt")], forbidden)


def check_forbidden(forbidden: Forbidden) -> None:
    """Check a pattern without searching for it.

    Raises:
        InvalidRequestError: it is empty, too long, or no valid regular expression.
    """
    from flux_mcp.compose.audit import mentions  # noqa: PLC0415  # the same

    mentions.compile_pattern(forbidden)


def unrelated(forbidden: Forbidden) -> str:
    """Return why a pattern's `related` has no effect; empty where it has one, or is not set."""
    from flux_mcp.compose.audit import mentions  # noqa: PLC0415  # the same

    return mentions.unrelated(forbidden)
