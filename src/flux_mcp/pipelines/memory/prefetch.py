"""Reads the next job's weights into memory while the current one is drawn.

Owns the thread that does so, and which weights were asked for last. A new wish stops the one
before within a chunk, and what was read for that is let go of. Nothing here builds a model, fails a
job or makes one wait for weights that are not its own. What is read is known in fetcher.py.
"""

import logging
import threading
from collections.abc import Callable

from flux_mcp.errors import FluxMcpError
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.loading.checkpoints import FetchedTensors, FileIdentity, open_checkpoint
from flux_mcp.pipelines.loading.fetching import (
    ARENA_BYTES,
    Buffers,
    available_bytes,
    fetch_file,
    release_pinned,
)
from flux_mcp.pipelines.loading.fingerprints import Fingerprints
from flux_mcp.pipelines.loading.part_files import PartFiles, is_read_by_tensor
from flux_mcp.pipelines.loading.pipeline_files import list_files, part_key
from flux_mcp.pipelines.loading.progress import MB, ReadProgress
from flux_mcp.pipelines.loading.quantisers import require_formats
from flux_mcp.pipelines.memory.residency import Residency
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Weights

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
        device: Pinned memory is for a CUDA GPU only.
        residency: Asked what is loaded, never changed.
        fingerprints: Shared with `residency`: what is hashed here need not be hashed there.
        fetched: Where what was read waits.
        available: Returns the bytes of host memory that are free.
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


LOOK_AGAIN_S = 0.25
"""How often a job that waits for its weights says so, and looks whether it was cancelled."""
PATIENCE_S = 1.0
"""A thread that has not stopped by then hangs in a read; what it brings later is not kept."""


class _Superseded(Exception):  # noqa: N818 - no error: something else is wanted now
    """What is being read is not wanted any more."""


class Prefetcher:
    """One thread that reads what was asked for last. What it has read waits in `fetched`."""

    def __init__(self) -> None:
        self.fetched = FetchedTensors()
        self._changed = threading.Condition()
        self._wanted: Weights | None = None
        self._wishes = 0
        self._finished = 0
        self._said = ""

    def start(self, fetcher: Fetcher) -> None:
        """Begin to read what is asked for, and what was already."""
        threading.Thread(target=self._work, args=(fetcher,), name="prefetch", daemon=True).start()

    def ask(self, weights: Weights | None) -> None:
        """Read these weights, instead of those that were asked for before; `None` for nothing.

        Returns at once. The same wish again changes nothing.
        """
        with self._changed:
            if weights != self._wanted:
                self._wanted = weights
                self._wishes += 1
                self._said = ""
                self._changed.notify_all()

    def wait_for(self, weights: Weights | None, report: Callable[[str], None]) -> None:
        """Wait while these weights are being read; return at once if others are, or none.

        Whoever loads them would read the same bytes from the same disk.

        Args:
            weights: Of a job that is to be drawn now; `None`: wait until what was is let go of.
            report: Told how far it is; may raise to stop waiting.
        """
        while True:
            with self._changed:
                if self._wanted != weights or self._finished == self._wishes:
                    return
                self._changed.wait(LOOK_AGAIN_S)
                said = self._said
            report(said)

    def done_with(self, weights: Weights) -> None:
        """Let go of what was read of these weights and not taken: their job has loaded them."""
        if self._wanted == weights:
            self.ask(None)

    def forget(self) -> None:
        """Stop, and let go of everything at once."""
        self.ask(None)
        with self._changed:
            self._changed.wait_for(lambda: self._finished == self._wishes, PATIENCE_S)
        self.fetched.clear()

    def _work(self, fetcher: Fetcher) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finished != self._wishes)
                wish, weights = self._wishes, self._wanted
            self._serve(fetcher, weights, wish)
            with self._changed:
                self._finished = wish
                self._changed.notify_all()

    def _serve(self, fetcher: Fetcher, weights: Weights | None, wish: int) -> None:
        """Let go of what was read before, and read what is wanted; never fails, but logs."""

        def check() -> None:
            if wish != self._wishes:
                raise _Superseded

        def say(message: str) -> None:
            check()
            self._said = message

        try:
            fetcher.let_go()
            if weights is not None:
                logger.debug("reading %s ahead", weights)
                fetcher.fetch(weights, say, check)
        except _Superseded:
            logger.debug("not wanted any more: %s", weights)
        except FluxMcpError as error:
            # The job meets the same error when it is drawn, and tells its caller.
            logger.info("it cannot be read ahead: %s", error.message)
        except Exception:
            logger.exception("reading ahead failed: %s", weights)
