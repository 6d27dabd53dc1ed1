"""What every command shares: settings from flags, an open service, errors as exit codes."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError
from rich.console import Console

from flux_mcp.errors import (
    CapacityError,
    FluxMcpError,
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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

HELP_FLAGS = {"help_option_names": ["-h", "--help"]}
EXIT_ENGINE, EXIT_REQUEST, EXIT_BUSY, EXIT_INTERRUPTED = 1, 2, 3, 130
WIDE = 160
"""Columns where nobody looks at a terminal: a file or a pipe has room for whole prompts."""
_HINTS: dict[type[FluxMcpError], str] = {
    # The hints of these name MCP tools.
    UnknownJobError: "'flux-mcp jobs list --all' shows the jobs there are.",
    UnknownImageError: "'flux-mcp gallery search' shows the images there are.",
}


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
    """Send our log to stderr; libraries only speak up from warnings on."""
    logs.set_up(level, log_format)


@asynccontextmanager
async def opened(settings: Settings, *, executes: bool) -> AsyncIterator["Service"]:
    """Give an open service and close it in order."""
    # The service takes half a second to import, which `--help` need not pay.
    from flux_mcp.service.service import Service

    service = Service(settings, executes=executes)
    try:
        await service.open()
        yield service
    finally:
        await service.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command's work; our errors become a sentence on stderr and an exit code."""
    run_now(lambda: asyncio.run(work))


def run_now(work: Callable[[], None]) -> None:
    """Do the same for work that waits for nothing."""
    try:
        work()
    except FluxMcpError as error:
        hint = _HINTS.get(type(error), error.hint)
        complain(str(type(error)(error.message, hint)))
        raise typer.Exit(_exit_code(error)) from error
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _exit_code(error: FluxMcpError) -> int:
    if isinstance(error, RequestError):
        return EXIT_REQUEST
    return EXIT_BUSY if isinstance(error, CapacityError) else EXIT_ENGINE


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


def print_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """Print a value for programs: exactly the structured content the tools return."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf8, indent=2) + "\n")
    # Here, where a reader that has gone away is dealt with, not when the process ends.
    sys.stdout.flush()
