"""One word for one thing: class names, and words that have a better known one."""

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "flux_mcp"

SAY_INSTEAD = {
    r"\b(?<!model )(?<!its )cards?\b": "GPU",
    r"\bmain memory\b": "host memory; RAM in texts for people",
    r"\bdear(er|est|ly)?\b": "expensive",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\banew\b": "again",
    r"\bhurdles?\b": "access requirement",
    r"\brungs?\b": "fallback step",
    r"\blaid over\b": "merged onto",
    r"\blets? in\b": "admit",
    r"\bOwns nothing\b": "(leave it out)",
    r"\bKnows (not|nothing|neither)\b": "what it imports is checked",
    r"\ba bug of ours\b": "unexpected error",
}
"""What a reader would not search for -> what to say."""

DATA = ("compose/audit/", "models/models.toml", "weights/")
"""Below the package: vocabulary of the audit, and sources that are called so elsewhere."""


def test_a_class_name_is_used_once_in_the_package():
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("pattern", SAY_INSTEAD)
def test_the_package_and_its_documents_use_the_words_of_the_field(pattern: str):
    expression = re.compile(pattern)
    found = []
    for path in [
        *PACKAGE.rglob("*.py"),
        *PACKAGE.rglob("*.toml"),
        *REPOSITORY.glob("docs/**/*.md"),
        REPOSITORY / "README.md",
    ]:
        if any(part in path.as_posix() for part in DATA):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if expression.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}")
    assert not found, f"say: {SAY_INSTEAD[pattern]}\n" + "\n".join(found)


def test_nobody_is_told_to_install_the_distribution_of_a_stranger():
    """That name belongs to somebody else on the package index, whose code a hint would run."""
    theirs = "flux-mcp-server"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    found = []
    for name in listed.stdout.split("\0"):
        path = REPOSITORY / name
        if not path.is_file() or path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if theirs in text:
            found.append(name)
    assert found == []
