"""Reads the next job's weights into memory while the current one is drawn.

Owns the thread that does so, and which weights were asked for last. A new wish stops the one
before within a chunk, and what was read for that is let go of. Nothing here builds a model, fails a
job or makes one wait for weights that are not its own. What is read is known in fetcher.py.
"""

import logging
import threading
from collections.abc import Callable

from flux_mcp.errors import FluxMcpError
from flux_mcp.pipelines.fetcher import Fetcher
from flux_mcp.pipelines.formats.fetched import FetchedTensors
from flux_mcp.requests.messages import Weights

logger = logging.getLogger(__name__)

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
