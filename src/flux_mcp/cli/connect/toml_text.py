"""An entry in a TOML document: every other table and comment stays as it is; pure."""

from collections.abc import Mapping
from itertools import dropwhile, takewhile
from typing import Any

import tomlkit
from tomlkit.exceptions import ParseError, TOMLKitError

from flux_mcp.errors import InvalidClientFileError


class TomlText:
    """A TOML document with a table of servers.

    Args:
        text: The document; may be empty.
        key: The name of the table in it.

    Raises:
        InvalidClientFileError: it cannot be read, or the table is none; with line and column.
    """

    def __init__(self, text: str, key: str) -> None:
        self._text = text
        self._key = key
        self.data = _read(text)
        if not isinstance(self.data.get(key, {}), dict):
            raise InvalidClientFileError(f"Its '{key}' is not a table.", "Fix it, then retry.")
        self._newline = "\r\n" if "\r\n" in text else "\n"

    @property
    def entries(self) -> Mapping[str, Any]:
        """Every server of the table by its name."""
        table: dict[str, Any] = self.data.get(self._key, {})
        return table

    def with_entry(self, name: str, entry: Mapping[str, Any]) -> str:
        """Return the document with this entry as its last table.

        Raises:
            InvalidClientFileError: the servers are written in a way no table can be added to.
        """
        text = self.without_entry(name)
        gap = self._newline if text.strip() and not text.endswith("\n") else ""
        gap += self._newline if text.strip() and not text.endswith(("\n\n", "\r\n\r\n")) else ""
        new = f"{text}{gap}{self._block(name, entry)}"
        try:
            _read(new)
        except InvalidClientFileError as error:
            raise InvalidClientFileError(
                f"Its '{self._key}' is written in one line, so no table can be added to it.",
                "Write the servers as tables, or add the entry that is shown by hand.",
            ) from error
        return new

    def without_entry(self, name: str) -> str:
        """Return the document without this entry.

        Raises:
            InvalidClientFileError: the entry does not stand in tables of its own.
        """
        if name not in self.entries:
            return self._text
        document = tomlkit.parse(self._text)
        table: Any = document[self._key]
        del table[name]
        start, end = self._gap(tomlkit.dumps(document))
        before, behind = self._text[:start], self._text[end:]
        # tomlkit counts comments above the next table to this one; they are about the next.
        behind = f"{_comments_behind(self._text[start:end])}{behind}"
        if behind or not before.strip():
            return f"{before}{behind}"
        return f"{before.rstrip()}{self._newline}"  # the empty line before it came with it

    def _gap(self, text: str) -> tuple[int, int]:
        """Return from where to where the lines stand that this text lacks."""
        missing = len(self._text) - len(text)
        pairs = zip(self._text, text, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        start = self._text.rfind("\n", 0, same) + 1
        if f"{self._text[:start]}{self._text[start + missing :]}" != text:
            raise InvalidClientFileError(
                "The entry does not stand in tables of its own.", "Change it by hand."
            )
        return start, start + missing

    def _block(self, name: str, entry: Mapping[str, Any]) -> str:
        table = tomlkit.table()
        for field, value in entry.items():
            if isinstance(value, Mapping):
                inline = tomlkit.inline_table()
                inline.update(value)
                table[field] = inline
            else:
                table[field] = value
        servers = tomlkit.table(is_super_table=True)
        servers[name] = table
        document = tomlkit.document()
        document[self._key] = servers
        return tomlkit.dumps(document).replace("\n", self._newline)


def _read(text: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = tomlkit.parse(text).unwrap()
    except ParseError as error:
        reason = str(error).removesuffix(f" at line {error.line} col {error.col}")
        raise InvalidClientFileError(
            f"Line {error.line}, column {error.col}: {reason}.", "Fix it, then retry."
        ) from error
    except TOMLKitError as error:
        raise InvalidClientFileError(f"It is not TOML: {error}.", "Fix it, then retry.") from error
    return data


def _comments_behind(tables: str) -> str:
    """Return the lines at the end that hold nothing but comments, from the first comment on."""
    lines = reversed(tables.splitlines(keepends=True))
    behind = [*takewhile(lambda line: not line.strip() or line.lstrip().startswith("#"), lines)]
    return "".join(dropwhile(lambda line: not line.strip(), reversed(behind)))
