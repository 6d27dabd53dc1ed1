"""docs/clients/behaviour.md names tests that exist, and leaves none of them out."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "clients" / "behaviour.md"
PLAYS = REPOSITORY / "tests" / "e2e" / "clients"
ASIDE = {
    # What the others rest on, rather than what a client does.
    "test_a_call_that_loses_patience_ends_with_a_timeout",
    "test_nothing_of_this_is_an_error_of_the_server",
    "test_a_server_told_to_end_as_soon_as_it_listens_ends",
}


def test_every_cell_names_tests_that_exist_and_every_test_has_a_cell() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    there = {
        node.name
        for path in PLAYS.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        and node.name.startswith("test_")
    }
    assert named <= there, named - there
    assert there - ASIDE <= named, there - ASIDE - named
