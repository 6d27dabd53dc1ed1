"""`flux-mcp models`: which models there are, what is on this disk, and whether it is whole.

`models plan`, `pull`, `adopt` and `verify` are in modules of their own; only `pull` goes online.
"""

from typing import Any

from flux_mcp.cli.common import (
    agree,
    console,
    plain,
    print_facts,
    print_json,
    print_table,
)
from flux_mcp.models.hub.cache import (
    find_snapshot,
    install_hint,
    problem_in_words,
    pull_command,
    state_of_model,
)
from flux_mcp.models.hub.helpers import WHAT_IT_DOES, find_helper
from flux_mcp.models.hub.remove import Removal, disk_bytes, plan_removal, remove
from flux_mcp.models.hub.selection import GIB, licence_page, rows_of, users_of
from flux_mcp.models.registry import KIND_NAMES, ROW_KINDS, HelperSpec, Registry
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.settings import Settings

_STYLES = {"installed": "green", "partial": "yellow", "missing": "dim", "invalid": "red"}


# --- list and info -----------------------------------------------------------------------------


def print_models(settings: Settings, *, as_json: bool) -> None:
    """Print every model."""
    registry = open_registry(settings)
    ids = list(dict.fromkeys(row.id for row in registry))
    models = [_model(registry, model, settings) for model in ids]
    helpers = [_helper(one, registry, settings) for one in registry.helpers.values()]
    if as_json:
        print_json({"models": models, "helpers": helpers, "notices": list(registry.notices)})
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
    print_table(
        ("helper", "on disk", "GiB", "what for", "licence"),
        [
            (
                one["id"],
                one["state"],
                f"{one['disk_gib']:g}",
                WHAT_IT_DOES[one["role"]],
                one["licence"],
            )
            for one in helpers
        ],
        right=("GiB",),
        styles=[_STYLES[one["state"]] for one in helpers],
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
    if model in registry.helpers:
        _print_helper(registry.helpers[model], registry, settings, as_json=as_json)
        return
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


def _helper(spec: HelperSpec, registry: Registry, settings: Settings) -> dict[str, Any]:
    """Return what is known of a helper."""
    found = find_helper(spec, registry, settings)
    return {
        "id": spec.id,
        "title": spec.title,
        "state": "missing" if found is None else "installed",
        "role": spec.role,
        "licence": spec.licence,
        "gated": spec.gated,
        "repository": spec.repository,
        "licence_page": licence_page(spec.repository) if spec.repository else None,
        "needs": spec.needs,
        "extra": spec.extra,
        "disk_gib": spec.disk_gib,
        "folder": None if found is None else str(found.folder),
    }


def _print_helper(
    spec: HelperSpec, registry: Registry, settings: Settings, *, as_json: bool
) -> None:
    found = _helper(spec, registry, settings)
    if found["state"] == "missing":
        found["install"] = f"Run: {pull_command((spec.id,), settings)}."
    if as_json:
        print_json(found)
        return
    shown = {**found, "role": WHAT_IT_DOES[spec.role]}
    shown["gated"] = "yes: accept the licence first" if spec.gated else "no"
    print_facts(shown)


def _kinds(model: dict[str, Any]) -> str:
    kinds = model["kinds"]
    return "all" if set(kinds) == set(ROW_KINDS) else ", ".join(KIND_NAMES[kind] for kind in kinds)


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
