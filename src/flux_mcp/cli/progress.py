"""Progress of a command, on stderr so that its answer can be read by programs.

Owns nothing: what is shown is the command's, where it stands is rich's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from flux_mcp.cli.common import console

Shown = TypeVar("Shown")


@contextmanager
def progress_on_stderr(
    *columns: ProgressColumn,
    bars: Callable[[Progress], Shown],
    lines: Callable[[Console], Shown],
) -> Iterator[Shown]:
    """Show how far something is, for as long as the block lasts.

    Args:
        columns: Of the bars.
        bars: Makes what shows it on a terminal; the bars go away at the end.
        lines: Makes what shows it elsewhere, as a log.

    Yields:
        What `bars` or `lines` made.
    """
    out = console(stderr=True)
    if not out.is_terminal:
        yield lines(out)
        return
    with Progress(*columns, console=out, transient=True) as progress:
        yield bars(progress)
