"""docs/conformance.md and the pins say the same, and the lock names no registry."""

import json
import re
from pathlib import Path

from tests.conformance.scenarios import LEAST_CHECKS

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = REPOSITORY / "tests" / "conformance"
PAGE = (REPOSITORY / "docs" / "conformance.md").read_text(encoding="utf-8")


def package() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((SUITE / "package.json").read_text("utf-8"))
    return found


def test_the_page_names_the_versions_that_are_pinned() -> None:
    for name, version in package()["dependencies"].items():
        assert f"| `{name}` | {version} |" in PAGE


def test_the_page_has_the_counts_that_are_asked_for() -> None:
    for revision, checks in LEAST_CHECKS.items():
        row = rf"\| conformance server \| {revision} \| \d+ \| {checks} \| 0 \|"
        assert re.search(row, PAGE), revision


def test_every_package_is_pinned_exactly_by_its_hash_and_by_no_address() -> None:
    asked = {**package()["dependencies"], **package()["optionalDependencies"]}
    locked = json.loads((SUITE / "package-lock.json").read_text("utf-8"))["packages"]
    for name, version in asked.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    for name, entry in locked.items():
        assert "resolved" not in entry, name
        assert not name or entry["integrity"].startswith("sha512-"), name


def test_what_is_installed_may_run_nothing() -> None:
    assert "ignore-scripts=true" in (SUITE / ".npmrc").read_text("utf-8").splitlines()
