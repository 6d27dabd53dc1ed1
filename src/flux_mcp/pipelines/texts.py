"""The embeddings of prompts: encoded once, then kept in memory and on disk.

`PlanTexts` encodes what a plan needs and the cache does not have. `EmbeddingCache` keeps the last
used in memory; `EmbeddingFiles` keeps more of them in a folder that several processes may share.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_mcp.pipelines.families.family import family_of
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.requests.render_plan import RenderPlan

TextEmbeddings = Mapping[str, Any]
"""Tensors by the names of the pipelines' arguments: `prompt_embeds` (1, tokens, channels), and in
FLUX.1 `pooled_prompt_embeds` (1, channels) of the first encoder."""

SLACK = 16
"""When the folder is full, a 16th of it is freed, and after each 16th that is written the folder is
looked at again for what others wrote: a look costs milliseconds for each thousand files."""
LEFTOVER_S = 3600.0
"""A file that is still being written after this long was left by a process that died."""

_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_PART = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]+\.part")

logger = logging.getLogger(__name__)


# --- on disk -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CachedFile:
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
        """Note that an entry was used now, if it is there."""
        if not self._limit:
            return
        now = time.time_ns()  # the kernel's own clock for files is too coarse to order them
        try:
            os.utime(self._path(key), ns=(now, now))
        except OSError:
            # Removed meanwhile, or another user's: it only counts as older than it is.
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

    def _entries(self) -> Iterator[_CachedFile]:
        """Find every entry, and remove what processes that died left half-written."""
        now = time.time()
        for path in self._folder.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if _ENTRY.fullmatch(path.name):
                yield _CachedFile(path, status.st_size, status.st_mtime_ns)
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


# --- in memory -----------------------------------------------------------------------------------

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
        files: The entries on disk.
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


# --- of a plan -----------------------------------------------------------------------------------


class PlanTexts:
    """The embeddings of one plan's prompts, and of the one it steers away from.

    Args:
        plan: Names the texts, and the tokens each is encoded to.
        resident: Names the encoders; those of another precision or content are others.
        cache: Asked for each text at once, so that nothing is evicted between now and drawing.
        load_encoder: Gives the pipeline that encodes; called once, and only if a text is missing.
    """

    def __init__(
        self,
        plan: RenderPlan,
        resident: Resident,
        cache: EmbeddingCache,
        load_encoder: Callable[[], Any],
    ) -> None:
        negative = steered_from(plan, resident)
        encoders = tuple(resident.text_parts.values())
        self._negative = negative
        self._names = resident.spec.family_spec.embeddings
        self._length = plan.max_sequence_length
        self._cache = cache
        self._keys = {
            text: cache.key(encoders, text, plan.max_sequence_length)
            for text in (*plan.texts, *(() if negative is None else (negative,)))
        }
        looked_up = {text: cache.get(key) for text, key in self._keys.items()}
        self._known = {text: found for text, found in looked_up.items() if found is not None}
        self._missing = [text for text in self._keys if text not in self._known]
        self._encoder = load_encoder() if self._missing else None

    @property
    def negative(self) -> str | None:
        """The text that the plan is steered away from, if any."""
        return self._negative

    def __getitem__(self, text: str, /) -> TextEmbeddings:
        """Return the embeddings of a text, on the CPU; not to be changed."""
        return self._known[text]

    def encode(self, check: Callable[[], None]) -> None:
        """Encode what the cache did not have, and keep it there.

        Args:
            check: Called before each text; may raise to stop.
        """
        while self._missing:
            check()
            text = self._missing[0]
            self._known[text] = encode_text(self._encoder, self._names, text, self._length)
            self._cache.put(self._keys[text], self._known[text])
            del self._missing[0]


def encode_text(
    encoder: Any, names: Sequence[str], text: str, max_sequence_length: int
) -> TextEmbeddings:
    """Return the embeddings of one text, as they came but on the CPU.

    One text at a time: in a batch it would be rounded otherwise.

    Args:
        encoder: Of `Residency.text_encoder`.
        names: What its `encode_prompt` returns before the ids of the tokens, by the pipeline's
            arguments: `embeddings` of a family's record.
        text: Longer ones are cut off: at 77 tokens by the first encoder.
        max_sequence_length: Tokens the second encoder makes of it, padded or cut off.
    """
    import torch

    with torch.no_grad():  # encode_prompt is not decorated, unlike the pipeline's call
        *tensors, _text_ids = encoder.encode_prompt(
            prompt=text,
            device=encoder._execution_device,  # noqa: SLF001 - where hooks put the encoders
            max_sequence_length=max_sequence_length,
        )
    # Copies: what came may be a view into something larger.
    return {
        name: tensor.to("cpu", copy=True).contiguous()
        for name, tensor in zip(names, tensors, strict=True)
    }


def steered_from(plan: RenderPlan, resident: Resident) -> str | None:
    """Return the text that a plan is drawn away from, if any: its negative prompt, or an empty one.

    Which pipelines compare with an empty prompt is for the family to say.
    """
    return family_of(resident.spec).steered_from(plan, resident.pipe)
