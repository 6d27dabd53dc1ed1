"""A pack's files as text: read within limits, refused with the line. The only reader of them.

The folder of a pack may be a link; what lies in it may not lead out of it.
"""

import codecs
import hashlib
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.compose.positions import position_at
from flux_mcp.compose.problems import Problem

MAX_FILE_BYTES = 64 * 1024
"""Of one file. A prompt has at most 2000 characters; a file of a hundred choices fits easily."""
MAX_FILES = 500
"""In one pack."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class TextFile:
    """A file that could be read."""

    name: str
    """Inside the pack: `subjects/cat.txt`."""
    text: str
    """With plain line feeds."""


class PackFiles:
    """Reads the files of one pack, and collects what is wrong with them.

    Args:
        folder: The pack's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self._read: dict[str, bytes] = {}

    def complain(
        self, name: str, message: str, mend: str, *, line: int = 0, column: int = 0
    ) -> None:
        """Collect an error about a file of the pack; an empty name is the folder itself."""
        self.problems.append(Problem(self._place(name), line, column, message, mend))

    def warn(self, name: str, message: str, mend: str, *, line: int = 0) -> None:
        """Collect a warning about a file of the pack."""
        self.problems.append(Problem(self._place(name), line, 0, message, mend, "warning"))

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
        """Read a file; `None`, with a problem collected, where it cannot be used as text."""
        path = self.folder / name
        try:
            problem = self._refusal(path)
            data = b"" if problem else path.read_bytes()
        except (OSError, RuntimeError) as error:
            # RuntimeError: links in a circle, before Python 3.13.
            why = getattr(error, "strerror", None) or "its links go round in a circle"
            problem = (f"It cannot be read: {why}.", "Make it a file that can be read.")
        if problem is not None:
            self.complain(name, *problem)
            return None
        self._read[name] = data
        return self._decode(name, data)

    def _refusal(self, path: Path) -> tuple[str, str] | None:
        """Return why a file is not even opened, and what to do."""
        if not path.resolve(strict=True).is_relative_to(self.folder.resolve()):
            return (
                "It is a link that leads out of the pack's folder.",
                "Put the file itself into the pack.",
            )
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return "It is not a file.", "Put a text file there, or take it away."
        if about.st_size > MAX_FILE_BYTES:
            return (
                f"It has {about.st_size} bytes and may have at most {MAX_FILE_BYTES}.",
                "Take out what no prompt needs.",
            )
        return None

    def _decode(self, name: str, data: bytes) -> TextFile | None:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self.complain(name, "It is UTF-16, not UTF-8.", "Save it as UTF-8.", line=1)
            return None
        if data.startswith(codecs.BOM_UTF8):
            message = "It begins with a byte order mark."
            self.complain(name, message, "Save it as UTF-8 without BOM.", line=1)
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"It is not UTF-8: byte 0x{data[error.start]:02X} does not belong there."
            line = data.count(b"\n", 0, error.start) + 1
            self.complain(name, message, "Save it as UTF-8.", line=line)
            return None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        found = _CONTROL.search(text)
        if found is not None:
            at = position_at(text, found.start())
            message = f"It has the control character U+{ord(found[0]):04X}."
            mend = "Remove it; line breaks and tabs may stay."
            self.complain(name, message, mend, line=at.line, column=at.column)
            return None
        return TextFile(name, text)
