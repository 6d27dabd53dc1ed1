"""An entry in a JSON or JSONC document: every other byte stays as it is; pure.

The standard library's decoder reads the values and says where each ends; here are only the
members of two objects, the document and its table of servers. In JSONC, comments and trailing
commas are blanked before reading, so that every offset, and every line and column of a mistake,
is that of the file. Of the packages on the index none edits in place: json-five and the like print
a document again, and tree-sitter-json knows no trailing commas (looked at on 2026-11-21).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_mcp.errors import InvalidClientFileError

_STRING = r'"(?:[^"\\]|\\.)*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING = re.compile(rf"{_STRING}|(?<=[^\s,\[{{])(\s*),(?=\s*[}}\]])")
_SPACE = re.compile(r"[ \t\r\n]*")
_INDENT = "  "

_Edit = tuple[int, int, str]
"""From, to, and what stands there instead."""


@dataclass(frozen=True)
class _Member:
    key: str
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class _Object:
    """Where an object stands: the offsets of its braces, its members, whether a comma trails."""

    opening: int
    closing: int
    members: tuple[_Member, ...]
    trailing_comma: bool

    def find(self, key: str) -> _Member | None:
        """Return the member of this name.

        Raises:
            InvalidClientFileError: there are two: readers differ in which one counts.
        """
        found = [member for member in self.members if member.key == key]
        if len(found) > 1:
            raise InvalidClientFileError(f"It has the key '{key}' twice.", "Remove one of them.")
        return found[0] if found else None


class JsonText:
    """A JSON document with a table of servers.

    Args:
        text: The document; may be empty.
        key: The name of the table in it.
        comments: Whether comments and trailing commas are allowed (JSONC).

    Raises:
        InvalidClientFileError: it cannot be read, or the table is none; with line and column.
    """

    def __init__(self, text: str, key: str, *, comments: bool) -> None:
        self._text = text
        self._key = key
        self._bare = _COMMENT.sub(_blanked, text) if comments else text
        self._plain = _TRAILING.sub(_without_comma, self._bare) if comments else text
        self.data = self._read()
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def _read(self) -> dict[str, Any]:
        if not self._plain.strip():
            return {}
        try:
            data = json.loads(self._plain, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise InvalidClientFileError(
                f"Line {error.lineno}, column {error.colno}: {error.msg}.", "Fix it, then retry."
            ) from error
        except (ValueError, RecursionError) as error:
            raise InvalidClientFileError(
                f"It is not JSON: {error}.", "Fix it, then retry."
            ) from error
        if not isinstance(data, dict):
            raise InvalidClientFileError("It is JSON, but not an object.", "Fix it, then retry.")
        if not isinstance(data.get(self._key, {}), dict):
            raise InvalidClientFileError(
                f"Its '{self._key}' is not an object.", "Fix it, then retry."
            )
        return data

    @property
    def entries(self) -> Mapping[str, Any]:
        """Every server of the table by its name."""
        table: dict[str, Any] = self.data.get(self._key, {})
        return table

    def with_entry(self, name: str, entry: Mapping[str, Any]) -> str:
        """Return the document with this entry, in place of the one of the same name or last."""
        if not self._plain.strip():
            head = f"{self._text.rstrip()}{self._newline}" if self._text.strip() else ""
            return f"{head}{self._dumped({self._key: {name: entry}}, '', _INDENT)}{self._newline}"
        root = self._object_at(_SPACE.match(self._plain).end())  # type: ignore[union-attr]
        table = root.find(self._key)
        if table is None:
            return self._with_edits(self._insert(root, root, self._key, {name: entry}))
        servers = self._object_at(table.value)
        old = servers.find(name)
        if old is None:
            return self._with_edits(self._insert(root, servers, name, entry))
        unit = self._unit(root) if self._is_spread(servers) else None
        new = self._dumped(entry, self._line_indent(old.start), unit)
        return self._with_edits([(old.value, old.end, new)])

    def without_entry(self, name: str) -> str:
        """Return the document without this entry.

        A table that becomes empty goes too, where it stands last in a document that holds other
        things: there the entry will have brought it.
        """
        if name not in self.entries:
            return self._text
        root = self._object_at(_SPACE.match(self._plain).end())  # type: ignore[union-attr]
        table = root.find(self._key)
        assert table is not None  # noqa: S101  (its entry was just seen)
        servers = self._object_at(table.value)
        servers.find(name)
        is_last_table = len(root.members) > 1 and root.members[-1] is table
        inside = self._text[servers.opening + 1 : servers.closing]
        has_comments = inside != self._bare[servers.opening + 1 : servers.closing]
        if len(servers.members) > 1 or has_comments:
            return self._with_edits(self._cut(servers, name))
        if is_last_table:
            return self._with_edits(self._cut(root, self._key))
        return self._with_edits([(servers.opening + 1, servers.closing, "")])

    # --- where things are ------------------------------------------------------------------------

    def _object_at(self, opening: int) -> _Object:
        """Find the members of the object whose brace stands there; the text was read before."""
        decoder = json.JSONDecoder()
        members: list[_Member] = []
        place = self._next(opening + 1)
        while self._plain[place] != "}":
            start = place
            key, place = decoder.raw_decode(self._plain, start)
            value = self._next(self._next(place) + 1)
            _, end = decoder.raw_decode(self._plain, value)
            members.append(_Member(key, start, value, end))
            place = self._next(end)
            if self._plain[place] == ",":
                place = self._next(place + 1)
        behind = self._bare[members[-1].end : place] if members else ""
        return _Object(opening, place, tuple(members), "," in behind)

    def _next(self, place: int) -> int:
        found = _SPACE.match(self._plain, place)
        assert found is not None  # noqa: S101  (the pattern matches nothing, too)
        return found.end()

    def _is_spread(self, one: _Object) -> bool:
        """Tell whether the members of an object stand on lines of their own."""
        return bool(one.members) and "\n" in self._text[one.opening : one.members[0].start]

    def _unit(self, root: _Object) -> str:
        """Return one step of indentation, as the document has it."""
        return (
            self._line_indent(root.members[0].start) or _INDENT
            if self._is_spread(root)
            else _INDENT
        )

    def _line_indent(self, place: int) -> str:
        line = self._text[self._text.rfind("\n", 0, place) + 1 : place]
        return line[: len(line) - len(line.lstrip(" \t"))]

    # --- edits -----------------------------------------------------------------------------------

    def _insert(self, root: _Object, into: _Object, key: str, value: Any) -> list[_Edit]:
        """Add a member behind the last one, in the style of the members before it."""
        unit = self._unit(root)
        shown = json.dumps(key, ensure_ascii=False)
        if into.members:
            last = into.members[-1]
            spread = self._is_spread(into)
            indent = self._line_indent(into.members[0].start)
            new = f"{shown}: {self._dumped(value, indent, unit if spread else None)}"
            # Behind the last comment, so that it stays with what it is about.
            behind = last.end + len(self._text[last.end : into.closing].rstrip())
            between = self._text[last.end : behind]
            gap = f"{self._newline}{indent}" if spread or "//" in between else " "
            if into.trailing_comma:
                return [(behind, behind, f"{gap}{new},")]
            return [(last.end, behind, f",{between}{gap}{new}")]
        inside = self._text[into.opening + 1 : into.closing]
        if root.members and not self._is_spread(root) and not inside.strip():
            new = f"{shown}: {self._dumped(value, '', None)}"
            return [(into.opening + 1, into.closing, new)]
        outer = self._line_indent(into.opening)
        new = f"{shown}: {self._dumped(value, outer + unit, unit)}"
        behind = into.opening + 1 + len(inside.rstrip())
        return [(behind, into.closing, f"{self._newline}{outer}{unit}{new}{self._newline}{outer}")]

    def _cut(self, out_of: _Object, key: str) -> list[_Edit]:
        """Take a member out, with the space before it and one comma; comments stay."""
        member = next(one for one in out_of.members if one.key == key)
        place = out_of.members.index(member)
        start = len(self._text[: member.start].rstrip())
        is_last = place == len(out_of.members) - 1
        if not is_last or out_of.trailing_comma:
            return [(start, self._bare.index(",", member.end) + 1, "")]
        if not place:
            return [(start, member.end, "")]
        comma = self._bare.index(",", out_of.members[place - 1].end)
        return [(comma, comma + 1, ""), (max(start, comma + 1), member.end, "")]

    def _dumped(self, value: Any, indent: str, unit: str | None) -> str:
        """Write a value on a line that begins with `indent`, lists on one line.

        Without a unit of indentation all of it stands on one line.
        """
        if unit is None or not isinstance(value, Mapping) or not value:
            return json.dumps(value, ensure_ascii=False)
        inner = f"{self._newline}{indent}{unit}"
        shown = ((json.dumps(key, ensure_ascii=False), one) for key, one in value.items())
        members = (f"{inner}{key}: {self._dumped(one, indent + unit, unit)}" for key, one in shown)
        return f"{{{','.join(members)}{self._newline}{indent}}}"

    def _with_edits(self, edits: Sequence[_Edit]) -> str:
        text = self._text
        for start, end, new in sorted(edits, reverse=True):
            text = f"{text[:start]}{new}{text[end:]}"
        return text


def _blanked(found: re.Match[str]) -> str:
    text = found.group()
    return text if text.startswith('"') else re.sub(r"[^\r\n]", " ", text)


def _without_comma(found: re.Match[str]) -> str:
    text = found.group()
    return text if text.startswith('"') else f"{found.group(1)} "


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")
