"""Tables of cases: one JSON object a line, as docs/audit.md describes them."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

HERE = Path(__file__).resolve().parent
CASES = HERE / "cases.jsonl"


@dataclass(frozen=True)
class Case:
    """A text, what is forbidden, and what of it is really mentioned."""

    text: str
    forbid: tuple[str, ...]
    mentions: tuple[str, ...]
    why: str
    group: str = "all"
    negated: tuple[str, ...] = field(default=())
    """Patterns that stand in the text, negated."""
    quoted: tuple[str, ...] = field(default=())
    """Patterns that stand in the text only as letters to be drawn."""


def read_table(path: Path) -> list[Case]:
    """Read a table; keys it does not know are left alone."""
    known = {one.name for one in fields(Case)}
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        case = Case(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in row.items()
                if key in known
            }
        )
        unknown = {*case.mentions, *case.negated, *case.quoted} - set(case.forbid)
        if unknown:
            raise ValueError(f"{path.name}:{number}: not forbidden: {sorted(unknown)}")
        cases.append(case)
    return cases
