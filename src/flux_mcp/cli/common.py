"""What every command shares: settings from flags, an open service, errors as exit codes."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console

from flux_mcp.config import Settings
from flux_mcp.errors import CapacityError, FluxMcpError, RequestError
from flux_mcp.service import Service

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Gallery, queue, pictures and weights. Else FLUX_MCP_DATA_DIR, else data/ in a "
        "checkout, else the user's data folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

EXIT_ENGINE, EXIT_REQUEST, EXIT_BUSY, EXIT_INTERRUPTED = 1, 2, 3, 130


def read_settings(data_dir: Path | None, **flags: Any) -> Settings:
    """Return the settings of this command: flags over environment over defaults.

    Raises:
        typer.Exit: a value cannot be used; it has been said which.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if data_dir is not None:
        given["data_dir"] = data_dir.expanduser().absolute()
    try:
        return Settings(**given)
    except ValidationError as error:
        console = Console(stderr=True)
        for detail in error.errors(include_url=False):
            name = "_".join(str(part) for part in detail["loc"]).upper()
            console.print(f"FLUX_MCP_{name}: {detail['msg']}", style="red", highlight=False)
        raise typer.Exit(EXIT_REQUEST) from error


def set_up_logging(level: str) -> None:
    """Send our log to stderr; libraries only speak up from warnings on."""
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("flux_mcp").setLevel(level.upper())


@asynccontextmanager
async def opened(settings: Settings, *, executes: bool) -> AsyncIterator[Service]:
    """Give an open service and close it in order."""
    service = Service(settings, executes=executes)
    try:
        await service.open()
        yield service
    finally:
        await service.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command's work; our errors become a sentence on stderr and an exit code."""
    try:
        asyncio.run(work)
    except FluxMcpError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(_exit_code(error)) from error
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _exit_code(error: FluxMcpError) -> int:
    if isinstance(error, RequestError):
        return EXIT_REQUEST
    return EXIT_BUSY if isinstance(error, CapacityError) else EXIT_ENGINE


def print_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """Print a value for programs: exactly the structured content the tools return."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
