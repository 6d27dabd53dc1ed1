"""What every command shares: flags, settings from flags, an open service, errors, output."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from flux_mcp.errors import (
    CapacityError,
    FluxMcpError,
    InvalidRequestError,
    RequestError,
    SettingsFileError,
    UnknownImageError,
    UnknownJobError,
)
from flux_mcp.observability import logs
from flux_mcp.observability.logs import LogFormat
from flux_mcp.settings.environment import has_width
from flux_mcp.settings.settings import Settings
from flux_mcp.settings.sources import problems_of

if TYPE_CHECKING:
    from flux_mcp.service.service import Service

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Gallery, queue, images and weights. Else FLUX_MCP_DATA_DIR, else as the user's "
        "config.toml says, else data/ in a checkout, else the user's data folder.",
        show_default=False,
    ),
]
ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The configuration file, and no other. Else FLUX_MCP_CONFIG, else config.toml in the "
        "data folder and in the user's folder for configuration.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

HELP_FLAGS = {"help_option_names": ["-h", "--help"]}
EXIT_ENGINE, EXIT_REQUEST, EXIT_BUSY, EXIT_INTERRUPTED = 1, 2, 3, 130
WIDE = 160
"""Columns where nobody looks at a terminal: a file or a pipe has room for whole prompts."""
LEAST_ROOM = 8
"""Columns that a cut text keeps, however narrow the terminal is."""
_HINTS: dict[type[FluxMcpError], str] = {
    # The hints of these name MCP tools.
    UnknownJobError: "'flux-mcp jobs list --all' shows the jobs there are.",
    UnknownImageError: "'flux-mcp gallery search' shows the images there are.",
}


def new_app(*, is_group: bool = False) -> typer.Typer:
    """Return the `app` of a command's module: one command, or a group that prints its help."""
    return typer.Typer(no_args_is_help=is_group, context_settings=HELP_FLAGS, add_completion=False)


# --- settings and service ----------------------------------------------------------------------


def read_settings(data_dir: Path | None, **flags: Any) -> Settings:
    """Return the settings of this command: flags over environment over files over defaults.

    Raises:
        typer.Exit: they cannot be used; it has been said why and where.
    """
    given = given_flags(data_dir, **flags)
    try:
        return Settings(**given)
    except (ValidationError, SettingsError, SettingsFileError) as error:
        for problem in problems_of(error, given):
            complain(problem)
        raise typer.Exit(EXIT_REQUEST) from error


def given_flags(data_dir: Path | None, **flags: Any) -> dict[str, Any]:
    """Return the flags that were given, by the name of their setting."""
    everything = {"data_dir": data_dir, **flags}
    return {name: value for name, value in everything.items() if value is not None}


def set_up_logging(level: str, log_format: LogFormat = "human") -> None:
    """Send the log to stderr: ours from `level` on, that of libraries from warnings on."""
    logs.set_up(level, log_format)


@asynccontextmanager
async def opened(settings: Settings, *, executes: bool) -> AsyncIterator["Service"]:
    """Give an open service and close it in order."""
    # Half a second, which commands without a service need not wait for.
    from flux_mcp.service.service import Service  # noqa: PLC0415

    service = Service(settings, executes=executes)
    try:
        await service.open()
        yield service
    finally:
        await service.close()


# --- running -----------------------------------------------------------------------------------


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command's work; our errors become a sentence on stderr and an exit code."""
    run_now(lambda: asyncio.run(work))


def run_now(work: Callable[[], None]) -> None:
    """Do the same for work that waits for nothing."""
    try:
        work()
    except (FluxMcpError, KeyboardInterrupt) as error:
        raise typer.Exit(report_error(error)) from error


def report_error(error: FluxMcpError | KeyboardInterrupt) -> int:
    """Say on stderr what ended a command; return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    complain(str(type(error)(error.message, _HINTS.get(type(error), error.hint))))
    if isinstance(error, RequestError):
        return EXIT_REQUEST
    return EXIT_BUSY if isinstance(error, CapacityError) else EXIT_ENGINE


def agree(question: str) -> None:
    """Ask on a terminal; where nobody can answer, --yes must have been given.

    Raises:
        InvalidRequestError: nobody can answer.
        typer.Abort: the answer was no.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequestError(
            f"{question} Nobody can be asked here.", "Give --yes to do it without being asked."
        )
    typer.confirm(question, abort=True, err=True)


# --- output ------------------------------------------------------------------------------------


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints what it is given: no markup, no emoji codes, no cut lines."""
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or has_width() else WIDE
    return Console(
        stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True, width=wide
    )


def complain(text: str) -> None:
    """Say on stderr what is wrong."""
    console(stderr=True).print(plain(text), style="red")


def plain(text: str) -> str:
    """Return stored text as one line without characters that a terminal would obey."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they need; the last one is cut where the terminal ends.

    Not Rich's table, which takes from every column alike when there is little room: ids, which the
    next command needs, are never cut or wrapped. Prompts stand last.
    """
    out = console()
    lines = [header, *rows]
    widths = [max(map(cell_len, column)) for column in list(zip(*lines, strict=True))[:-1]]
    room = out.width - sum(widths) - 2 * len(widths)
    for number, (*cells, last) in enumerate(lines):
        fixed = [set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True)]
        line = "  ".join([*fixed, cut_to(room, last)]).rstrip()
        out.print(line, style="bold" if number == 0 else None)


def cut_to(columns: int, text: str) -> str:
    """Return a text cut to so many columns, but to no fewer than `LEAST_ROOM`."""
    cut = Text(text)
    cut.truncate(max(LEAST_ROOM, columns), overflow="ellipsis")
    return cut.plain


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line; long values stay whole, to be copied."""
    width = max(len(name) for name in facts)
    out = console()
    for name, value in facts.items():
        if value not in (None, [], {}, ()):
            out.print(f"{name:<{width}}  {plain(_as_text(value))}")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    return str(value)


def print_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """Print a value for programs: exactly the structured content the tools return."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf8, indent=2) + "\n")
    # Here, where a reader that has gone away is dealt with, not when the process ends.
    sys.stdout.flush()
