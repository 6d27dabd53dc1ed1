"""AnalysisProcess: the process that looks at images, started when needed, ended when idle.

Every method blocks: the images of a request are read on a thread, and that thread waits here.
"""

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO, cast

from pydantic import ValidationError

from flux_mcp.errors import EngineUnavailableError, error_of_code
from flux_mcp.jobs.process_fleet import EXIT_PATIENCE_S, open_worker_log, worker_environment
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.analysis import (
    AnalysisAnswer,
    AnalysisRequest,
    NotDone,
    parse_answer,
)
from flux_mcp.worker_protocol.frames import BrokenFrameError, encode, read_frame_blocking

logger = logging.getLogger(__name__)

# -P: the folder the server was started in must not shadow torch or the standard library.
ANALYSIS_COMMAND = (sys.executable, "-P", "-m", "flux_mcp.pipelines.analysis")
IDLE_S = 300.0
"""It ends after so long without a request, to free its memory; the next one starts it again."""
TIMEOUT_S = 600.0
"""For one request: a large model needs a minute on a slow CPU, and its files are read before."""
_LOOK_AGAIN_S = 0.05


class AnalysisProcess:
    """One process, which answers one request at a time.

    Args:
        settings: Its environment is made from these.
        command: Starts it.
        idle_s: How long it is kept without a request.
        timeout_s: How long one request may take.
    """

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str] = ANALYSIS_COMMAND,
        *,
        idle_s: float = IDLE_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._idle_s = idle_s
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._idle: threading.Timer | None = None
        self._is_closed = False

    def ask(
        self, request: AnalysisRequest, image_png: bytes
    ) -> tuple[AnalysisAnswer, Mapping[str, bytes]]:
        """Return the answer to a request about an image, and its blobs.

        Raises:
            FluxMcpError: it cannot be done, as the process says.
            EngineUnavailableError: the process cannot be started, ended, or took too long.
        """
        with self._lock:
            self._stop_timer()
            try:
                answer, blobs = self._ask(request, image_png)
            finally:
                self._start_timer()
        if isinstance(answer, NotDone):
            raise error_of_code(answer.error.code, answer.error.message, answer.error.hint)
        return answer, blobs

    def close(self) -> None:
        """End the process. Requests that are made afterwards are refused."""
        self._is_closed = True
        # A request that is being answered is not waited for; its process may be just starting.
        while not self._lock.acquire(timeout=_LOOK_AGAIN_S):
            process = self._process
            if process is not None:
                process.kill()
        try:
            self._stop_timer()
            self._end()
        finally:
            self._lock.release()

    def _ask(
        self, request: AnalysisRequest, image_png: bytes
    ) -> tuple[AnalysisAnswer, Mapping[str, bytes]]:
        process = self._started()
        stdin, stdout = _pipe(process.stdin), _pipe(process.stdout)
        is_late = threading.Event()

        def end_late() -> None:
            is_late.set()
            process.kill()

        late = threading.Timer(self._timeout_s, end_late)
        late.daemon = True
        late.start()
        try:
            for piece in encode(request.model_dump(mode="json"), {"image": image_png}):
                stdin.write(piece)
            stdin.flush()
            frame = read_frame_blocking(stdout)
            if frame is not None:
                return parse_answer(frame.header), frame.blobs
            why = ""
        except (OSError, ValueError, BrokenFrameError, ValidationError) as error:
            why = f": {error}"
        finally:
            late.cancel()
        self._end()
        if is_late.is_set():
            raise EngineUnavailableError(
                f"Looking at the image took longer than {self._timeout_s:g} s.",
                "Send a smaller image, or describe the mask by a box.",
            )
        raise EngineUnavailableError(
            f"The process that looks at images ended{why}.",
            f"Its messages are in {self._settings.paths.worker_log}.",
        )

    def _started(self) -> "subprocess.Popen[bytes]":
        """Return the process, started if it is not running.

        Raises:
            EngineUnavailableError: it cannot be started.
        """
        if self._is_closed:
            raise EngineUnavailableError("The server ends.", "Ask again when it runs.")
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        try:
            with open_worker_log(self._settings.paths.worker_log) as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=worker_environment(self._settings),
                )
        except OSError as error:
            raise EngineUnavailableError(
                f"The process that looks at images cannot be started: {error}."
            ) from error
        logger.info("analysis process started", extra={"pid": self._process.pid})
        return self._process

    def _end(self) -> None:
        """Close its stdin, which ends an intact process; kill it if it does not end."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            _pipe(process.stdin).close()
        try:
            process.wait(EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _pipe(process.stdout).close()
        logger.info("analysis process ended", extra={"pid": process.pid})

    def _start_timer(self) -> None:
        if self._process is not None and not self._is_closed:
            self._idle = threading.Timer(self._idle_s, self._end_if_idle)
            self._idle.daemon = True
            self._idle.start()

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end_if_idle(self) -> None:
        mine = threading.current_thread()
        with self._lock:
            if self._idle is mine:  # no request has come since
                self._idle = None
                self._end()


def _pipe(stream: object) -> BinaryIO:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return cast("BinaryIO", stream)
