"""Whether the files of a model are still what was pulled, without the hub. Reads files only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.config import Settings
from flux_mcp.models.manifest import (
    ManifestFile,
    content_key,
    link_target_name,
    read_manifest,
)
from flux_mcp.models.pulling import INDEX
from flux_mcp.models.registry import ModelSpec
from flux_mcp.models.snapshots import cache_folder
from flux_mcp.models.weights import find_snapshot

_KEY_LENGTHS = (40, 64)


@dataclass(frozen=True)
class Wrong:
    """One file that is not what it should be."""

    path: str
    problem: str


@dataclass(frozen=True)
class Checkable:
    """A snapshot and what its files should be."""

    repository: str
    revision: str
    folder: Path
    files: tuple[ManifestFile, ...]
    has_manifest: bool

    @property
    def size_bytes(self) -> int:
        """What has to be read."""
        return sum(file.size_bytes for file in self.files)

    def check(self, see: Callable[[int], None]) -> Iterator[Wrong]:
        """Read every file and yield those that are wrong.

        Args:
            see: Is called with the number of bytes after each piece that was read.
        """
        for file in self.files:
            problem = _problem(self.folder / file.path, file, see)
            if problem is not None:
                yield Wrong(file.path, problem)


def checkable(spec: ModelSpec, settings: Settings) -> Checkable | None:
    """Return what of `spec` can be checked; `None` if nothing of it was ever pulled.

    With a manifest, that says what should be there. Without (another program downloaded it), what
    is there is compared with the names the hub cache gave it: its blobs are named by their hashes.
    """
    if spec.repository is None:
        return None
    revision = _revision(spec, settings)
    if revision is None:
        return None
    folder = settings.paths.hub / cache_folder(spec.repository) / "snapshots" / revision
    manifest = read_manifest(settings.paths, spec.repository, revision)
    files = tuple(_as_cached(folder, spec)) if manifest is None else manifest.files
    return Checkable(spec.repository, revision, folder, files, manifest is not None)


def _revision(spec: ModelSpec, settings: Settings) -> str | None:
    """Return the revision `spec` draws with; also where a file of it has gone since."""
    found = find_snapshot(spec, settings)
    if found is not None:
        return found.revision
    if spec.revision is not None or spec.repository is None:
        return spec.revision
    ref = settings.paths.hub / cache_folder(spec.repository) / "refs" / "main"
    try:
        return ref.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _as_cached(folder: Path, spec: ModelSpec) -> Iterator[ManifestFile]:
    for path in sorted(folder.rglob("*")):
        key = link_target_name(path)
        if path.is_file() and len(key) in _KEY_LENGTHS and set(key) <= set("0123456789abcdef"):
            size_bytes = path.stat().st_size
            name = path.relative_to(folder).as_posix()
            yield ManifestFile(path=name, size_bytes=size_bytes, key=key)
    if not (spec.lora or (folder / INDEX).is_file()):
        yield ManifestFile(path=INDEX, size_bytes=0, key="0" * _KEY_LENGTHS[0])


def _problem(path: Path, file: ManifestFile, see: Callable[[int], None]) -> str | None:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != file.size_bytes:
            return f"it has {size_bytes} bytes, not {file.size_bytes}"
        found = content_key(path, file.key, see)
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None if found == file.key else f"its hash is {found}, not {file.key}"
