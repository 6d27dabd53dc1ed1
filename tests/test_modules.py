"""Modules stay short enough for a reader, and for one reason to change."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MAX_LINES = 300
FOLDERS = ("src", "scripts", "benchmarks", "training", "examples", "tests")
LONGER = {
    "src/flux_mcp/errors.py": "one tree: its drawing, and a few lines for each code",
}
"""Modules that are longer, each with its reason."""


def modules() -> dict[str, Path]:
    """Return every module of ours, helpers of tests among them; tests may be longer."""
    found = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]
    return {
        path.relative_to(REPOSITORY).as_posix(): path
        for path in found
        if not path.name.startswith("test_") and "node_modules" not in path.parts
    }


def test_no_module_is_too_long_but_those_that_have_a_reason() -> None:
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in modules().items()}
    assert len(lines) > 200
    longer = {name for name, count in lines.items() if count > MAX_LINES}
    assert longer == set(LONGER)
