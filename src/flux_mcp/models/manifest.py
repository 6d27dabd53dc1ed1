"""Manifests: what was pulled, so that it can be checked later without the hub.

One JSON file for each repository and revision: `hf-cache/flux-mcp/<org>--<name>@<commit>.json`.
Owns these files, and how a file's content is named: as the hub and its cache do.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from flux_mcp.models.pulling import HubFile
from flux_mcp.paths import Paths

SHA256_DIGITS = 64
_CHUNK_BYTES = 4 * 1024 * 1024


class ManifestFile(BaseModel):
    """One file of a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size_bytes: int
    key: str
    """Its SHA-256 (64 digits), or git's SHA-1 of it (40 digits): what the hub knows it by."""


class Manifest(BaseModel):
    """What a repository held at one commit, of what is drawn with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: str
    revision: str
    endpoint: str
    """The hub or mirror it came from."""
    pulled_at: str
    files: tuple[ManifestFile, ...]


def manifest_path(paths: Paths, repository: str, revision: str) -> Path:
    """Return where the manifest of a revision lies, written or not."""
    return paths.manifests / f"{_flat(repository)}@{revision}.json"


def write_manifest(paths: Paths, manifest: Manifest) -> Path:
    """Write a manifest: aside, then renamed."""
    path = manifest_path(paths, manifest.repository, manifest.revision)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1), encoding="utf-8")
    aside.replace(path)
    return path


def read_manifest(paths: Paths, repository: str, revision: str) -> Manifest | None:
    """Return the manifest of a revision; `None` if there is none that can be read."""
    try:
        text = manifest_path(paths, repository, revision).read_text(encoding="utf-8")
        return Manifest.model_validate_json(text)
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
    """Return the name of a file's content, of the kind that `like` is.

    Args:
        path: The file.
        like: A key: 64 digits ask for the SHA-256, 40 for git's SHA-1 of a blob.
        see: Is called with the number of bytes after each piece that was read.

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


def link_target_name(path: Path) -> str:
    """Return the name of the blob a file of the cache links to: its key, if it was not copied."""
    return path.resolve().name


def _flat(repository: str) -> str:
    return repository.replace("/", "--")
