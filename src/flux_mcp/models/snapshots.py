"""The hub cache as a downloading process writes it: blobs, links to them, refs.

The layout is huggingface_hub's ("Understand caching" in its documentation), so that its other
programs find what was pulled, and we what they pulled. Owns the links and refs of a repository.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from flux_mcp.models.pulling import HubFile


class RepositoryCache:
    """One repository's folder in the hub cache."""

    def __init__(self, hub: Path, repository: str) -> None:
        self._hub = hub
        self.folder = hub / cache_folder(repository)

    def blob(self, key: str) -> Path:
        """Return where the content with this key lies, or will."""
        return self.folder / "blobs" / key

    def snapshot(self, revision: str) -> Path:
        """Return the folder of a commit."""
        return self.folder / "snapshots" / revision

    def has(self, file: HubFile, revision: str) -> bool:
        """Whether the file is there in its size; its content is not looked at."""
        places = (self.blob(file.key), self.snapshot(revision) / file.path)
        return any(_size(place) == file.size_bytes for place in places)

    def elsewhere(self, file: HubFile) -> Path | None:
        """Return where another repository of this cache has the same content."""
        for other in self._hub.glob(f"models--*/blobs/{file.key}"):
            if _size(other) == file.size_bytes and other != self.blob(file.key):
                return other
        return None

    def borrow(self, file: HubFile) -> bool:
        """Take a blob from another repository of this cache, without using more of the disk.

        FLUX.1 repositories hold the same text encoders and VAE: 10 GB of each. Both names then
        stand for one file, and removing one leaves the other.
        """
        other = self.elsewhere(file)
        if other is None:
            return False
        blob = self.blob(file.key)
        blob.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(other, blob)
        except OSError:  # a file system without hard links: it is downloaded
            return False
        return True

    def link(self, files: Iterable[HubFile], revision: str) -> None:
        """Give every blob its name in the snapshot.

        Raises:
            OSError: the disk refused.
        """
        for file in files:
            pointer, blob = self.snapshot(revision) / file.path, self.blob(file.key)
            if _size(pointer) == file.size_bytes and not blob.is_file():
                continue  # copied there, where links cannot be made
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)
            try:
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except OSError:  # Windows without developer mode
                shutil.move(blob, pointer)

    def point_main_at(self, revision: str) -> None:
        """Record which commit `main` was: whoever names no revision takes this one."""
        ref = self.folder / "refs" / "main"
        ref.parent.mkdir(parents=True, exist_ok=True)
        aside = ref.with_suffix(".tmp")
        aside.write_text(revision, encoding="utf-8")
        aside.replace(ref)


def cache_folder(repository: str) -> str:
    """Return the folder of a repository in the hub cache."""
    return f"models--{repository.replace('/', '--')}"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
