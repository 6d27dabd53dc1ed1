"""How often the audit is right about a table: precision, recall, accuracy, by phenomenon.

    python -m tests.compose.audit.figures [TABLE]      a summary, in Markdown
    python -m tests.compose.audit.figures --wrong      and every decision that is wrong

Each forbidden pattern of each row is one decision: mentioned, or not. Precision: of what the audit
finds, how much is really mentioned. Recall: of what is really mentioned, how much it finds.
"""

# ruff: noqa: T201  # it prints what it found

import argparse
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.compose.audit import Forbidden, audit_text
from tests.compose.audit.tables import CASES, Case, read_table


@dataclass(frozen=True)
class Decision:
    """What the audit says about one pattern in one text, and what is so."""

    case: Case
    pattern: str
    found: bool
    meant: bool

    @property
    def kind(self) -> str:
        if self.found:
            return "hit" if self.meant else "false alarm"
        return "miss" if self.meant else "rightly passed"


def decisions(cases: list[Case]) -> list[Decision]:
    """Audit every case."""
    made = []
    for case in cases:
        audit = audit_text(case.text, [Forbidden(pattern) for pattern in case.forbid])
        found = {one.pattern for one in audit.findings if one.code == "forbidden"}
        made.extend(
            Decision(case, pattern, pattern in found, pattern in case.mentions)
            for pattern in case.forbid
        )
    return made


def row(name: str, made: list[Decision]) -> str:
    """Return a line of the summary."""
    count = Counter(one.kind for one in made)
    hits, alarms, misses = count["hit"], count["false alarm"], count["miss"]
    right = hits + count["rightly passed"]
    cells = (
        name,
        str(len(made)),
        _share(hits, hits + alarms),
        _share(hits, hits + misses),
        _share(right, len(made)),
    )
    return f"| {' | '.join(cells)} |"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f} ({part}/{whole})" if whole else "-"


def main() -> int:
    """Print the figures; return 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", type=Path, default=CASES)
    parser.add_argument("--wrong", action="store_true", help="also print what is wrong")
    asked = parser.parse_args()
    made = decisions(read_table(asked.table))
    groups: dict[str, list[Decision]] = defaultdict(list)
    for one in made:
        groups[one.case.group].append(one)
    print("| phenomenon | decisions | precision | recall | accuracy |")
    print("| --- | --- | --- | --- | --- |")
    for name, group in groups.items():
        print(row(name, group))
    print(row("**together**", made))
    if asked.wrong:
        for one in made:
            if one.found != one.meant:
                print(f"{one.kind}: {one.pattern!r} in {one.case.text!r} ({one.case.why})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
