"""How the pages are put together."""

from collections.abc import Sequence
from typing import Any

NOTE = "<!-- Written by scripts/build_reference.py from the code: change that, then run it. -->"


def table(*names: str, rows: Any) -> str:
    """Return a table with these columns."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def page(blocks: Sequence[str]) -> str:
    """Return a page of these paragraphs, tables and headings."""
    return "\n\n".join(blocks) + "\n"
