"""`flux-mcp demo`: the demonstration of server/demo.py with bars, a table, a sheet of images."""

from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from flux_mcp.cli.common import (
    console,
    plain,
    print_json,
)
from flux_mcp.errors import StorageError
from flux_mcp.gallery.files import write_whole
from flux_mcp.gallery.previews import strip_png
from flux_mcp.server.demo import STORY, Chapter, tell_story
from flux_mcp.service.answers import DemoAnswer, JobAnswer
from flux_mcp.settings.installation import command_path
from flux_mcp.settings.settings import Settings

CELL_PX = 256
"""Twice the images' own side: large enough to be seen, and nothing is shown finer than it is."""
WITHOUT_WORDS = "like the first image"
_ANOTHER_SHEET = "Name another file with --sheet, in a folder that is there."


async def demonstrate(settings: Settings, sheet: Path | None, *, as_json: bool) -> None:
    """Call each tool that generates, put the images on a sheet, print what was made.

    Raises:
        EngineUnavailableError: a job did not complete; the message says why.
        StorageError: the sheet cannot be written.
    """
    place = (sheet or settings.paths.demo_sheet).absolute()
    if sheet is not None and not place.parent.is_dir():
        # Now, not when every image is made.
        raise StorageError(f"There is no folder {place.parent}.", _ANOTHER_SHEET)
    out = console(stderr=True)
    out.print("Starting the server: flux-mcp serve (stdio)")
    columns = (
        TextColumn("{task.fields[tool]:<16}", style="bold", markup=False),
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out) as progress:
        jobs = await tell_story(settings, _StoryBars(out, progress))
    write_sheet(place, jobs)
    answer = DemoAnswer(jobs=jobs, sheet=str(place))
    if as_json:
        print_json(answer)
    else:
        print_demo(answer)


class _StoryBars:
    """A bar for each call, the finished ones above; the `Watcher` of the story."""

    def __init__(self, out: Console, progress: Progress) -> None:
        self._out = out
        self._progress = progress
        self._bar: TaskID | None = None

    def offered(self, tools: list[str]) -> None:
        self._out.print(f"It offers {len(tools)} tools: {', '.join(tools)}")
        self._out.print("Calling those that generate:")

    def begins(self, chapter: Chapter) -> None:
        self._bar = self._progress.add_task("starting", total=None, tool=chapter.tool)

    def goes_on(self, step: int, total: int | None, message: str) -> None:
        self._update(plain(message), step, total)

    def ended(self, answer: JobAnswer) -> None:
        self._update(answer.status, answer.total_steps, answer.total_steps)

    def _update(self, what: str, step: int, total: int | None) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, description=what, completed=step, total=total)


def write_sheet(place: Path, jobs: tuple[JobAnswer, ...]) -> None:
    """Write the images of the story side by side, each over its tool and what it was told.

    Raises:
        StorageError: an image is gone, or the disk refuses.
    """
    paths = [Path(job.images[0].path) for job in jobs]
    captions = [
        (chapter.tool, job.prompt or WITHOUT_WORDS)
        for chapter, job in zip(STORY, jobs, strict=True)
    ]
    png = strip_png(paths, captions, CELL_PX)
    try:
        write_whole(place, png)
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error.strerror}.", _ANOTHER_SHEET
        ) from error


def print_demo(answer: DemoAnswer) -> None:
    """Print the images, the sheet, how to generate the first again, and the notices."""
    out = console()
    rows = [("tool", "seconds", "prompt", "image")]
    for chapter, job in zip(STORY, answer.jobs, strict=True):
        image = job.images[0]
        prompt = plain(image.prompt) or f"({WITHOUT_WORDS})"
        rows.append((chapter.tool, f"{image.seconds:.1f}", prompt, image.path))
    # Paths stand last and are never cut, so that they can be copied.
    widths = [max(len(row[n]) for row in rows) for n in range(3)]
    out.print()
    for number, (tool, seconds, prompt, path) in enumerate(rows):
        facts = f"{tool:<{widths[0]}}  {seconds:>{widths[1]}}  {prompt:<{widths[2]}}  {path}"
        out.print(facts, style=None if number else "bold")
    out.print("\nAll of them side by side:", style="bold")
    out.print(f"  {answer.sheet}", style="bold green")
    out.print("\nThe first image again:", style="bold")
    first = answer.jobs[0].images[0]
    out.print(
        f'  {command_path("flux-mcp")} generate "{first.prompt}" --model {first.model} '
        f"--seed {first.seed} --width {first.width} --height {first.height}"
    )
    out.print()
    # The others say the same of their own kinds; doctor lists them all.
    for notice in answer.jobs[0].notices:
        console(stderr=True).print(f"Note: {plain(notice)}", style="yellow")
    out.print(f"What suits this machine: {command_path('flux-mcp')} doctor")
