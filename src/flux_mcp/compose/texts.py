"""The text files of a pack: comments, and the choices of a variable. Pure.

`fixed_block.txt` and `subjects/*.txt` are one text each; `variable_*.txt` holds the choices of a
variable, each below a heading `[name]`. A line that is `#` alone or begins with `#` and a space is
a comment; `#ff8800` begins none. A text `-` says nothing, for a choice that adds nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flux_mcp.compose.files import PackFiles, TextFile

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""What packs, subjects, variables and choices may be called."""
NAME_RULE = "Use lower-case letters, digits, - and _, at most 64, a letter or digit first."
NOTHING = "-"

_COMMENT = re.compile(r"\s*#(?:\s|\Z)")
_HEADING = re.compile(r"\[(?P<name>[^\[\]\"]*)\]\s*")


@dataclass(frozen=True)
class Text:
    """A text of a pack, and where it stands."""

    text: str
    """Without comments and surrounding white space; empty where it says nothing."""
    file: str
    lines: tuple[int, ...]
    """For each line of the text, its number in the file."""
    choice: str = ""
    """The choice it belongs to, where its file holds several."""

    @property
    def source(self) -> str:
        """As `Block.source`: `variable_style.txt (noir)`."""
        return f"{self.file} ({self.choice})" if self.choice else self.file

    @property
    def line(self) -> int:
        """The number of its first line."""
        return self.lines[0]

    def line_of(self, offset: int) -> int:
        """Return the number of the line an offset of the text lies in."""
        return self.lines[min(self.text.count("\n", 0, offset), len(self.lines) - 1)]


def read_text(file: TextFile, files: PackFiles) -> Text | None:
    """Return the one text of a file; `None`, with a problem collected, where it has none."""
    text = _text(file.name, 1, file.text.split("\n"))
    if text is None:
        files.complain(file.name, "It has no text.", "Write one, or take the file away.")
    return text


def read_choices(file: TextFile, files: PackFiles) -> dict[str, Text]:
    """Return every choice of a `variable_*.txt` file by its name, in the file's order."""
    choices: dict[str, Text] = {}
    sections = _sections(file.text)
    if sections and not sections[0].name:
        # Only comments may stand above the first heading.
        early = _text(file.name, 1, sections.pop(0).lines)
        if early is not None:
            message = "There is text before the first choice."
            mend = "Put a heading such as [plain] above it."
            files.complain(file.name, message, mend, line=early.line)
    if not sections:
        mend = "Write [name], and below it the choice's text."
        files.complain(file.name, "It has no choices.", mend)
    for section in sections:
        text = _text(file.name, section.line + 1, section.lines, section.name)
        problem = _problem_of(section, text, choices)
        if problem is not None:
            files.complain(file.name, *problem, line=section.line)
        elif text is not None:
            choices[section.name] = text
    return choices


def _problem_of(
    section: "_Section", text: Text | None, before: dict[str, Text]
) -> tuple[str, str] | None:
    if not NAME.fullmatch(section.name):
        return f"'{section.name}' cannot be the name of a choice.", NAME_RULE
    if section.name in before:
        line = before[section.name].line
        message = f"The choice '{section.name}' is there already: its text is on line {line}."
        return message, "Rename one of the two, or take it out."
    if text is None:
        message = f"The choice '{section.name}' has no text."
        return message, f"Write one, or {NOTHING} alone for one that says nothing."
    return None


@dataclass(frozen=True)
class _Section:
    """The lines below a heading; those above the first one have no name."""

    name: str
    line: int
    lines: list[str]


def _sections(text: str) -> list[_Section]:
    sections = [_Section("", 0, [])]
    for number, line in enumerate(text.split("\n"), start=1):
        found = _HEADING.fullmatch(line)
        if found is None:
            sections[-1].lines.append(line)
        else:
            sections.append(_Section(found["name"].strip() or line.strip(), number, []))
    return sections


def _text(file: str, first: int, lines: Sequence[str], choice: str = "") -> Text | None:
    """Return the lines as a text, without comments; `None` where no word is left."""
    kept = [
        (number, line) for number, line in enumerate(lines, start=first) if not _COMMENT.match(line)
    ]
    while kept and not kept[0][1].strip():
        kept.pop(0)
    text = "\n".join(line for _, line in kept).strip()
    if not text:
        return None
    numbers = tuple(number for number, _ in kept)[: text.count("\n") + 1]
    return Text("" if text == NOTHING else text, file, numbers, choice)
