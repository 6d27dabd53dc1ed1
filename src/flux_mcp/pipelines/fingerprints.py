"""What a part's files hold, as one SHA-256: equal fingerprints mean equal weights.

Knows files only, no models. Two repositories that ship the same text encoder get the same
fingerprint, so the encoder is loaded once for both.
"""

import hashlib
import json
import re
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEVER_LOADED = frozenset({".bin", ".ckpt", ".h5", ".md", ".msgpack", ".onnx", ".pt", ".pth"})
_PROVENANCE_KEYS = frozenset(
    {"_commit_hash", "_diffusers_version", "_name_or_path", "dtype", "torch_dtype"}
    | {"transformers_version"}
)
"""Keys of a config.json that say who saved it, not what it is; the loader names the dtype."""


class Fingerprints:
    """Fingerprints of folders; a file is read once for as long as its size and time stay."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}

    def folder(self, folder: Path) -> str:
        """Return the SHA-256 over every file of a part that may be loaded, names included.

        Raises:
            OSError: the folder cannot be read.
        """
        total = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            if path.suffix in _NEVER_LOADED or not path.is_file():
                continue
            name = path.relative_to(folder).as_posix()
            total.update(f"{name}\0{self._file(path)}\n".encode())
        return total.hexdigest()

    def _file(self, path: Path) -> str:
        # Blobs of the hub cache that are stored in LFS carry their SHA-256 as their name: a 24 GB
        # transformer need not be read to be known (huggingface_hub, "Understand caching").
        blob = path.resolve()
        if _SHA256.fullmatch(blob.name):
            return blob.name
        status = blob.stat()
        key = (blob, status.st_size, status.st_mtime_ns)
        if key not in self._known:
            self._known[key] = _hash_config(blob) if path.name == "config.json" else _hash(blob)
        return self._known[key]


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash_config(path: Path) -> str:
    """Hash a configuration without the keys that differ between copies of the same weights."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return _hash(path)
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key not in _PROVENANCE_KEYS}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
