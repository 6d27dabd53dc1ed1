"""The files of a pack as text, read within limits. All other modules read a pack through this one.

`PackFiles` reads a file and collects what is wrong with it, with the line; `read_text` and
`read_choices` understand the text files. A pack's folder may be a link; files in it may not be
links that lead out of it.
"""

import codecs
import hashlib
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.compose.problems import PackProblem

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""The form of the names of packs, subjects, variables and choices."""
NAME_RULE = "Use lower-case letters, digits, - and _, at most 64, a letter or digit first."
NOTHING = "-"
"""The whole text of a choice that adds nothing to the prompt."""
MAX_FILE_BYTES = 64 * 1024
"""Of one file: enough for a hundred choices."""
MAX_FILES = 500
"""In one pack."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")
_COMMENT = re.compile(r"\s*#(?:\s|\Z)")
_HEADING = re.compile(r"\[(?P<name>[^\[\]\"]*)\]\s*")


@dataclass(frozen=True)
class TextFile:
    """The text of a file of a pack."""

    name: str
    """Its path inside the pack: `subjects/cat.txt`."""
    text: str
    """With line feeds only."""


class PackFiles:
    """Reads the files of one pack, and collects what is wrong with them.

    Args:
        folder: The pack's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[PackProblem] = []
        self._read: dict[str, bytes] = {}

    def add_error(
        self, name: str, message: str, fix: str, *, line: int = 0, column: int = 0
    ) -> None:
        """Add an error about a file of the pack; an empty name is the folder itself."""
        self.problems.append(PackProblem(self._place(name), line, column, message, fix))

    def add_warning(self, name: str, message: str, fix: str, *, line: int = 0) -> None:
        """Add a warning about a file of the pack."""
        self.problems.append(PackProblem(self._place(name), line, 0, message, fix, "warning"))

    def _place(self, name: str) -> str:
        return f"{self.folder.name}/{name}" if name else self.folder.name

    @property
    def digest(self) -> str:
        """SHA-256 over every file that was read, with its name and length."""
        whole = hashlib.sha256()
        for name in sorted(self._read):
            whole.update(f"{name}:{len(self._read[name])}:".encode())
            whole.update(self._read[name])
        return whole.hexdigest()

    def read(self, name: str) -> TextFile | None:
        """Read a file; `None`, with an error added, where it cannot be used as text."""
        path = self.folder / name
        try:
            problem = self._refusal(path)
            data = b"" if problem else path.read_bytes()
        except (OSError, RuntimeError) as error:
            # RuntimeError: links in a circle, before Python 3.13.
            why = getattr(error, "strerror", None) or "its links form a circle"
            problem = (f"It cannot be read: {why}.", "Make it a file that can be read.")
        if problem is not None:
            self.add_error(name, *problem)
            return None
        self._read[name] = data
        return self._decode(name, data)

    def _refusal(self, path: Path) -> tuple[str, str] | None:
        """Return why a file is not opened, and what to do; `None` if it may be opened."""
        if not path.resolve(strict=True).is_relative_to(self.folder.resolve()):
            return (
                "It is a link that leads out of the pack's folder.",
                "Put the file itself into the pack.",
            )
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return "It is not a file.", "Replace it by a text file, or remove it."
        if about.st_size > MAX_FILE_BYTES:
            return (
                f"It has {about.st_size} bytes and may have at most {MAX_FILE_BYTES}.",
                "Remove what no prompt needs.",
            )
        return None

    def _decode(self, name: str, data: bytes) -> TextFile | None:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self.add_error(name, "It is UTF-16, not UTF-8.", "Save it as UTF-8.", line=1)
            return None
        if data.startswith(codecs.BOM_UTF8):
            message = "It begins with a byte order mark."
            self.add_error(name, message, "Save it as UTF-8 without BOM.", line=1)
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"It is not UTF-8: byte 0x{data[error.start]:02X} is invalid there."
            line = data.count(b"\n", 0, error.start) + 1
            self.add_error(name, message, "Save it as UTF-8.", line=line)
            return None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        found = _CONTROL.search(text)
        if found is not None:
            at = position_at(text, found.start())
            message = f"It has the control character U+{ord(found[0]):04X}."
            fix = "Remove it; line breaks and tabs may stay."
            self.add_error(name, message, fix, line=at.line, column=at.column)
            return None
        return TextFile(name, text)


@dataclass(frozen=True)
class Position:
    """Line and column, both from 1."""

    line: int
    column: int


def position_at(text: str, offset: int) -> Position:
    """Return the line and column of an offset."""
    start = text.rfind("\n", 0, offset) + 1
    return Position(text.count("\n", 0, offset) + 1, offset - start + 1)


# --- text files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A text of a pack, and its place in the files."""

    text: str
    """Without comments and surrounding white space; empty where it adds nothing."""
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
        files.add_error(file.name, "It has no text.", "Write one, or remove the file.")
    return text


def read_choices(file: TextFile, files: PackFiles) -> dict[str, Text]:
    """Return every choice of a `variable_*.txt` file by its name, in the file's order."""
    choices: dict[str, Text] = {}
    sections = _sections(file.text)
    if sections and not sections[0].name:
        # Only comments may be above the first heading.
        early = _text(file.name, 1, sections.pop(0).lines)
        if early is not None:
            message = "There is text before the first choice."
            fix = "Put a heading such as [plain] above it."
            files.add_error(file.name, message, fix, line=early.line)
    if not sections:
        fix = "Write [name], and below it the choice's text."
        files.add_error(file.name, "It has no choices.", fix)
    for section in sections:
        text = _text(file.name, section.line + 1, section.lines, section.name)
        problem = _problem_of(section, text, choices)
        if problem is not None:
            files.add_error(file.name, *problem, line=section.line)
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
        message = f"The choice '{section.name}' exists already: its text is on line {line}."
        return message, "Rename or remove one of the two."
    if text is None:
        message = f"The choice '{section.name}' has no text."
        return message, f"Write one, or {NOTHING} alone for a choice that adds nothing."
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
