"""`flux-mcp models`: which models there are, what is on this disk, and whether it is whole.

`models plan`, `models pull` and `models adopt` are in modules of their own; only `pull` goes
online.
"""

from functools import partial
from typing import Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

from flux_mcp.cli.common import (
    EXIT_ENGINE,
    agree,
    complain,
    console,
    plain,
    print_facts,
    print_json,
    print_table,
)
from flux_mcp.cli.progress import progress_on_stderr
from flux_mcp.errors import InvalidRequestError, WeightsMissingError
from flux_mcp.models.hub.cache import find_snapshot, install_hint, problem_in_words, state_of_model
from flux_mcp.models.hub.manifest import Checkable, WrongFile, checkable
from flux_mcp.models.hub.remove import Removal, disk_bytes, plan_removal, remove
from flux_mcp.models.hub.selection import GIB, comes_from, licence_page, rows_of, users_of
from flux_mcp.models.registry import KIND_NAMES, KINDS, Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.settings import Settings

_STYLES = {"installed": "green", "partial": "yellow", "missing": "dim", "invalid": "red"}


# --- list and info -----------------------------------------------------------------------------


def print_models(settings: Settings, *, as_json: bool) -> None:
    """Print every model."""
    registry = open_registry(settings)
    ids = list(dict.fromkeys(row.id for row in registry))
    models = [_model(registry, model, settings) for model in ids]
    if as_json:
        print_json({"models": models, "notices": list(registry.notices)})
        return
    print_table(
        ("model", "on disk", "GiB", "kinds", "licence"),
        [
            (
                model["id"],
                model["state"],
                f"{model['disk_gib']:g}",
                _kinds(model),
                model["licence"],
            )
            for model in models
        ],
        right=("GiB",),
        styles=[_STYLES[model["state"]] for model in models],
    )
    for model in models:
        if model["problem"]:
            console(stderr=True).print(plain(f"{model['id']}: {model['problem']}"), style="red")
    for notice in registry.notices:
        console(stderr=True).print(plain(notice), style="yellow")
    console().print("'flux-mcp models info MODEL' says more, 'flux-mcp models pull MODEL' gets it.")


def print_model(settings: Settings, model: str, *, as_json: bool) -> None:
    """Print one model.

    Raises:
        UnknownModelError: there is none with that id.
    """
    registry = open_registry(settings)
    found = _model(registry, model, settings)
    row = rows_of(registry, model)[0]
    if found["state"] in ("partial", "missing"):
        found["install"] = install_hint(row, settings)
    if as_json:
        print_json(found)
        return
    shown = {**found, "kinds": _kinds(found), "used_by": ", ".join(found["used_by"])}
    shown["gated"] = "yes: accept the licence first" if found["gated"] else "no"
    print_facts(shown)


def _kinds(model: dict[str, Any]) -> str:
    kinds = model["kinds"]
    return "all" if set(kinds) == set(KINDS) else ", ".join(KIND_NAMES[kind] for kind in kinds)


def _model(registry: Registry, model: str, settings: Settings) -> dict[str, Any]:
    """Return what is known of a model; its state is that of its least complete row."""
    rows = rows_of(registry, model)
    first = rows[0]
    repositories = dict.fromkeys(row.repository for row in rows if row.repository)
    snapshot = find_snapshot(first, settings)
    used = sum(disk_bytes(repository, settings) for repository in repositories)
    return {
        "id": model,
        "title": first.title,
        "state": state_of_model(model, registry, settings),
        "problem": problem_in_words(rows, settings),
        "kinds": [row.kind for row in rows],
        "licence": first.licence,
        "gated": first.gated,
        "repository": ", ".join(repositories) or None,
        "licence_page": licence_page(first.repository) if first.repository else None,
        "revision": snapshot.revision if snapshot else first.revision,
        "is_pinned": first.revision is not None,
        "base": first.base,
        "used_by": [u for r in repositories for u in users_of(registry, r) if u != model],
        "disk_gib": first.disk_gib,
        "used_gib": round(used / GIB, 2),
        "vram_gib": ", ".join(f"{how} {gib:g}" for how, gib in first.vram_gib.items()),
        "folder": str(snapshot.folder) if snapshot else None,
    }


# --- verify ------------------------------------------------------------------------------------


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
    rows = list(registry) if model is None else rows_of(registry, model)
    if model is not None and all(row.repository is None for row in rows):
        raise InvalidRequestError(
            f"{model} {comes_from(rows[0])}: there is nothing to compare it with.",
            "Name a model that was pulled.",
        )
    found = {(row.repository, row.revision): checkable(row, settings) for row in rows}
    snapshots = [one for one in found.values() if one is not None]
    if model is not None and not snapshots:
        raise WeightsMissingError(
            f"The weights of {model} are not on this machine.", install_hint(rows[0], settings)
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


# --- remove ------------------------------------------------------------------------------------


def remove_model(settings: Settings, model: str, *, is_agreed: bool, as_json: bool) -> None:
    """Delete the weights of a model, after asking.

    Raises:
        UnknownModelError: there is no such model.
        InvalidRequestError: it comes with the package, or nobody agreed.
        DownloadRunningError: a download runs.
        StorageError: the disk refused.
    """
    registry = open_registry(settings)
    planned = plan_removal(model, registry, settings)
    if planned.repositories and not is_agreed:
        agree(f"Delete {', '.join(planned.repositories)}, {planned.freed_bytes / GIB:.2f} GiB?")
    removed = remove(model, registry, settings) if planned.repositories else planned
    if as_json:
        print_json(_removal_as_json(removed))
        return
    for kept in removed.kept:
        console().print(
            f"{kept.repository} stays: {', '.join(kept.users)} needs it. Remove that first.",
            style="yellow",
        )
    for repository in removed.repositories:
        console().print(f"{repository} is removed.")
    if removed.repositories:
        console().print(f"{removed.freed_bytes / GIB:.2f} GiB are free again.")
    elif not removed.kept:
        console().print(f"Nothing of {model} is on this machine.")


def _removal_as_json(removal: Removal) -> dict[str, Any]:
    return {
        "model": removal.model,
        "removed": list(removal.repositories),
        "kept": [{"repository": one.repository, "used_by": one.users} for one in removal.kept],
        "freed_bytes": removal.freed_bytes,
    }
