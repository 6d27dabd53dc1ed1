"""The downloading process: `python -m flux_mcp.models.hub.process DATA_DIR`.

It reads one `PullRequest` from stdin, has the repositories on disk that it names, and writes events
to stdout, one JSON document a line. It is the only process of flux-mcp that goes online, and a
process of its own because the hub's libraries read their settings when they are imported
(`hub_environment`), and so that the token is nowhere else. It holds `download.lock` while it works.

It ends at once when stdin is closed, so that nothing goes on downloading after the command that
started it was killed; what was received stays on disk and is continued by the next process.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not in __all__
    build_hf_headers,
)
from pydantic import BaseModel

from flux_mcp import __version__
from flux_mcp.errors import FluxMcpError, HubError, StorageError, WeightsInvalidError
from flux_mcp.models.hub.cache import RepositoryCache, hold_download_lock
from flux_mcp.models.hub.manifest import (
    DownloadManifest,
    as_manifest_files,
    content_key,
    write_manifest,
)
from flux_mcp.models.hub.messages import (
    FileProgress,
    Listed,
    Pulled,
    PullFailed,
    PullFinished,
    PullOrder,
    PullProgress,
    PullRequest,
)
from flux_mcp.models.hub.selection import INDEX, HubFile, check_disk, needed_files
from flux_mcp.models.hub.transfer import (
    HubToken,
    Patience,
    StoppedError,
    Transfer,
    explain,
    find_token,
    partial_of,
)
from flux_mcp.settings.paths import Paths, ensure_dirs

PROGRESS_EVERY_S = 0.5
AT_ONCE = 3
"""Files received at the same time: enough for most connections, and few for the hub."""
LISTING_TIMEOUT_S = 30.0
SPEED_WINDOW_S = 20.0
"""The speed is that of the last so many seconds: a connection's speed changes."""
MAX_REPORTED_FILES = 8
"""In one message."""
_LEAST_S = 1.0
_COMMIT_DIGITS = 40
_KEY_DIGITS = (40, 64)

T = TypeVar("T")


# --- one request ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RepositoryPlan:
    """One repository whose files are known."""

    order: PullOrder
    revision: str
    files: tuple[HubFile, ...]
    cache: RepositoryCache


class Pull:
    """Carries out one request.

    Args:
        paths: The data folder.
        request: What to have on disk.
        send: Called with each event.
    """

    def __init__(
        self, paths: Paths, request: PullRequest, send: Callable[[BaseModel], None]
    ) -> None:
        self._paths = paths
        self._request = request
        self._send = send
        self._token = find_token()
        self._stop = threading.Event()
        self._patience = Patience(request.tries, request.backoff_s, self._stop)
        self._counter = PullProgressCounter()
        self._headers = build_hf_headers(
            token=self._token.secret if self._token else False,
            library_name="flux-mcp",
            library_version=__version__,
        )

    def run(self) -> None:
        """List, check the disk, download, check every file, write links and manifests.

        Raises:
            FluxMcpError: why it cannot go on.
        """
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="hub") as pool:
            try:
                orders = self._request.orders
                # One after another: two revisions of one repository share files.
                plans = [self._follow([pool.submit(self._list, order)])[0] for order in orders]
                self._check_disk(plans)
                for plan in plans:
                    self._counter.expect(plan.order.repository, plan.files)
                for plan in plans:
                    # Files of equal content have one blob: each is received once.
                    blobs = {file.key: file for file in plan.files}.values()
                    fetched = self._follow([pool.submit(self._fetch, plan, file) for file in blobs])
                    self._finish(plan, sum(fetched))
            finally:
                self._stop.set()

    def _follow(self, futures: "list[Future[T]]") -> list[T]:
        """Wait for all and send progress meanwhile; the first error stops the others."""
        waiting: set[Future[T]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, PROGRESS_EVERY_S, return_when=FIRST_EXCEPTION)
            self._send(self._counter.progress(time.monotonic()))
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors:
                self._stop.set()
                raise next((e for e in errors if not isinstance(e, StoppedError)), errors[0])
        return [future.result() for future in futures]

    # --- listing -------------------------------------------------------------------------------

    def _list(self, order: PullOrder) -> _RepositoryPlan:
        with _explained(order.repository, self._token):
            api = HfApi(token=self._token.secret if self._token else False)
            info = self._patience.call(
                lambda: api.model_info(
                    order.repository,
                    revision=order.revision or constants.DEFAULT_REVISION,
                    files_metadata=True,
                    timeout=LISTING_TIMEOUT_S,
                )
            )
            revision = info.sha or ""
            if not _is_hex(revision, _COMMIT_DIGITS) or order.revision not in (None, revision):
                raise HubError(
                    f"The hub answered with commit '{revision[:40]}' for {order.repository}, not "
                    f"{order.revision or 'a whole one'}.",
                    "A revision in models.toml is a whole commit hash.",
                )
            files = {file.path: file for file in _files_of(info.siblings or [])}
            cache = RepositoryCache(self._paths.hub, order.repository)
            index = files.get(INDEX)
            named = None
            if index is not None:
                plan = _RepositoryPlan(order, revision, (), cache)
                self._fetch(plan, index)
                named = _read_index(plan, index)
            needed = needed_files(order.repository, named, files.values())
        return _RepositoryPlan(order, revision, needed, cache)

    def _check_disk(self, plans: list[_RepositoryPlan]) -> None:
        missing_bytes = 0
        for plan in plans:
            blobs = {file.key: file for file in plan.files}.values()
            lacking = sum(_missing_bytes(plan, file) for file in blobs)
            missing_bytes += lacking
            self._send(
                Listed(
                    model=plan.order.model,
                    revision=plan.revision,
                    files=len(plan.files),
                    size_bytes=sum(file.size_bytes for file in blobs),
                    missing_bytes=lacking,
                )
            )
        free_bytes = shutil.disk_usage(self._paths.hf_cache).free
        place = str(self._paths.hf_cache)
        check_disk(missing_bytes, free_bytes, self._request.reserve_bytes, place)

    # --- files ---------------------------------------------------------------------------------

    def _fetch(self, plan: _RepositoryPlan, file: HubFile) -> int:
        """Have a file on disk, complete and checked; return the bytes that were received for it."""
        repository, blob = plan.order.repository, plan.cache.blob(file.key)

        def see(done_bytes: int) -> None:
            self._counter.see(repository, file, done_bytes)

        if self._stop.is_set():
            raise StoppedError
        received = 0
        if not self._is_here(plan, file):
            with _explained(repository, self._token):
                received = Transfer(
                    file, self._url(plan, file), self._headers, blob, self._patience, see
                ).run()
        self._counter.checked(repository, file)
        return received

    def _url(self, plan: _RepositoryPlan, file: HubFile) -> str:
        return hf_hub_url(plan.order.repository, file.path, revision=plan.revision)

    def _is_here(self, plan: _RepositoryPlan, file: HubFile) -> bool:
        """Whether the file is on disk already, by its hash; a wrong one is deleted."""
        if not plan.cache.has(file, plan.revision) and not plan.cache.borrow(file):
            return False
        blob = plan.cache.blob(file.key)
        place = blob if blob.is_file() else plan.cache.snapshot(plan.revision) / file.path
        self._counter.see(plan.order.repository, file, file.size_bytes)
        if content_key(place, file.key) == file.key:
            return True
        place.unlink()
        return False

    def _finish(self, plan: _RepositoryPlan, downloaded_bytes: int) -> None:
        """Complete the snapshot: first the files, then what refers to them."""
        plan.cache.link(plan.files, plan.revision)
        manifest = DownloadManifest(
            repository=plan.order.repository,
            revision=plan.revision,
            endpoint=constants.ENDPOINT,
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files=as_manifest_files(plan.files),
        )
        write_manifest(self._paths, manifest)
        if plan.order.revision is None:
            plan.cache.point_main_at(plan.revision)
        self._send(
            Pulled(
                model=plan.order.model, revision=plan.revision, downloaded_bytes=downloaded_bytes
            )
        )


@contextmanager
def _explained(repository: str, token: HubToken | None) -> Iterator[None]:
    try:
        yield
    except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled) as error:
        raise explain(error, repository, token) from error


def _files_of(siblings: Iterable[RepoSibling]) -> Iterator[HubFile]:
    for sibling in siblings:
        key = sibling.blob_id if sibling.lfs is None else sibling.lfs.sha256
        if sibling.size is not None and key is not None and _is_hex(key, *_KEY_DIGITS):
            yield HubFile(sibling.rfilename, sibling.size, key)


def _is_hex(text: str, *lengths: int) -> bool:
    return len(text) in lengths and set(text) <= set("0123456789abcdef")


def _read_index(plan: _RepositoryPlan, index: HubFile) -> dict[str, object]:
    blob = plan.cache.blob(index.key)
    place = blob if blob.is_file() else plan.cache.snapshot(plan.revision) / index.path
    try:
        named = json.loads(place.read_text(encoding="utf-8"))
    except ValueError:
        named = None
    if not isinstance(named, dict):
        raise WeightsInvalidError(
            f"{INDEX} of {plan.order.repository} cannot be read.",
            "Choose another revision in models.toml.",
        )
    return named


def _missing_bytes(plan: _RepositoryPlan, file: HubFile) -> int:
    if plan.cache.has(file, plan.revision) or plan.cache.elsewhere(file) is not None:
        return 0
    partial = partial_of(plan.cache.blob(file.key))
    have = partial.stat().st_size if partial.is_file() else 0
    return max(0, file.size_bytes - have)


# --- progress ------------------------------------------------------------------------------------


class PullProgressCounter:
    """Counts the bytes of a request's files, by repository and key; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], HubFile] = {}
        self._done: dict[tuple[str, str], int] = {}
        self._checked: set[tuple[str, str]] = set()
        self._speed = DownloadSpeed()

    def expect(self, repository: str, files: Iterable[HubFile]) -> None:
        """Add files that are to be on disk in the end."""
        with self._lock:
            self._files.update({(repository, file.key): file for file in files})

    def see(self, repository: str, file: HubFile, done_bytes: int) -> None:
        """Note how many bytes of a file there are."""
        with self._lock:
            self._done[repository, file.key] = done_bytes

    def checked(self, repository: str, file: HubFile) -> None:
        """Note that a file is complete and its hash is right."""
        with self._lock:
            self._done[repository, file.key] = file.size_bytes
            self._checked.add((repository, file.key))

    def progress(self, now_s: float) -> PullProgress:
        """Return how far everything is, at a moment of a monotonic clock."""
        with self._lock:
            done = sum(self._done.values())
            total = sum(file.size_bytes for file in self._files.values())
            unfinished = [
                FileProgress(path=file.path, done_bytes=self._done[key], size_bytes=file.size_bytes)
                for key, file in self._files.items()
                if key in self._done and key not in self._checked
            ]
        self._speed.see(now_s, done)
        busy = total > done
        return PullProgress(
            phase="listing" if total == 0 else "downloading" if busy else "verifying",
            done_bytes=done,
            total_bytes=total,
            speed_bytes_s=self._speed.bytes_s if busy else None,
            eta_s=self._speed.left_s(total - done) if busy else None,
            files=tuple(unfinished[:MAX_REPORTED_FILES]),
        )


class DownloadSpeed:
    """Speed over a sliding window."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int]] = deque()

    def see(self, now_s: float, done_bytes: int) -> None:
        """Note how many bytes there are at a moment; moments come in order."""
        if self._moments and done_bytes < self._moments[-1][1]:
            self._moments.clear()  # a wrong file was deleted
        self._moments.append((now_s, done_bytes))
        while self._moments[0][0] < now_s - SPEED_WINDOW_S:
            self._moments.popleft()

    @property
    def bytes_s(self) -> float | None:
        """Bytes a second; `None` in the first second."""
        if not self._moments:
            return None
        (begin_s, begin), (end_s, end) = self._moments[0], self._moments[-1]
        return None if end_s - begin_s < _LEAST_S else (end - begin) / (end_s - begin_s)

    def left_s(self, left_bytes: int) -> float | None:
        """Return the seconds `left_bytes` take at this speed; `None` if nothing comes."""
        speed = self.bytes_s
        return left_bytes / speed if speed else None


# --- the process ---------------------------------------------------------------------------------


def main() -> int:
    """Carry out the request on stdin; return the exit code."""
    # What a library prints must not get between the events.
    events, sys.stdout = sys.stdout.buffer, sys.stderr

    def send(event: BaseModel) -> None:
        events.write(event.model_dump_json().encode() + b"\n")
        events.flush()

    paths = Paths(Path(sys.argv[1]))
    request = PullRequest.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    return 0 if carry_out(paths, request, send) else 1


def carry_out(paths: Paths, request: PullRequest, send: Callable[[BaseModel], None]) -> bool:
    """Carry out a request; return whether it succeeded. The last event says so too."""
    try:
        ensure_dirs(paths)
        with hold_download_lock(paths):
            Pull(paths, request, send).run()
    except FluxMcpError as error:
        send(PullFailed(code=error.code, message=error.message, hint=error.hint))
        return False
    except OSError as error:
        refused = StorageError(
            f"The disk refused: {error.strerror or type(error).__name__}.",
            "Look at its free space and at the permissions of the data folder; what is downloaded "
            "is kept.",
        )
        send(PullFailed(code=refused.code, message=refused.message, hint=refused.hint))
        return False
    send(PullFinished())
    return True


def _end_with_stdin() -> None:
    """End when the process that started this one is gone. Received bytes are on disk already."""
    # Not through the buffer: reading would hold its lock, which the interpreter needs at exit.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
