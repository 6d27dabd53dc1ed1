"""Removing weights from the disk, but for what other models need."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.errors import InvalidRequestError, StorageError
from flux_mcp.models.hub.cache import cache_folder, hold_download_lock, state_of
from flux_mcp.models.hub.helpers import find_helper
from flux_mcp.models.hub.manifest import manifests_of
from flux_mcp.models.hub.selection import comes_from, rows_of, users_of
from flux_mcp.models.registry import HelperSpec, ModelSpec, Registry
from flux_mcp.settings.settings import Settings

_REMOVED = ".removed"
"""Ends the name of a folder whose removal has begun."""


@dataclass(frozen=True)
class Kept:
    """A repository that is kept."""

    repository: str
    users: tuple[str, ...]
    """Ids of the models on disk that need it."""


@dataclass(frozen=True)
class Removal:
    """What removing a model deletes."""

    model: str
    repositories: tuple[str, ...]
    kept: tuple[Kept, ...]
    freed_bytes: int
    """Files that another repository has too, by a hard link, free nothing."""


def plan_removal(model: str, registry: Registry, settings: Settings) -> Removal:
    """Return what `remove` would delete.

    Raises:
        UnknownModelError: the model is not in the registry.
        InvalidRequestError: it comes with the package, or lies in the user's own files.
    """
    rows: Sequence[ModelSpec | HelperSpec] = (
        [registry.helpers[model]] if model in registry.helpers else rows_of(registry, model)
    )
    if all(row.repository is None for row in rows):
        raise InvalidRequestError(
            f"{model} {comes_from(rows[0])} and is not removed by itself.",
            "Remove a model that was pulled: 'flux-mcp models list' shows them.",
        )
    here = {row.id for row in registry if state_of(row, settings) == "installed"}
    here |= {
        one.id
        for one in registry.helpers.values()
        if find_helper(one, registry, settings) is not None
    }
    gone: list[str] = []
    kept: list[Kept] = []
    for repository in dict.fromkeys(row.repository for row in rows if row.repository):
        folder = settings.paths.hub / cache_folder(repository)
        others = tuple(u for u in users_of(registry, repository) if u != model and u in here)
        if not folder.is_dir():
            continue
        if others:
            kept.append(Kept(repository, others))
        else:
            gone.append(repository)
    freed = sum(_freed_bytes(settings.paths.hub / cache_folder(name)) for name in gone)
    return Removal(model, tuple(gone), tuple(kept), freed)


def remove(model: str, registry: Registry, settings: Settings) -> Removal:
    """Delete a model's weights; return what was deleted.

    Raises:
        DownloadRunningError: a download is running.
        StorageError: the disk refused.
    """
    with hold_download_lock(settings.paths):
        removal = plan_removal(model, registry, settings)
        try:
            for left in settings.paths.hub.glob(f"models--*{_REMOVED}"):
                shutil.rmtree(left)
            for repository in removal.repositories:
                folder = settings.paths.hub / cache_folder(repository)
                # Renamed first: a removal that is interrupted leaves no incomplete model.
                aside = folder.with_name(f"{folder.name}{_REMOVED}")
                folder.rename(aside)
                for manifest in manifests_of(settings.paths, repository):
                    manifest.unlink(missing_ok=True)
                shutil.rmtree(aside)
        except OSError as error:
            raise StorageError(
                f"The weights of {model} cannot be removed: {error.strerror}.",
                "Look at the permissions of the data folder, and end servers that draw with them.",
            ) from error
        return removal


def disk_bytes(repository: str, settings: Settings) -> int:
    """Return what a repository takes on disk, partial downloads too."""
    blobs = settings.paths.hub / cache_folder(repository)
    try:
        return sum(path.stat().st_size for path in _own_files(blobs))
    except OSError:  # it cannot be read: what it takes is not known
        return 0


def _freed_bytes(folder: Path) -> int:
    sizes = [path.stat() for path in _own_files(folder)]
    return sum(status.st_size for status in sizes if status.st_nlink == 1)


def _own_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
