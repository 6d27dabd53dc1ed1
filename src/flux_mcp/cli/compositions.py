"""`flux-mcp packs compose|audit`: prompts that packs make, and what is forbidden in them.

Needs neither the database nor the models, as packs.py.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import typer

from flux_mcp.cli.common import EXIT_REQUEST, console, plain, print_json
from flux_mcp.cli.packs import library_of
from flux_mcp.compose.audit import Audit, Finding, Forbidden, audit_text
from flux_mcp.compose.choices import Choice
from flux_mcp.compose.composer import advise, draft_from
from flux_mcp.errors import InvalidRequestError
from flux_mcp.service.answers import AuditAnswer, FindingAnswer
from flux_mcp.settings.settings import Settings

_STYLES = {"pass": "green", "warn": "yellow", "refuse": "red", "advice": "cyan"}


@dataclass(frozen=True)
class PackFlags:
    """What is to be composed."""

    pack: str
    subject: str | None
    variables: tuple[str, ...]
    """Each `name=value`."""
    extra: str
    seed: int
    count: int

    def choice(self) -> Choice:
        """Return it as the composer takes it.

        Raises:
            InvalidRequestError: a variable is not written as name=value.
        """
        return Choice(self.pack, self.subject, read_variables(self.variables), self.extra)


def read_variables(written: Iterable[str]) -> dict[str, str]:
    """Read what --var gives.

    Raises:
        InvalidRequestError: one is not name=value, or a name is given twice.
    """
    pairs: dict[str, str] = {}
    for pair in written:
        name, sign, value = pair.partition("=")
        name = name.strip()
        if not sign or not name:
            raise InvalidRequestError(
                f"--var {pair}: it is not name=value.", "Write it as --var light=window."
            )
        if name in pairs:
            raise InvalidRequestError(
                f"--var {name} is there twice.", "Give it once, or several choices as a|b."
            )
        pairs[name] = value
    return pairs


@dataclass(frozen=True)
class Judging:
    """What is to be judged, and by what."""

    text: str
    words: tuple[str, ...]
    regexes: tuple[str, ...]
    pack: str | None
    is_strict: bool


def print_compositions(settings: Settings, asked: PackFlags, *, as_json: bool) -> None:
    """Print the prompts a choice makes.

    Raises:
        RequestError: no such pack or choice, or a prompt that is too long.
        typer.Exit: the audit refuses one; it has been printed why.
    """
    pack, choice = library_of(settings).find(asked.pack), asked.choice()
    made = [draft_from(pack, choice, asked.seed, index) for index in range(asked.count)]
    if as_json:
        documents = [
            {
                "prompt": one.prompt,
                "seed": asked.seed + index,
                **_audit_answer(one.audit).model_dump(mode="json"),
                "notices": list(one.notices),
                "report": one.report(),
            }
            for index, one in enumerate(made)
        ]
        print_json(documents[0] if asked.count == 1 else documents)
    else:
        for one in made:
            console().print(one.prompt)
            print_findings(one.audit.findings, to_stderr=True)
            for notice in one.notices:
                console(stderr=True).print(f"Note: {notice}", style="yellow")
    if any(one.audit.verdict == "refuse" for one in made):
        raise typer.Exit(EXIT_REQUEST)


def print_audit(settings: Settings, judging: Judging, *, as_json: bool) -> None:
    """Print the verdict over a text, and what was found where.

    Raises:
        InvalidRequestError: a pattern cannot be used.
        UnknownPackError: there is no such pack.
        typer.Exit: it is refused, and that was to be told.
    """
    text = sys.stdin.read() if judging.text == "-" else judging.text
    forbidden = [Forbidden(pattern) for pattern in judging.words]
    forbidden += [Forbidden(pattern, kind="regex") for pattern in judging.regexes]
    if judging.pack is not None:
        forbidden += library_of(settings).find(judging.pack).forbidden
    judged = audit_text(text, forbidden)
    if as_json:
        print_json(_audit_answer(judged))
    else:
        console().print(judged.verdict, style=f"bold {_STYLES[judged.verdict]}")
        print_findings(judged.findings)
    if judging.is_strict and judged.verdict == "refuse":
        raise typer.Exit(EXIT_REQUEST)


def _audit_answer(judged: Audit) -> AuditAnswer:
    return AuditAnswer(
        verdict=judged.verdict,
        findings=tuple(FindingAnswer(**asdict(finding)) for finding in judged.findings),
    )


def print_findings(findings: Iterable[Finding | FindingAnswer], *, to_stderr: bool = False) -> None:
    """Print what an audit found, one place a line."""
    out = console(stderr=to_stderr)
    for finding in findings:
        out.print(f"{finding.verdict}: {_said(finding)}", style=_STYLES[finding.verdict])


def _said(finding: Finding | FindingAnswer) -> str:
    where = f"{finding.block}, {finding.start} to {finding.end}"
    said = f"'{plain(finding.text)}' ({where}): {plain(finding.reason)}"
    return f"{said} {plain(advise(finding.rewording))}".rstrip()
