"""Reads the next job's weights into host memory while the current one is drawn.

`Prefetcher` is the thread that reads what was asked for last; a new request stops the one before it
within a chunk and drops what that had read. `Fetcher` decides what is read. No model is built here,
no job fails because of it, and none waits for weights that are not its own.
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
        settings: The folders, and the size below which a transformer is not read ahead.
        device: Memory is pinned for a CUDA GPU only.
        residency: Says what is loaded; it is not changed.
        fingerprints: Shared with `residency`: what is hashed here need not be hashed there.
        fetched: Keeps what was read.
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
            say: Called with how far it is, at most four times a second; may raise to stop.
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
            # Loaded for another row: its hash, known by now, says so.
            self._fetched.clear()
        held = self._fetched.held_bytes
        logger.debug("%s: %d of %d MB read ahead", spec.id, held // MB, size_bytes // MB)

    def drop(self) -> None:
        """Drop what was read and not taken, and free its memory."""
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

        # Identified before their headers are read: what is fetched belongs to that header.
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
"""How often a job that waits for its weights reports so and checks whether it was cancelled."""
PATIENCE_S = 1.0
"""A thread that has not stopped by then hangs in a read; what it reads later is not kept."""


class _Superseded(Exception):  # noqa: N818 - no error: something else was asked for
    """What is being read is not wanted any more."""


class Prefetcher:
    """One thread that reads what was asked for last. What it has read waits in `fetched`."""

    def __init__(self) -> None:
        self.fetched = FetchedTensors()
        self._changed = threading.Condition()
        self._wanted: Weights | None = None
        self._requests = 0
        self._finished = 0
        self._said = ""

    def start(self, fetcher: Fetcher) -> None:
        """Start the thread; it reads what is asked for from now on, or was before."""
        threading.Thread(target=self._work, args=(fetcher,), name="prefetch", daemon=True).start()

    def ask(self, weights: Weights | None) -> None:
        """Read these weights instead of those that were asked for before; `None` for nothing.

        Returns at once. Asking for the same weights again changes nothing.
        """
        with self._changed:
            if weights != self._wanted:
                self._wanted = weights
                self._requests += 1
                self._said = ""
                self._changed.notify_all()

    def wait_for(self, weights: Weights | None, report: Callable[[str], None]) -> None:
        """Wait while these weights are being read; return at once if others are, or none.

        Whoever loads them would read the same bytes from the same disk.

        Args:
            weights: Of a job that is to be drawn now; `None`: wait until nothing is kept.
            report: Called with how far it is; may raise to stop waiting.
        """
        while True:
            with self._changed:
                if self._wanted != weights or self._finished == self._requests:
                    return
                self._changed.wait(LOOK_AGAIN_S)
                said = self._said
            report(said)

    def done_with(self, weights: Weights) -> None:
        """Drop what was read of these weights and not taken: their job has loaded them."""
        if self._wanted == weights:
            self.ask(None)

    def forget(self) -> None:
        """Stop, and drop everything at once."""
        self.ask(None)
        with self._changed:
            self._changed.wait_for(lambda: self._finished == self._requests, PATIENCE_S)
        self.fetched.clear()

    def _work(self, fetcher: Fetcher) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finished != self._requests)
                request, weights = self._requests, self._wanted
            self._serve(fetcher, weights, request)
            with self._changed:
                self._finished = request
                self._changed.notify_all()

    def _serve(self, fetcher: Fetcher, weights: Weights | None, request: int) -> None:
        """Drop what was read before and read what is wanted; errors are only logged."""

        def check() -> None:
            if request != self._requests:
                raise _Superseded

        def say(message: str) -> None:
            check()
            self._said = message

        try:
            fetcher.drop()
            if weights is not None:
                logger.debug("reading %s ahead", weights)
                fetcher.fetch(weights, say, check)
        except _Superseded:
            logger.debug("not wanted any more: %s", weights)
        except FluxMcpError as error:
            # The job itself will fail with the same error.
            logger.info("weights cannot be read ahead: %s", error.message)
        except Exception:
            logger.exception("unexpected error while reading weights ahead: %s", weights)
