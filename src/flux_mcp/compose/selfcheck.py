"""A pack audited by its own rules: it must be able to draw what it offers."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from flux_mcp.compose.assemble import Assembled, assemble
from flux_mcp.compose.audit import Audit, Finding, Forbidden
from flux_mcp.compose.blocks import Block
from flux_mcp.compose.choosing import parts_of
from flux_mcp.compose.examples import Example, covering, one_by_one
from flux_mcp.compose.packs import Pack
from flux_mcp.compose.problems import Problem
from flux_mcp.compose.texts import Text
from flux_mcp.errors import RequestError

Judge = Callable[[Sequence[Block], Sequence[Forbidden]], Audit]
"""The audit: `flux_mcp.compose.audit.audit`."""


def check_quickly(pack: Pack, judge: Judge) -> tuple[Problem, ...]:
    """Return where the pack forbids its own words: every choice is looked at, few combinations."""
    if not pack.forbidden:
        return ()
    found = _problems(pack, judge, covering(pack))
    return tuple(sorted({problem for finding, problem in found if finding.code == "forbidden"}))


def check_thoroughly(pack: Pack, judge: Judge) -> tuple[Problem, ...]:
    """Return everything the audit has against the prompts the pack itself makes."""
    examples = (*one_by_one(pack), *covering(pack))
    return tuple(sorted({problem for _, problem in _problems(pack, judge, examples)}))


def _problems(
    pack: Pack, judge: Judge, examples: Iterable[Example]
) -> Iterator[tuple[Finding, Problem]]:
    for example in examples:
        try:
            assembled = assemble(parts_of(pack, example), woven=pack.woven)
        except RequestError:
            # Too long together: checks.py says so.
            continue
        for finding in judge(assembled.blocks, pack.forbidden).findings:
            if finding.verdict != "advice":
                yield finding, _problem(pack, assembled, finding)


def _problem(pack: Pack, assembled: Assembled, finding: Finding) -> Problem:
    text, line = _place(pack, assembled, finding)
    mend = finding.rewording or "Say it otherwise, or name the phrase in allowed_in."
    if finding.rewording and finding.code == "forbidden":
        mend = f"Write instead: {finding.rewording.rstrip('.')}."
    return Problem(
        file=f"{pack.name}/{text.file}",
        line=line,
        column=0,
        message=f"The pack's own audit finds '{finding.text}': {finding.reason.rstrip('.')}.",
        mend=mend,
        severity="error" if finding.verdict == "refuse" else "warning",
    )


def _place(pack: Pack, assembled: Assembled, finding: Finding) -> tuple[Text, int]:
    """Return the text of the pack a finding comes from, and the line."""
    pattern = re.compile(r"\s+".join(map(re.escape, finding.text.split())))
    texts = {pack.fixed.source: pack.fixed}
    texts |= {text.source: text for argument in pack.arguments for text in argument.texts}
    sources = [block.source for block in assembled.blocks if block.name == finding.block]
    sources += [fill.source for fill in assembled.fills if fill.block == finding.block]
    for source in sources:
        found = pattern.search(texts[source].text) if source in texts else None
        if found is not None:
            return texts[source], texts[source].line_of(found.start())
    return pack.fixed, pack.fixed.line
