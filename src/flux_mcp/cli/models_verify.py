"""`flux-mcp models verify`: read every file of the weights and compare its hash."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

from flux_mcp.cli.common import (
    EXIT_ENGINE,
    complain,
    console,
    plain,
    print_json,
)
from flux_mcp.cli.progress import progress_on_stderr
from flux_mcp.errors import InvalidRequestError, WeightsMissingError
from flux_mcp.models.hub.cache import install_hint, pull_command
from flux_mcp.models.hub.manifest import Checkable, WrongFile, checkable
from flux_mcp.models.hub.selection import GIB, comes_from, rows_of
from flux_mcp.models.registry import HelperSpec, ModelSpec
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.settings import Settings


def print_verified(settings: Settings, model: str | None, *, as_json: bool) -> None:
    """Check the weights of a model, or of all that are here, and print what is wrong.

    Raises:
        UnknownModelError: there is no such model.
        InvalidRequestError: it comes with the package.
        WeightsMissingError: nothing of it is here.
        typer.Exit: a file is wrong.
    """
    snapshots = _checkables(settings, model)
    results: list[tuple[Checkable, list[WrongFile]]] = []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    total_bytes = sum(one.size_bytes for one in snapshots)
    with progress_on_stderr(*columns, lines=0) as progress:
        for one in snapshots:
            see = partial(progress.advance, one.repository, total_bytes)
            results.append((one, list(one.check(see))))
    if as_json:
        print_json({"snapshots": [_checked_as_json(one, wrong) for one, wrong in results]})
    else:
        for one, wrong in results:
            _print_checked(one, wrong)
        if not results:
            console().print("No weights were pulled: there is nothing to verify.")
    if any(wrong for _, wrong in results):
        if not as_json:
            complain("Download the wrong files again: 'flux-mcp models pull' with the same models.")
        raise typer.Exit(EXIT_ENGINE)


def _checkables(settings: Settings, model: str | None) -> list[Checkable]:
    registry = open_registry(settings)
    rows: Sequence[ModelSpec | HelperSpec]
    if model is None:
        rows = [*registry, *registry.helpers.values()]
    elif model in registry.helpers:
        rows = [registry.helpers[model]]
    else:
        rows = rows_of(registry, model)
    if model is not None and all(row.repository is None for row in rows):
        raise InvalidRequestError(
            f"{model} {comes_from(rows[0])}: there is nothing to compare it with.",
            "Name a model that was pulled.",
        )
    found = {(row.repository, row.revision): checkable(row, settings) for row in rows}
    snapshots = [one for one in found.values() if one is not None]
    if model is not None and not snapshots:
        first = rows[0]
        raise WeightsMissingError(
            f"The weights of {model} are not on this machine.",
            install_hint(first, settings)
            if isinstance(first, ModelSpec)
            else f"Run: {pull_command((first.id,), settings)}.",
        )
    return snapshots


def _checked_as_json(one: Checkable, wrong: list[WrongFile]) -> dict[str, Any]:
    return {
        "repository": one.repository,
        "revision": one.revision,
        "folder": str(one.folder),
        "files": len(one.files),
        "size_bytes": one.size_bytes,
        "has_manifest": one.has_manifest,
        "wrong": [{"path": item.path, "problem": item.problem} for item in wrong],
    }


def _print_checked(one: Checkable, wrong: list[WrongFile]) -> None:
    out = console()
    size = f"{one.size_bytes / GIB:.2f} GiB"
    if not wrong:
        how = "" if one.has_manifest else ", by the names of the cache: it was not pulled by us"
        out.print(f"{one.repository}: {len(one.files)} files, {size}: right{how}", style="green")
        return
    out.print(f"{one.repository}: {len(wrong)} of {len(one.files)} files are wrong", style="red")
    for item in wrong:
        out.print(f"  {plain(item.path)}: {item.problem}")
