"""Checks of a pack's texts taken together: placeholders, lengths, and the prompts they make.

`check_texts` needs no audit. `check_quickly` and `check_thoroughly` audit example prompts, to find
packs that forbid their own words.
"""

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
from flux_mcp.compose.choices import ANY, ResolvedArgument, parts_of
from flux_mcp.compose.files import PackFiles, Text
from flux_mcp.compose.packs import Pack, Variable
from flux_mcp.compose.problems import PackProblem, nearest
from flux_mcp.errors import PromptTooLongError, RequestError

Judge = Callable[[Sequence[Block], Sequence[Forbidden]], Audit]
"""The audit: `flux_mcp.compose.audit.audit`."""
Example = tuple[ResolvedArgument, ...]
"""A value for every argument of a pack."""


def check_texts(pack: Pack, files: PackFiles) -> None:
    """Add an error to the files for every wrong placeholder and every text that is too long."""
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
            files.add_error(
                text.file,
                f"Nothing fills {{{placeholder.name}}}.",
                nearest(placeholder.name, known, what="Placeholders")
                + f" {{{{{placeholder.name}}}}} stands for the braces themselves.",
                line=text.line_of(placeholder.start),
            )


def _check_length(text: Text, files: PackFiles) -> None:
    characters = len(tidy(text.text))
    if characters > MAX_CHARACTERS:
        files.add_error(
            text.file,
            f"The text has {characters} characters; a whole prompt may have {MAX_CHARACTERS}.",
            "Shorten it.",
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
                    message = f"The placeholders form a circle: {circle}."
                    files.add_error(text.file, message, "Remove one of them.", line=text.line)
                elif below not in closed:
                    walk(below, (*path, name))
        closed.add(name)

    for name in known:
        if name not in closed:
            walk(name, ())


def _check_whole(pack: Pack, files: PackFiles) -> None:
    """Add an error if the defaults are too long together, a warning if the longest choices are."""
    for chosen, is_default in ((usual_example(pack), True), (longest_example(pack), False)):
        try:
            assemble(parts_of(pack, chosen), woven=pack.woven)
        except PromptTooLongError as error:
            if is_default:
                files.add_error(pack.fixed.file, error.message, error.hint)
                return
            message = f"With the longest choice of each: {error.message}"
            files.add_warning(pack.fixed.file, message, "Shorten one of them.")


# --- the pack's own prompts, audited --------------------------------------------------------------


def check_quickly(pack: Pack, judge: Judge) -> tuple[PackProblem, ...]:
    """Return where the pack forbids its own words: every choice, but few combinations."""
    if not pack.forbidden:
        return ()
    found = _problems(pack, judge, covering(pack))
    return tuple(sorted({problem for finding, problem in found if finding.code == "forbidden"}))


def check_thoroughly(pack: Pack, judge: Judge) -> tuple[PackProblem, ...]:
    """Return everything the audit finds in the prompts that the pack itself makes."""
    examples = (*one_by_one(pack), *covering(pack))
    return tuple(sorted({problem for _, problem in _problems(pack, judge, examples)}))


def _problems(
    pack: Pack, judge: Judge, examples: Iterable[Example]
) -> Iterator[tuple[Finding, PackProblem]]:
    for example in examples:
        try:
            assembled = assemble(parts_of(pack, example), woven=pack.woven)
        except RequestError:
            # Too long together: `check_texts` reports it.
            continue
        for finding in judge(assembled.blocks, pack.forbidden).findings:
            if finding.verdict != "advice":
                yield finding, _problem(pack, assembled, finding)


def _problem(pack: Pack, assembled: Assembled, finding: Finding) -> PackProblem:
    text, line = _place(pack, assembled, finding)
    fix = finding.rewording or "Reword it, or name the phrase in allowed_in."
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
    """Return the text of the pack that a finding comes from, and the line."""
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


# --- example prompts ------------------------------------------------------------------------------


def usual_example(pack: Pack) -> Example:
    """Return the defaults; the first choice where a default is random or missing."""
    return tuple(_usual(argument) for argument in pack.arguments)


def longest_example(pack: Pack) -> Example:
    """Return the longest choice of every argument."""
    return tuple(_longest(argument) for argument in pack.arguments)


def covering(pack: Pack) -> Iterator[Example]:
    """Yield as few examples as have every choice in them."""
    most = max(len(argument.choices) for argument in pack.arguments)
    for index in range(max(most, 1)):
        yield tuple(_nth(argument, index) for argument in pack.arguments)


def one_by_one(pack: Pack) -> Iterator[Example]:
    """Yield the usual example, then for every other choice the usual one with that choice."""
    start = usual_example(pack)
    yield start
    for index, argument in enumerate(pack.arguments):
        for name in argument.choices:
            if name != start[index].value:
                yield (*start[:index], _of(argument, name), *start[index + 1 :])


def _usual(argument: Variable) -> ResolvedArgument:
    default = argument.default
    if default in argument.choices:
        return _of(argument, str(default))
    if argument.choices and (not argument.free_text or default in (None, ANY)):
        return _nth(argument, 0)
    text = default or ""
    return ResolvedArgument(argument.name, text, text, f"default {argument.name}", is_default=True)


def _longest(argument: Variable) -> ResolvedArgument:
    texts = argument.choices
    if not texts:
        return _usual(argument)
    return _of(argument, max(texts, key=lambda name: len(texts[name].text)))


def _nth(argument: Variable, index: int) -> ResolvedArgument:
    names = list(argument.choices)
    return _of(argument, names[index % len(names)]) if names else _usual(argument)


def _of(argument: Variable, name: str) -> ResolvedArgument:
    text = argument.choices[name]
    return ResolvedArgument(argument.name, name, text.text, text.source)
