"""The embedding cache: what the text encoders made of a prompt, so that they need not run again.

Owns the embeddings kept in this process. Those on disk are embedding_files.py's; what a plan asks
for, and running the encoders, are texts.py's.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from flux_mcp.pipelines.embedding_files import EmbeddingFiles, TextEmbeddings

MB = 1_000_000


def embedding_key(
    encoders: Sequence[str], arithmetic: str, text: str, max_sequence_length: int
) -> str:
    """Name an entry: the SHA-256 of everything that decides its bits.

    Args:
        encoders: The text encoders and tokenizers by class, precision and content, always in the
            same order.
        arithmetic: What computes: `device.arithmetic`.
        text: The prompt. It cannot be read from the key, but whoever guesses it can confirm it.
        max_sequence_length: Tokens the second encoder makes of it.
    """
    facts = [list(encoders), arithmetic, text, max_sequence_length]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class EmbeddingCache:
    """Embeddings by key: the last used in memory, more of them on disk.

    Args:
        arithmetic: What computes here: `device.arithmetic`. Part of every key.
        memory_bytes: The most that is kept in memory; 0 keeps nothing there.
        files: The entries on disk; they may be shared with other processes.
    """

    def __init__(self, arithmetic: str, memory_bytes: int, files: EmbeddingFiles) -> None:
        self._arithmetic = arithmetic
        self._limit = memory_bytes
        self._files = files
        self._held: OrderedDict[str, TextEmbeddings] = OrderedDict()
        self._bytes = 0

    @property
    def memory_bytes(self) -> int:
        """What the embeddings in memory take."""
        return self._bytes

    def key(self, encoders: Sequence[str], text: str, max_sequence_length: int) -> str:
        """Name the entry of a text; the arguments are those of `embedding_key`."""
        return embedding_key(encoders, self._arithmetic, text, max_sequence_length)

    def get(self, key: str) -> TextEmbeddings | None:
        """Return an entry, on the CPU. Its tensors are the cache's own: copy before changing."""
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
            self._files.touch(key)
            return held
        found = self._files.read(key)
        if found is not None:
            self._hold(key, found)
        return found

    def put(self, key: str, embeddings: TextEmbeddings) -> None:
        """Keep an entry in memory and on disk, and let go of those unused for longest."""
        self._hold(key, embeddings)
        self._files.write(key, embeddings)

    def forget(self) -> None:
        """Let go of everything in memory; the disk keeps its entries."""
        self._held.clear()
        self._bytes = 0

    def _hold(self, key: str, embeddings: TextEmbeddings) -> None:
        size = size_bytes(embeddings)
        if size > self._limit:
            return
        replaced = self._held.pop(key, None)
        self._bytes += size - (0 if replaced is None else size_bytes(replaced))
        self._held[key] = embeddings
        while self._bytes > self._limit:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= size_bytes(dropped)


def size_bytes(embeddings: Mapping[str, Any]) -> int:
    """Return what the tensors of an entry take: 4.2 MB for 512 tokens of FLUX.1 in bf16."""
    return sum(tensor.nbytes for tensor in embeddings.values())
