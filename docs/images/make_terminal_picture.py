# ruff: noqa: INP001, S603 - a script, not a package; it starts this project's own command
"""Draw docs/images/demo.svg: what `flux-mcp demo` really prints, as a picture of a terminal.

.venv/bin/python docs/images/make_terminal_picture.py
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).with_name("demo.svg")
WIDTH = 100
# No font is fetched from anywhere: the viewer's own monospace is used.
TEMPLATE = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "Fira Code, ui-monospace, Menlo, Consolas, monospace"
)


def demo_output() -> str:
    """Run the demonstration in a fresh data folder; return what it wrote, colours included."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = str(Path(folder).resolve() / "data")
        # Colours as on a terminal; bars are written once, when they are full, not redrawn.
        environment = {**os.environ, "FORCE_COLOR": "1", "TTY_INTERACTIVE": "0", "COLUMNS": "96"}
        command = [sys.executable, "-m", "flux_mcp", "demo", "--data-dir", data_dir]
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
            text=True,
            encoding="utf-8",
        )
        return done.stdout.replace(data_dir, "data")


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(Text.assemble(("$ ", "green"), ("make demo", "bold")))
    console.print(Text.from_ansi(demo_output()))
    svg = console.export_svg(title="flux-mcp", code_format=TEMPLATE)
    # The bar's glyphs and trailing spaces are all that is left to tidy.
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
