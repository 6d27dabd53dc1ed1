"""docs/audit.md says what the code does."""

import re
from collections import Counter
from pathlib import Path

from flux_mcp.compose.audit import Forbidden, audit_text
from flux_mcp.compose.audit.mentions import TIME_LIMIT_S
from tests.compose.audit.figures import decisions
from tests.compose.audit.tables import CASES, read_table

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")
UNSEEN = CASES.with_name("unseen.jsonl")
EXAMPLES = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (pass|warn|refuse) \|", PAGE, re.MULTILINE)

RELATED = re.findall(
    r"^\| `([^`]+)` \| `([^`]+)` related \| (pass|warn|refuse) \|", PAGE, re.MULTILINE
)


def test_every_example_of_related_words_is_judged_as_it_says() -> None:
    assert len(RELATED) > 15
    wrong = [
        (text, pattern)
        for text, pattern, verdict in RELATED
        if audit_text(text, [Forbidden(pattern, related=True)]).verdict != verdict
    ]
    assert wrong == []


def test_every_example_is_judged_as_it_says() -> None:
    assert len(EXAMPLES) > 40
    wrong = [
        (text, pattern)
        for text, pattern, verdict in EXAMPLES
        if audit_text(text, [Forbidden(pattern)]).verdict != verdict
    ]
    assert wrong == []


def test_the_figures_of_the_first_table_are_those_of_the_code() -> None:
    made = decisions(read_table(CASES))
    right = sum(one.found == one.meant for one in made)
    (line,) = re.findall(r"^\| `cases.jsonl`.*$", PAGE, re.MULTILINE)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == f"{len(made):,}"
    assert cells[4] == f"{right / len(made):.3f}"


def test_the_figures_of_the_unseen_table_are_those_of_the_code() -> None:
    """Whoever changes the audit measures again, and it stays right where it was not tuned."""
    made = decisions(read_table(UNSEEN))
    kinds = Counter(one.kind for one in made)
    hits, right = kinds["hit"], kinds["hit"] + kinds["rightly passed"]
    precision, recall = hits / (hits + kinds["false alarm"]), hits / (hits + kinds["miss"])
    (line,) = re.findall(r"^\| `unseen.jsonl`.*$", PAGE, re.MULTILINE)
    cells = [cell.strip().split(" ")[0] for cell in line.strip("|").split("|")]
    measured = (precision, recall, right / len(made))
    assert cells[1:] == [str(len(made)), *(f"{share:.3f}" for share in measured)]
    assert min(precision, recall) > 0.95


def test_the_time_limit_is_the_one_named() -> None:
    assert f"{TIME_LIMIT_S:g} s" in PAGE
