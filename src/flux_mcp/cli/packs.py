"""`flux-mcp packs`: look at prompt packs, compose with them, audit texts, check and begin packs.

Needs neither the database nor the models: a repository of packs can use it in its CI.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import typer

from flux_mcp.cli.common import (
    EXIT_ENGINE,
    EXIT_REQUEST,
    console,
    given_or_read,
    plain,
    print_json,
)
from flux_mcp.compose.audit import Audit, Finding, Forbidden, Severity, audit_text, unrelated
from flux_mcp.compose.choices import Choice
from flux_mcp.compose.composer import advise, draft_from
from flux_mcp.compose.files import NOTHING
from flux_mcp.compose.language import audit_notices
from flux_mcp.compose.library import (
    PackLibrary,
    check_packs,
    known_models,
    open_library,
    pack_folders,
)
from flux_mcp.compose.problems import has_errors, nearest
from flux_mcp.compose.reader import PackReading
from flux_mcp.compose.skeleton import skeleton
from flux_mcp.errors import InvalidRequestError, UnknownPackError
from flux_mcp.models.user_rows import open_registry
from flux_mcp.service.answers import AuditAnswer, FindingAnswer
from flux_mcp.settings.installation import command_path
from flux_mcp.settings.settings import Settings

_STYLES = {"pass": "green", "warn": "yellow", "refuse": "red", "advice": "cyan"}


def library_of(settings: Settings) -> PackLibrary:
    """Return the packs of a data folder, with those that come with us."""
    return open_library(settings, open_registry(settings))


# --- list and show -----------------------------------------------------------------------------


def print_packs(settings: Settings, *, as_json: bool) -> None:
    """Print every pack, and every problem of those that cannot be used."""
    library = library_of(settings)
    readings, notices = library.readings(), library.notices()
    if as_json:
        print_json(
            {"packs": [_reading_as_json(reading) for reading in readings], "notices": list(notices)}
        )
        return
    out = console()
    width = max((len(reading.name) for reading in readings), default=0)
    for reading in readings:
        pack = reading.pack
        if pack is None:
            out.print(f"{reading.name:<{width}}  cannot be used:", style="red")
        else:
            out.print(f"{reading.name:<{width}}  {pack.version:<8} {plain(pack.title)}")
        _print_problems([reading], indent="  ")
    for notice in notices:
        console(stderr=True).print(f"Note: {notice}", style="yellow")
    out.print(f"Your own packs: {settings.paths.packs}")
    out.print(f"A new one: {command_path('flux-mcp')} packs new my-style")


def _reading_as_json(reading: PackReading) -> dict[str, Any]:
    pack = reading.pack
    about = {} if pack is None else {"title": pack.title, "description": pack.description}
    return {
        "name": reading.name,
        "usable": pack is not None,
        "version": None if pack is None else pack.version,
        **about,
        "problems": [asdict(problem) for problem in reading.problems],
    }


def print_pack(settings: Settings, name: str, *, as_json: bool) -> None:
    """Print what a pack holds.

    Raises:
        UnknownPackError: there is none of that name.
        InvalidPackError: its files are wrong.
    """
    pack = library_of(settings).find(name)
    if as_json:
        print_json(pack.describe())
        return
    out = console()
    out.print(f"{plain(pack.title)} ({pack.name} {pack.version})", style="bold")
    out.print(f"{plain(pack.description)}\n{pack.folder}\n")
    out.print("Always said:", style="bold")
    out.print(f"  {plain(pack.fixed.text)}")
    for argument in pack.arguments:
        left_out = "must be given" if argument.is_required else f"left out: {argument.default}"
        own = ", or your own words" if argument.free_text else ""
        out.print(
            f"\n{argument.name}: {plain(argument.description)} ({left_out}{own})", style="bold"
        )
        width = max(map(len, argument.choices), default=0)
        for choice, text in argument.choices.items():
            out.print(f"  {choice:<{width}}  {plain(text.text) or NOTHING}")
    if pack.forbidden:
        out.print("\nForbidden:", style="bold")
    for row in pack.forbidden:
        also = " and related words" if row.related and not unrelated(row) else ""
        mildly = " (a warning)" if row.severity == "warn" else ""
        out.print(f"  {row.pattern}{also}{mildly}: {plain(row.reason)}")


# --- compose -----------------------------------------------------------------------------------


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
        print_json({"prompts": documents})
    else:
        for one in made:
            console().print(one.prompt)
            print_findings(one.audit.findings, to_stderr=True)
            for notice in one.notices:
                console(stderr=True).print(f"Note: {notice}", style="yellow")
    if any(one.audit.verdict == "refuse" for one in made):
        raise typer.Exit(EXIT_REQUEST)


# --- audit -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AuditFlags:
    """What is to be audited, and by what."""

    text: str
    words: tuple[str, ...]
    regexes: tuple[str, ...]
    with_related: bool
    allowed_in: tuple[str, ...]
    severity: str
    pack: str | None
    is_strict: bool

    def forbidden(self) -> list[Forbidden]:
        """Return what the flags forbid; what a pack forbids is not among it.

        Raises:
            InvalidRequestError: the severity is neither of the two.
        """
        severity = next((one for one in get_args(Severity) if one == self.severity), None)
        if severity is None:
            raise InvalidRequestError(
                f"--severity {self.severity}: there is no such verdict.",
                f"Give one of: {', '.join(get_args(Severity))}.",
            )
        common = Forbidden("", severity=severity, allowed_in=self.allowed_in)
        return [
            *(replace(common, pattern=one, related=self.with_related) for one in self.words),
            *(replace(common, pattern=one, kind="regex") for one in self.regexes),
        ]


def print_audit(settings: Settings, asked: AuditFlags, *, as_json: bool) -> None:
    """Print the verdict over a text, and what was found where.

    Raises:
        InvalidRequestError: a pattern cannot be used.
        UnknownPackError: there is no such pack.
        typer.Exit: it is refused, and `is_strict` was asked for.
    """
    text = given_or_read(asked.text, "a text to audit")
    forbidden = asked.forbidden()
    notices = [*filter(None, map(unrelated, forbidden)), *audit_notices([text])]
    if asked.with_related and not asked.words:
        notices.append("--related has no effect without --forbid.")
    if asked.pack is not None:
        forbidden += library_of(settings).find(asked.pack).forbidden
    judged = audit_text(text, forbidden)
    if as_json:
        print_json(_audit_answer(judged))
    else:
        console().print(judged.verdict, style=f"bold {_STYLES[judged.verdict]}")
        print_findings(judged.findings)
    for notice in notices:
        console(stderr=True).print(f"Note: {plain(notice)}", style="yellow")
    if asked.is_strict and judged.verdict == "refuse":
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


# --- check and new -----------------------------------------------------------------------------


def print_checks(settings: Settings, folder: Path | None, *, as_json: bool) -> None:
    """Check packs thoroughly and print every problem.

    Raises:
        UnknownPackError: there is no pack.
        typer.Exit: one cannot be used.
    """
    models = known_models(open_registry(settings))
    folders = _all_folders(settings) if folder is None else [_folder_of(settings, folder)]
    readings = [one for place in folders for one in check_packs(place, models=models)]
    if as_json:
        print_json({"packs": [_reading_as_json(reading) for reading in readings]})
    else:
        _print_problems(readings)
        wrong = sum(has_errors(reading.problems) for reading in readings)
        found = sum(len(reading.problems) for reading in readings)
        console().print(
            f"{_count(len(readings), 'pack')} checked, {wrong} cannot be used, "
            f"{_count(found, 'problem')}.",
            style="red" if wrong else "green",
        )
    if any(has_errors(reading.problems) for reading in readings):
        raise typer.Exit(EXIT_ENGINE)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _folder_of(settings: Settings, asked: Path) -> Path:
    """Return the folder that is meant: as it was given, or a pack by its name alone."""
    if asked.is_dir() or len(asked.parts) != 1:
        return asked
    for root in (settings.paths.packs, settings.packs_dir):
        if (root / asked).is_dir():
            return root / asked
    names = [reading.name for reading in library_of(settings).readings()]
    raise UnknownPackError(
        f"There is neither a folder nor a pack '{asked}'.",
        nearest(str(asked), names, what="Packs"),
    )


def _all_folders(settings: Settings) -> list[Path]:
    own = settings.paths.packs
    return [settings.packs_dir, *([own] if pack_folders(own) else [])]


def _print_problems(readings: Iterable[PackReading], indent: str = "") -> None:
    out = console()
    for reading in readings:
        for problem in reading.problems:
            style = "red" if problem.severity == "error" else "yellow"
            out.print(f"{indent}{problem}", style=style)


def make_pack(settings: Settings, name: str, folder: Path | None) -> None:
    """Write a new pack and say what to do with it.

    Raises:
        InvalidRequestError: the name cannot be one, or is taken.
        StorageError: the disk refuses.
    """
    made = skeleton(name, folder or settings.paths.packs)
    command = command_path("flux-mcp")
    out = console()
    out.print(str(made), style="bold green")
    out.print("Change its texts, then:")
    out.print(f"  {command} packs check {made}")
    if folder is None:
        out.print(f"  {command} packs compose {name}")
    else:
        out.print(f"It is used once it lies in {settings.paths.packs}.")
