"""The answer about a dry run: what was decided about a request, with its audit and estimates."""

from collections.abc import Sequence
from dataclasses import asdict

from flux_mcp.compose.audit import Finding
from flux_mcp.compose.composer import Composition
from flux_mcp.compose.problems import shorten
from flux_mcp.compose.tokens import TokenCount
from flux_mcp.images.masks import FinishedMask
from flux_mcp.jobs.estimates import Estimates
from flux_mcp.service.answers import (
    ComposedAnswer,
    DryRunAnswer,
    FindingAnswer,
    LoraAnswer,
    MaskAnswer,
    TokensAnswer,
)
from flux_mcp.service.planner import Decision
from flux_mcp.service.prompts import judge_plain

MAX_FINDINGS = 24
"""Of the audit in one answer, shared by its prompts; for the same reason."""
LONGEST_FINDING = 600
"""Characters of each text of a finding; a regular expression may match a whole prompt."""
_SEVERITY = ("refuse", "warn", "advice")


def dry_run_answer(decision: Decision, estimates: Estimates) -> DryRunAnswer:
    """Return what was decided about a request, with estimates; nothing is queued.

    Runs on the database thread.
    """
    known_s = estimates.draw_s(decision.plan)
    return DryRunAnswer(
        composed=composed_answers(decision),
        plan=decision.plan,
        loras=tuple(LoraAnswer.of(lora) for lora in decision.loras),
        mask=next((_mask(item.mask) for item in decision.incoming if item.mask), None),
        draw_s=decision.expected_s if known_s is None else known_s,
        start_s=estimates.start_s(),
        notices=decision.notices,
    )


def _mask(mask: FinishedMask) -> MaskAnswer:
    return MaskAnswer(share=round(mask.share, 6), box=mask.changed.edges)


def composed_answers(decision: Decision) -> tuple[ComposedAnswer, ...]:
    """Return each different prompt of a decision, with its audit and its tokens."""
    if decision.wording is None:
        return ()
    different = {one.prompt: one for one in decision.wording.compositions}
    if not different:
        different = {text: judge_plain(text) for text in decision.plan.texts if text}
    tokens = dict(zip(dict.fromkeys(decision.plan.texts), decision.tokens, strict=True))
    most = MAX_FINDINGS // max(1, len(different))
    return tuple(_composed(one, tokens[text], most) for text, one in different.items())


def _composed(one: Composition, tokens: Sequence[TokenCount], most: int) -> ComposedAnswer:
    found = one.audit.findings
    kept = sorted(found, key=lambda finding: _SEVERITY.index(finding.verdict))[:most]
    return ComposedAnswer(
        prompt=one.prompt,
        verdict=one.audit.verdict,
        findings=tuple(_finding(finding) for finding in found if finding in kept),
        more_findings=len(found) - len(kept),
        report=one.report() if one.pack else {},
        tokens=tuple(
            TokensAnswer(
                encoder=count.encoder,
                tokens=count.tokens,
                limit=count.limit,
                exact=count.is_exact,
                cut=count.cut,
            )
            for count in tokens
        ),
    )


def _finding(finding: Finding) -> FindingAnswer:
    return FindingAnswer(
        **{
            name: shorten(value, LONGEST_FINDING) if isinstance(value, str) else value
            for name, value in asdict(finding).items()
        }
    )
