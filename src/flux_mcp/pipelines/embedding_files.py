"""Embeddings on disk: one safetensors file for each entry, bounded, shared by processes.

Owns the files below `cache/embeddings/`: `<two digits of the key>/<key>.safetensors`. Their times
say when they were last used. Written aside and renamed, so no process sees half a file; everything
may be deleted at any time. A disk that refuses costs a warning, never a picture.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TextEmbeddings = Mapping[str, Any]
"""Tensors by the names of the pipelines' arguments: `prompt_embeds` (1, tokens, channels) of the
second encoder, `pooled_prompt_embeds` (1, channels) of the first."""

SLACK = 16
"""When the folder is full, a 16th of it is freed, and after each 16th that is written the folder is
looked at again for what others wrote: a look costs milliseconds for each thousand files."""
LEFTOVER_S = 3600.0
"""A file that is still being written after this long was left by a process that died."""

_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_PART = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]+\.part")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: int
    used_ns: int


class EmbeddingFiles:
    """The entries of one folder.

    Args:
        folder: Made when the first entry is written.
        limit_bytes: The most that the entries take; 0 switches the disk off. While several
            processes write at once, each may exceed it by a 16th until it looks again.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._known_bytes: int | None = None
        """What the entries took at the last look, and what was written since."""
        self._written_bytes = 0
        """Since the last look."""

    def read(self, key: str) -> TextEmbeddings | None:
        """Return an entry and note that it was used; `None` if there is none.

        A file that is damaged, or is no entry of this key, is removed.
        """
        if not self._limit:
            return None
        path = self._path(key)
        try:
            embeddings = _decode(key, _read(path, self._limit))
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("the embedding cache cannot be read: %s", error)
            return None
        except ValueError as error:
            logger.warning("removing %s, which is no entry of the cache: %s", path, error)
            _remove(path)
            return None
        self.touch(key)
        return embeddings

    def write(self, key: str, embeddings: TextEmbeddings) -> None:
        """Write an entry, after removing those unused for longest where there is no room."""
        if not self._limit:
            return
        data = _encode(key, embeddings)
        if len(data) > self._limit:
            return
        path = self._path(key)
        part = path.with_name(f".{key}.{secrets.token_hex(4)}.part")
        try:
            if not self._make_room(len(data)):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the embedding cache cannot be written, drawing goes on: %s", error)
            self._known_bytes = None
            return
        self.touch(key)

    def touch(self, key: str) -> None:
        """Note that an entry was used just now, if it is there."""
        if not self._limit:
            return
        now = time.time_ns()  # the kernel's own clock for files is too coarse to order them
        try:
            os.utime(self._path(key), ns=(now, now))
        except OSError:
            # Removed meanwhile, or not ours to touch: it only counts as older than it is.
            logger.debug("cannot note the use of %s", key, exc_info=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"

    def _make_room(self, needed: int) -> bool:
        """Return whether `needed` bytes fit now, and count them."""
        known, written = self._known_bytes, self._written_bytes + needed
        if known is None or known + needed > self._limit or written > self._limit // SLACK:
            known, written = self._evict(needed), needed
        fits = known + needed <= self._limit  # else files that cannot be removed are in the way
        self._known_bytes, self._written_bytes = (known + needed, written) if fits else (None, 0)
        return fits

    def _evict(self, needed: int) -> int:
        """Remove the longest unused until `needed` bytes fit; return what the rest takes."""
        entries = sorted(self._entries(), key=lambda entry: entry.used_ns)
        total = sum(entry.size for entry in entries)
        if total + needed <= self._limit:
            return total
        goal = max(0, self._limit - self._limit // SLACK - needed)
        for entry in entries:
            if total <= goal:
                break
            if _remove(entry.path):
                total -= entry.size
        return total

    def _entries(self) -> Iterator[_Entry]:
        """Find every entry, and remove what processes that died left half-written."""
        now = time.time()
        for path in self._folder.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if _ENTRY.fullmatch(path.name):
                yield _Entry(path, status.st_size, status.st_mtime_ns)
            elif _PART.fullmatch(path.name) and now - status.st_mtime > LEFTOVER_S:
                _remove(path)


def _remove(path: Path) -> bool:
    """Remove a file; return whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", path, error)
        return False
    return True


def _read(path: Path, limit_bytes: int) -> bytes:
    if path.stat().st_size > limit_bytes:
        raise ValueError("larger than the whole cache may be")
    return path.read_bytes()


def _encode(key: str, embeddings: TextEmbeddings) -> bytes:
    from safetensors.torch import save

    data: bytes = save(dict(embeddings), {"sha256": _digest(key, embeddings)})
    return data


def _decode(key: str, data: bytes) -> TextEmbeddings:
    """Read an entry's file.

    Raises:
        ValueError: it is damaged, or not what was written for this key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Any] = load(data)
        # `load` has checked the header (8 bytes of length, then JSON), but does not hand it out.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        promised = header["__metadata__"]["sha256"]
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"not readable ({type(error).__name__})") from error
    if _digest(key, tensors) != promised:
        raise ValueError("not the bytes that were written")
    return tensors


def _digest(key: str, tensors: TextEmbeddings) -> str:
    """Return the SHA-256 over key, names, types, shapes and bytes: safetensors has no checksum."""
    import torch

    total = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy())
    return total.hexdigest()
