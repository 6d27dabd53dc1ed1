"""Which files the weights of a plan are in, and which of them are worth reading ahead.

That is the transformer, nearly all that a change of model costs. Of the other parts only the
fingerprints are taken: a text encoder is seldom needed, and mostly loaded.

Keeps nothing: what is read goes to `FetchedTensors`, what is learned of it to `Fingerprints`.
"""

import logging
from collections.abc import Callable

from flux_mcp.config import Settings
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.fingerprints import Fingerprints
from flux_mcp.pipelines.formats.fetched import FetchedTensors, FileIdentity
from flux_mcp.pipelines.formats.fetching import (
    ARENA_BYTES,
    Buffers,
    available_bytes,
    fetch_file,
    release_pinned,
)
from flux_mcp.pipelines.formats.needs import require_formats
from flux_mcp.pipelines.formats.progress import MB, ReadProgress
from flux_mcp.pipelines.formats.stored import open_checkpoint
from flux_mcp.pipelines.part_files import PartFiles, is_read_by_tensor
from flux_mcp.pipelines.pipeline_files import list_files, part_key
from flux_mcp.pipelines.residency import Residency
from flux_mcp.requests.messages import Weights

logger = logging.getLogger(__name__)


def spec_of(registry: Registry, weights: Weights) -> ModelSpec:
    """Return the row with the revision and the precisions that a plan recorded.

    Raises:
        UnknownModelError: there is no such row.
    """
    row = registry.find(weights.kind, weights.model)
    return row.model_copy(update=weights.model_dump(exclude={"kind", "model"}))


class Fetcher:
    """Reads weights ahead.

    Args:
        registry: The rows.
        settings: The folders, and how small a transformer is not worth it.
        device: Pinned memory is for a CUDA card only.
        residency: Asked what is loaded, never changed.
        fingerprints: Shared with `residency`: what is hashed here need not be hashed there.
        fetched: Where what was read waits.
        available: Returns the bytes of main memory that are free.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        device: Device,
        residency: Residency,
        fingerprints: Fingerprints,
        fetched: FetchedTensors,
        available: Callable[[], int] = available_bytes,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._device = device
        self._residency = residency
        self._fingerprints = fingerprints
        self._fetched = fetched
        self._available = available

    def fetch(
        self, weights: Weights, say: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        """Read what of these weights is not loaded, as far as there is memory.

        Args:
            weights: Of the next job.
            say: Told how far it is, at most four times a second; may raise to stop.
            check: Called after each chunk; may raise to stop.

        Raises:
            FluxMcpError: they are not on this disk, damaged, or not for this device.
            OSError: a file cannot be read.
        """
        spec = spec_of(self._registry, weights)
        require_formats(spec, self._device)
        files = list_files(spec, self._registry, self._settings)
        parts = [part for part in files.parts if part.name != "scheduler"]
        transformer = next(part for part in parts if part.loader == "denoiser")
        size_bytes = sum(path.stat().st_size for path in transformer.files)
        if size_bytes < self._settings.prefetch_min_mb * MB:
            return
        is_known = all(self._fingerprints.knows(path) for path in transformer.files)
        is_loaded = is_known and self._is_loaded(transformer, spec, say)
        if not is_loaded and is_read_by_tensor(transformer):
            progress = ReadProgress(f"loading {transformer.name}", say)
            progress.expect(size_bytes)
            self._read(transformer, progress, check)
        for part in parts:
            self._fingerprints.part(part.folder, part.file, say)
        if self._is_loaded(transformer, spec, say):
            # Under another name: now that it is hashed, it shows.
            self._fetched.clear()
        held = self._fetched.held_bytes
        logger.debug("%s: %d of %d MB read ahead", spec.id, held // MB, size_bytes // MB)

    def let_go(self) -> None:
        """Drop what was read and not taken, and hand its memory back."""
        self._fetched.clear()
        if self._device.kind == "cuda":
            release_pinned()

    def _is_loaded(self, part: PartFiles, spec: ModelSpec, say: Callable[[str], None]) -> bool:
        content = self._fingerprints.part(part.folder, part.file, say)
        return self._residency.holds(part_key(part, spec, content))

    def _read(self, part: PartFiles, progress: ReadProgress, check: Callable[[], None]) -> None:
        is_cuda = self._device.kind == "cuda"
        arena_bytes = ARENA_BYTES if is_cuda else None
        buffers = Buffers(self._available, pin=is_cuda, arena_bytes=arena_bytes)

        def count(read_bytes: int) -> None:
            check()
            progress.add(read_bytes)

        # Named before their headers are read: what is fetched belongs to the header.
        files = {path: FileIdentity.of(path) for path in part.files}
        with open_checkpoint(part.files) as checkpoint:
            entries = checkpoint.entries.values()
        for path, file in files.items():
            own = [entry for entry in entries if entry.path == path]
            is_unknown = not self._fingerprints.knows(path)
            found = fetch_file(file, own, buffers, count, with_sha256=is_unknown)
            if found is None:
                logger.debug("%s changed while it was read ahead", path.name)
                continue
            self._fetched.put(file, found.tensors)
            if found.sha256 is not None:
                self._fingerprints.learn(file, found.sha256)
