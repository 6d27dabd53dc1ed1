"""`flux-mcp import`: files that the person names, brought in one after another.

They may lie anywhere: who types the command may read them. Callers over MCP reach none of this.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from flux_mcp.cli.common import (
    EXIT_ENGINE,
    STDIN,
    complain,
    console,
    opened,
    plain,
    print_json,
)
from flux_mcp.cli.jobs import print_notices
from flux_mcp.errors import FluxMcpError, InvalidRequestError
from flux_mcp.images.references import read_path
from flux_mcp.service.answers import UploadAnswer
from flux_mcp.settings.settings import Settings


async def print_imported(settings: Settings, files: Sequence[Path], *, as_json: bool) -> None:
    """Bring files in and print their ids; those that cannot be used are said.

    Raises:
        StorageError: the data folder cannot be used.
        typer.Exit: not all could be used.
    """
    brought: list[UploadAnswer] = []
    failed: list[dict[str, Any]] = []
    async with opened(settings, executes=False) as service:
        for file in files:
            try:
                data = await asyncio.to_thread(_read, file, settings.max_image_bytes)
                name = None if str(file) == STDIN else file.name
                answer = await service.intake.bring_in(data, name=name, source="import")
            except FluxMcpError as error:
                failed.append({"file": str(file), "error": _as_json(error)})
                complain(f"{file}: {error}")
                continue
            brought.append(answer)
            if not as_json:
                console().print(f"{answer.id}  {plain(answer.name or STDIN)}")
                print_notices(answer.notices)
    if as_json:
        print_json({"images": [one.model_dump(mode="json") for one in brought], "failed": failed})
    if failed:
        raise typer.Exit(EXIT_ENGINE)


def _read(file: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file; one more than there may be, if there are more.

    Raises:
        InvalidRequestError: there is none, or it is a folder.
        InvalidImageError: it cannot be read, or is too large.
    """
    if str(file) == STDIN:
        return sys.stdin.buffer.read(max_bytes + 1)
    try:
        # Links resolved: what is opened is what the person named.
        path = file.expanduser().resolve(strict=True)
        is_folder = path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidRequestError(f"There is no file {plain(str(file))}.", "Check it.") from error
    if is_folder:
        raise InvalidRequestError(
            f"{plain(str(file))} is a folder.", "Name its files, as in FOLDER/*.png."
        )
    return read_path(path, (path.parent,), max_bytes)


def _as_json(error: FluxMcpError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}
