"""How far a command is, on stderr, so that programs can read its answer from stdout."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, TaskID

from flux_mcp.cli.common import console


@contextmanager
def progress_on_stderr(*columns: ProgressColumn, lines: int) -> Iterator["CommandProgress"]:
    """Show how far a command is for as long as the block lasts.

    Args:
        columns: Of the bars that a terminal shows; they go away at the end.
        lines: Elsewhere it is a log: so many lines for each thing that goes on; 0 for none.
    """
    out = console(stderr=True)
    if not out.is_terminal:
        yield CommandProgress(out, None, lines)
        return
    with _ProgressBelowImage(*columns, console=out, transient=True) as bars:
        yield CommandProgress(out, bars, lines)


class _ProgressBelowImage(Progress):
    """Bars, and an image above them once there is one."""

    image: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.image is not None:
            yield self.image
        yield from super().get_renderables()


class CommandProgress:
    """Bars on a terminal, else a few lines; made by `progress_on_stderr`."""

    def __init__(self, out: Console, bars: _ProgressBelowImage | None, lines: int) -> None:
        self._out = out
        self._bars = bars
        self._whole: TaskID | None = None
        self._parts: dict[str, TaskID] = {}
        self._done = 0
        self._lines = lines
        self._last: tuple[str | None, int] = (None, 0)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._out.print(text)

    def show_image(self, image: RenderableType) -> None:
        """Show an image above the bar, instead of the one before; nothing where there is no bar."""
        if self._bars is not None:
            self._bars.image = image

    def show(self, what: str, done: int, total: int | None, line: str = "") -> None:
        """Show what goes on and how much of it is done.

        Args:
            what: A word or two.
            done: In steps or bytes, as the columns print them.
            total: `None` where it is not known yet.
            line: How the log says it.
        """
        if self._bars is not None:
            if self._whole is None:
                self._whole = self._bars.add_task(what, total=total)
            self._bars.update(self._whole, description=what, completed=done, total=total)
        elif self._is_due(what, done, total):
            self._last = what, done
            self._out.print(line)

    def advance(self, what: str, total: int, more: int) -> None:
        """Show that so much more of the whole is done."""
        self._done += more
        self.show(what, self._done, total)

    def _is_due(self, what: str, done: int, total: int | None) -> bool:
        if not self._lines or total is None:
            return False
        last, last_done = self._last
        return what != last or done - last_done >= max(1, total / self._lines)

    def show_parts(self, parts: Mapping[str, tuple[int, int]]) -> None:
        """Show a bar for each part that goes on, by name: how much is done, and of how much."""
        if self._bars is None:
            return
        for name in self._parts.keys() - parts.keys():
            self._bars.remove_task(self._parts.pop(name))
        for name, (done, total) in parts.items():
            if name not in self._parts:
                self._parts[name] = self._bars.add_task(name, total=total)
            self._bars.update(self._parts[name], completed=done)
