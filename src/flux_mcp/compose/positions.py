"""Where each key of a JSON text stands, so that a complaint can name its line. Pure.

Only for texts `json.loads` has accepted: then tokens are enough, and no grammar is needed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


@dataclass(frozen=True)
class Position:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass
class Positions:
    """The position of every key and list item, by its path: `("variables", "light", "default")`."""

    text: str
    _offsets: dict[Path, int] = field(default_factory=dict)
    doubled: list[tuple[Path, Position]] = field(default_factory=list)
    """Keys written twice in one object, of which JSON keeps the last; with the second's place."""

    def __post_init__(self) -> None:
        """Walk the tokens once, with the path of every open object and list."""
        path: list[str | int] = []
        is_list: list[bool] = []
        previous = ""
        for found in _TOKEN.finditer(self.text):
            mark = found[0]
            if is_list and is_list[-1] and mark != "]" and previous in ("[", ","):
                path[-1] = int(path[-1]) + 1 if previous == "," else 0
                self._note(path, found.start())
            elif is_list and not is_list[-1] and mark not in "}," and previous in ("{", ","):
                path[-1] = _unquoted(mark)
                self._note(path, found.start())
            if mark in ("{", "["):
                path.append(-1)
                is_list.append(mark == "[")
            elif mark in ("}", "]"):
                path.pop()
                is_list.pop()
            previous = mark

    def _note(self, path: Sequence[str | int], offset: int) -> None:
        key = tuple(path)
        if key in self._offsets:
            self.doubled.append((key, position_at(self.text, offset)))
        self._offsets[key] = offset

    def find(self, path: Path) -> Position:
        """Return the place of a key, or of the nearest one around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._offsets:
                return position_at(self.text, self._offsets[path[:length]])
        return Position(1, 1)


def position_at(text: str, offset: int) -> Position:
    """Return the line and column of an offset."""
    start = text.rfind("\n", 0, offset) + 1
    return Position(text.count("\n", 0, offset) + 1, offset - start + 1)


def _unquoted(key: str) -> str:
    return str(json.loads(key))
