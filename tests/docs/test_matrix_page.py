"""docs/clients/matrix.md is what the stored results say, and these are of the pinned clients."""

import json
import re
from typing import Any

from tests.clients.install import HERE, client_rows, pinned_version
from tests.clients.matrix import PAGE, RESULTS, matrix_page

FRAMEWORKS = PAGE.with_name("frameworks.md")
RESULT_TEXT = RESULTS.read_text(encoding="utf-8")
FACTS: dict[str, dict[str, Any]] = {
    one["client"]: one for one in json.loads(RESULT_TEXT)["clients"]
}


def test_the_page_is_what_the_results_say() -> None:
    """If this fails: make clients."""
    assert PAGE.read_text(encoding="utf-8") == matrix_page(RESULT_TEXT)


def test_the_results_are_of_the_pinned_versions() -> None:
    for row in client_rows():
        assert FACTS[row.id]["version"] == pinned_version(row), row.id


def test_every_python_client_is_pinned_to_the_last_package() -> None:
    for row in client_rows():
        if row.requires:
            locked = row.lock.read_text(encoding="utf-8").splitlines()
            assert all(re.match(r"[\w.\[\]-]+==[^ ]+( ;|$)", line) for line in locked), row.id
            for asked in row.requires:
                name, version = re.sub(r"\[.*\]", "", asked).split("==")
                assert any(re.match(rf"{name}==({version})( |$)", line) for line in locked), asked


def test_the_lock_of_npm_names_no_registry_and_nothing_runs_while_it_is_installed() -> None:
    locked = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert not [name for name, entry in locked.items() if "resolved" in entry]
    assert "ignore-scripts=true" in (HERE / ".npmrc").read_text("utf-8").splitlines()


def test_the_page_of_frameworks_says_what_was_seen_of_each_example() -> None:
    text = FRAMEWORKS.read_text(encoding="utf-8")
    examples = {row.program: row for row in client_rows() if row.program.startswith("examples/")}
    for program, row in examples.items():
        assert f"({'../../' + program})" in text, program
        image = FACTS[row.id]["image"]
        path = "yes" if image["path"] else "no"
        assert f"| {row.title} | {image['pixels']} | {path} |" in text, row.title
