"""Manifests: what was downloaded, and the check of files against it without the hub.

One JSON file for each repository and revision: `hf-cache/flux-mcp/<org>--<name>@<commit>.json`. The
content of a file is named as the hub and its cache name it (`content_key`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from flux_mcp.models.hub.cache import cache_folder, find_snapshot
from flux_mcp.models.hub.selection import INDEX, HubFile
from flux_mcp.models.registry import HelperSpec, ModelSpec
from flux_mcp.settings.paths import Paths
from flux_mcp.settings.settings import Settings

SHA256_DIGITS = 64
_CHUNK_BYTES = 4 * 1024 * 1024


class ManifestFile(BaseModel):
    """One file of a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size_bytes: int
    key: str
    """Its SHA-256 (64 digits), or git's SHA-1 of it (40 digits): the hub's name for its content."""


class DownloadManifest(BaseModel):
    """The files of a repository at one commit, as far as they are needed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: str
    revision: str
    endpoint: str
    """The hub or mirror it came from."""
    pulled_at: str
    files: tuple[ManifestFile, ...]


def manifest_path(paths: Paths, repository: str, revision: str) -> Path:
    """Return the path of a revision's manifest, whether it exists or not."""
    return paths.manifests / f"{_flat(repository)}@{revision}.json"


def write_manifest(paths: Paths, manifest: DownloadManifest) -> Path:
    """Write a manifest under another name, then rename it; return its path."""
    path = manifest_path(paths, manifest.repository, manifest.revision)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1), encoding="utf-8")
    aside.replace(path)
    return path


def read_manifest(paths: Paths, repository: str, revision: str) -> DownloadManifest | None:
    """Return the manifest of a revision; `None` if there is none that can be read."""
    try:
        text = manifest_path(paths, repository, revision).read_text(encoding="utf-8")
        return DownloadManifest.model_validate_json(text)
    except (OSError, ValidationError):
        return None


def manifests_of(paths: Paths, repository: str) -> Iterator[Path]:
    """Yield the manifests of every revision of a repository."""
    if paths.manifests.is_dir():
        yield from sorted(paths.manifests.glob(f"{_flat(repository)}@*.json"))


def as_manifest_files(files: tuple[HubFile, ...]) -> tuple[ManifestFile, ...]:
    """Return the hub's files as a manifest keeps them."""
    return tuple(ManifestFile(path=f.path, size_bytes=f.size_bytes, key=f.key) for f in files)


def content_key(path: Path, like: str, see: Callable[[int], None] = lambda _: None) -> str:
    """Return the hash of a file's content, of the same kind as `like`.

    Args:
        path: The file.
        like: A key: 64 digits ask for the SHA-256, 40 for git's SHA-1 of a blob.
        see: Called with the number of bytes after each piece that was read.

    Raises:
        OSError: it cannot be read.
    """
    if len(like) == SHA256_DIGITS:
        digest = hashlib.sha256()
    else:
        # git-scm.com/book, "Git Objects": the type, a space, the size, a null byte, the content.
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            see(len(chunk))
    return digest.hexdigest()


def _flat(repository: str) -> str:
    return repository.replace("/", "--")


# --- checking ------------------------------------------------------------------------------------

_KEY_LENGTHS = (40, 64)


@dataclass(frozen=True)
class WrongFile:
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
        """Of all files, which have to be read."""
        return sum(file.size_bytes for file in self.files)

    def check(self, see: Callable[[int], None]) -> Iterator[WrongFile]:
        """Read every file and yield those that are wrong.

        Args:
            see: Called with the number of bytes after each piece that was read.
        """
        for file in self.files:
            problem = _problem(self.folder / file.path, file, see)
            if problem is not None:
                yield WrongFile(file.path, problem)


def checkable(spec: ModelSpec | HelperSpec, settings: Settings) -> Checkable | None:
    """Return what of `spec` can be checked; `None` if nothing of it was ever downloaded.

    The manifest says which files there should be. Without one, because another program downloaded
    them, the files that exist are compared with the hashes that their blobs in the cache are named
    by.
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


def _revision(spec: ModelSpec | HelperSpec, settings: Settings) -> str | None:
    """Return the revision of `spec` that is used; also where a file of it is missing now."""
    found = find_snapshot(spec, settings) if isinstance(spec, ModelSpec) else None
    if found is not None:
        return found.revision
    if spec.revision is not None or spec.repository is None:
        return spec.revision
    ref = settings.paths.hub / cache_folder(spec.repository) / "refs" / "main"
    try:
        return ref.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _as_cached(folder: Path, spec: ModelSpec | HelperSpec) -> Iterator[ManifestFile]:
    for path in sorted(folder.rglob("*")):
        key = path.resolve().name  # of the blob it links to, if it was not copied
        if path.is_file() and len(key) in _KEY_LENGTHS and set(key) <= set("0123456789abcdef"):
            size_bytes = path.stat().st_size
            name = path.relative_to(folder).as_posix()
            yield ManifestFile(path=name, size_bytes=size_bytes, key=key)
    index = "config.json" if isinstance(spec, HelperSpec) else None if spec.lora else INDEX
    if index is not None and not (folder / index).is_file():
        yield ManifestFile(path=index, size_bytes=0, key="0" * _KEY_LENGTHS[0])


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
