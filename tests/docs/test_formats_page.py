"""docs/models/formats.md has one line for each row of formats.toml, and says what it says."""

from pathlib import Path

from flux_mcp.models.formats import Format, load_formats
from flux_mcp.models.parts import load_parts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models" / "formats.md"


def line(precision: str, row: Format) -> str:
    """Return a row as the page has it."""
    where = "any" if len(row.devices) == 3 else ", ".join(sorted(row.devices))
    held = load_parts().precision[precision]
    if row.devices == {"cuda"}:
        where += f" {held.min_compute}+"
    if row.blocked:
        where = "never"
    elif row.from_file_only:
        where += ", from file"
    cells = (
        f"`{precision}`",
        row.title,
        "" if row.extra is None else f"`{row.extra}`",
        where,
        f"{held.bytes_per_parameter:.2f}",
        row.pixels,
        "yes" if row.takes_loras else "no",
        ", ".join(sorted(row.drawn_on)),
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def test_every_precision_has_its_line_and_no_line_is_stale() -> None:
    page = PAGE.read_text(encoding="utf-8").split("## Precisions")[1].split("\n* *from file*")[0]
    found = [text for text in page.splitlines() if text.startswith("| `")]
    assert found == [line(name, row) for name, row in load_formats().format.items()]
