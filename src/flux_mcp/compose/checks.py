"""What can be wrong with a pack's texts taken together."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flux_mcp.compose.assemble import (
    MAX_CHARACTERS,
    Assembled,
    Block,
    assemble,
    names_in,
    placeholders,
    tidy,
)
from flux_mcp.compose.audit import Audit, Finding, Forbidden
from flux_mcp.compose.choices import Example, covering, longest, one_by_one, parts_of, usual
from flux_mcp.compose.files import PackFiles, Text
from flux_mcp.compose.packs import Pack, Variable
from flux_mcp.compose.problems import PackProblem, nearest
from flux_mcp.errors import PromptTooLongError, RequestError


def check_texts(pack: Pack, files: PackFiles) -> None:
    """Collect what is wrong with placeholders and lengths."""
    known = {argument.name: argument for argument in pack.arguments}
    texts = (pack.fixed, *(text for argument in pack.arguments for text in argument.texts))
    before = len(files.problems)
    for text in texts:
        _check_placeholders(text, known, files)
        _check_length(text, files)
    _check_circles(known, files)
    if len(files.problems) == before:
        _check_whole(pack, files)


def _check_placeholders(text: Text, known: Mapping[str, Variable], files: PackFiles) -> None:
    for placeholder in placeholders(text.text):
        if placeholder.name not in known:
            files.complain(
                text.file,
                f"Nothing fills {{{placeholder.name}}}.",
                nearest(placeholder.name, known, what="Placeholders")
                + f" {{{{{placeholder.name}}}}} stands for the braces themselves.",
                line=text.line_of(placeholder.start),
            )


def _check_length(text: Text, files: PackFiles) -> None:
    characters = len(tidy(text.text))
    if characters > MAX_CHARACTERS:
        files.complain(
            text.file,
            f"The text has {characters} characters; a whole prompt may have {MAX_CHARACTERS}.",
            "Say it shorter.",
            line=text.line,
        )


def _check_circles(known: Mapping[str, Variable], files: PackFiles) -> None:
    """Find texts that ask for each other: each such circle once, at the text that closes it."""
    closed: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        for text in known[name].texts:
            for below in sorted(names_in(text.text) & known.keys()):
                if below in (*path, name):
                    circle = " -> ".join((*path, name, below))
                    message = f"The placeholders go round in a circle: {circle}."
                    files.complain(text.file, message, "Take one of them out.", line=text.line)
                elif below not in closed:
                    walk(below, (*path, name))
        closed.add(name)

    for name in known:
        if name not in closed:
            walk(name, ())


def _check_whole(pack: Pack, files: PackFiles) -> None:
    """Refuse defaults that make no prompt; warn where the longest choices make none."""
    for chosen, is_default in ((usual(pack), True), (longest(pack), False)):
        try:
            assemble(parts_of(pack, chosen), woven=pack.woven)
        except PromptTooLongError as error:
            if is_default:
                files.complain(pack.fixed.file, error.message, error.hint)
                return
            message = f"With the longest choice of each: {error.message}"
            files.warn(pack.fixed.file, message, "Shorten one of them.")


Judge = Callable[[Sequence[Block], Sequence[Forbidden]], Audit]
"""The audit: `flux_mcp.compose.audit.audit`."""


def check_quickly(pack: Pack, judge: Judge) -> tuple[PackProblem, ...]:
    """Return where the pack forbids its own words: every choice is looked at, few combinations."""
    if not pack.forbidden:
        return ()
    found = _problems(pack, judge, covering(pack))
    return tuple(sorted({problem for finding, problem in found if finding.code == "forbidden"}))


def check_thoroughly(pack: Pack, judge: Judge) -> tuple[PackProblem, ...]:
    """Return everything the audit has against the prompts the pack itself makes."""
    examples = (*one_by_one(pack), *covering(pack))
    return tuple(sorted({problem for _, problem in _problems(pack, judge, examples)}))


def _problems(
    pack: Pack, judge: Judge, examples: Iterable[Example]
) -> Iterator[tuple[Finding, PackProblem]]:
    for example in examples:
        try:
            assembled = assemble(parts_of(pack, example), woven=pack.woven)
        except RequestError:
            # Too long together: checks.py says so.
            continue
        for finding in judge(assembled.blocks, pack.forbidden).findings:
            if finding.verdict != "advice":
                yield finding, _problem(pack, assembled, finding)


def _problem(pack: Pack, assembled: Assembled, finding: Finding) -> PackProblem:
    text, line = _place(pack, assembled, finding)
    fix = finding.rewording or "Say it otherwise, or name the phrase in allowed_in."
    if finding.rewording and finding.code == "forbidden":
        fix = f"Write instead: {finding.rewording.rstrip('.')}."
    return PackProblem(
        file=f"{pack.name}/{text.file}",
        line=line,
        column=0,
        message=f"The pack's own audit finds '{finding.text}': {finding.reason.rstrip('.')}.",
        fix=fix,
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
