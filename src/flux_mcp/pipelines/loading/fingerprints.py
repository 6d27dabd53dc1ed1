"""The content of a part's files as one SHA-256: equal fingerprints mean equal weights.

Two repositories that have the same text encoder get the same fingerprint, so the encoder is loaded
once for both.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from flux_mcp.pipelines.loading.checkpoints import FileIdentity
from flux_mcp.pipelines.loading.progress import ReadProgress

Report = Callable[[str], None]
"""Called with how much is read of files whose hash is not known yet; may raise to stop."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEVER_LOADED = frozenset({".bin", ".ckpt", ".h5", ".md", ".msgpack", ".onnx", ".pt", ".pth"})
_PROVENANCE_KEYS = frozenset(
    {"_commit_hash", "_diffusers_version", "_name_or_path", "dtype", "torch_dtype"}
    | {"transformers_version"}
)
"""Keys of a config.json that say who saved it, not what it is; the loader names the dtype."""


class Fingerprints:
    """Fingerprints of folders; a file is read once for as long as its size and time stay.

    For several threads: they share only a dict whose entries never change once they are set. At
    worst two of them hash the same file.
    """

    def __init__(self) -> None:
        self._known: dict[FileIdentity, str] = {}

    def folder(self, folder: Path, report: Report = lambda _message: None) -> str:
        """Return the SHA-256 over every file of a part that may be loaded, names included.

        Raises:
            OSError: the folder cannot be read.
        """
        return self._all(folder.name, _in_folder(folder), report)

    def part(
        self, folder: Path, file: Path | None, report: Report, lora: Path | None = None
    ) -> str:
        """Return the SHA-256 of a part: of its folder, or of a file and the folder's config.json.

        Args:
            folder: Describes the part, and holds its weights if `file` does not.
            file: Its weights.
            report: Told how much is read.
            lora: What is merged onto them for good.

        Raises:
            OSError: something cannot be read.
        """
        # Under a fixed name: the same weights in a file of another name are the same.
        named = (
            _in_folder(folder)
            if file is None
            else {"config.json": folder / "config.json", f"weights{file.suffix}": file}
        )
        if lora is not None:
            named["over it"] = lora
        return self._all(folder.name, named, report)

    def knows(self, path: Path) -> bool:
        """Whether a file's hash is known without reading it.

        Raises:
            OSError: it is not there.
        """
        return self._known_sha256(path) is not None

    def learn(self, file: FileIdentity, sha256: str) -> None:
        """Note the SHA-256 of a file of weights that was read elsewhere."""
        self._known[file] = sha256

    def _all(self, name: str, paths: Mapping[str, Path], report: Report) -> str:
        unknown = [path for path in paths.values() if self._known_sha256(path) is None]
        progress = ReadProgress(f"checking {name}", report)
        progress.expect(sum(path.stat().st_size for path in unknown))
        for path in unknown:
            # Identified before it is read: if it changes meanwhile, the new one stays unknown.
            file = FileIdentity.of(path)
            self._known[file] = _hash(path, progress)
        whole = hashlib.sha256()
        for told, path in paths.items():
            whole.update(f"{told}\0{self._known_sha256(path)}\n".encode())
        return whole.hexdigest()

    def _known_sha256(self, path: Path) -> str | None:
        # Blobs of the hub cache that are stored in LFS have their SHA-256 as their name: a 24 GB
        # transformer need not be read (huggingface_hub, "Understand caching").
        blob = path.resolve()
        if _SHA256.fullmatch(blob.name):
            return blob.name
        return self._known.get(FileIdentity.of(path))


def _in_folder(folder: Path) -> dict[str, Path]:
    """Return every file that may be loaded, by its name."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix not in _NEVER_LOADED and path.is_file()
    }


def _hash(path: Path, progress: ReadProgress) -> str:
    if path.name == "config.json":
        return _hash_config(path)
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            content.update(chunk)
            progress.add(len(chunk))
    return content.hexdigest()


_CHUNK_BYTES = 8 * 2**20
"""A cancelled job waits for as much at most: some hundredths of a second."""


def _hash_config(path: Path) -> str:
    """Hash a configuration without the keys that differ between copies of the same weights."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key not in _PROVENANCE_KEYS}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
