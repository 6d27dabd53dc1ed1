"""A pull: lists repositories, checks the disk, receives, checks and names every file.

Runs in the downloading process only (hub.py). Owns the threads that receive.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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
from flux_mcp.errors import HubError, WeightsInvalidError
from flux_mcp.models.hub_errors import explain
from flux_mcp.models.hub_messages import (
    Listed,
    Pulled,
    PullOrder,
    PullRequest,
)
from flux_mcp.models.hub_token import HubToken, find_token
from flux_mcp.models.manifest import (
    Manifest,
    as_manifest_files,
    content_key,
    write_manifest,
)
from flux_mcp.models.pulling import INDEX, HubFile, check_disk, needed_files
from flux_mcp.models.snapshots import RepositoryCache
from flux_mcp.models.tally import Tally
from flux_mcp.models.transfer import Patience, StoppedError, Transfer, partial_of
from flux_mcp.paths import Paths

TELL_EVERY_S = 0.5
AT_ONCE = 3
"""Files on their way at the same time: enough to fill most lines, few enough to be a good guest."""
LISTING_TIMEOUT_S = 30.0
_COMMIT_DIGITS = 40
_KEY_DIGITS = (40, 64)

T = TypeVar("T")
Say = Callable[[BaseModel], None]


@dataclass(frozen=True)
class _Plan:
    """One repository whose files are known."""

    order: PullOrder
    revision: str
    files: tuple[HubFile, ...]
    cache: RepositoryCache


class Pull:
    """Does one request."""

    def __init__(self, paths: Paths, request: PullRequest, say: Say) -> None:
        self._paths = paths
        self._request = request
        self._say = say
        self._token = find_token()
        self._stop = threading.Event()
        self._patience = Patience(request.tries, request.backoff_s, self._stop)
        self._tally = Tally()
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
                    self._tally.expect(plan.order.repository, plan.files)
                for plan in plans:
                    # Files of equal content have one blob: each is received once.
                    blobs = {file.key: file for file in plan.files}.values()
                    fetched = self._follow([pool.submit(self._fetch, plan, file) for file in blobs])
                    self._finish(plan, sum(fetched))
            finally:
                self._stop.set()

    def _follow(self, futures: "list[Future[T]]") -> list[T]:
        """Wait for all, telling how far everything is; the first error ends the others."""
        waiting: set[Future[T]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, TELL_EVERY_S, return_when=FIRST_EXCEPTION)
            self._say(self._tally.progress(time.monotonic()))
            errors = [error for future in done if (error := future.exception()) is not None]
            if errors:
                self._stop.set()
                raise next((e for e in errors if not isinstance(e, StoppedError)), errors[0])
        return [future.result() for future in futures]

    # --- listing -------------------------------------------------------------------------------

    def _list(self, order: PullOrder) -> _Plan:
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
                plan = _Plan(order, revision, (), cache)
                self._fetch(plan, index)
                named = _read_index(plan, index)
            needed = needed_files(order.repository, named, files.values())
        return _Plan(order, revision, needed, cache)

    def _check_disk(self, plans: list[_Plan]) -> None:
        missing_bytes = 0
        for plan in plans:
            blobs = {file.key: file for file in plan.files}.values()
            lacking = sum(_missing_bytes(plan, file) for file in blobs)
            missing_bytes += lacking
            self._say(
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

    def _fetch(self, plan: _Plan, file: HubFile) -> int:
        """Have a file on disk, whole and right; return the bytes that were received for it."""
        repository, blob = plan.order.repository, plan.cache.blob(file.key)

        def see(done_bytes: int) -> None:
            self._tally.see(repository, file, done_bytes)

        if self._stop.is_set():
            raise StoppedError
        received = 0
        if not self._is_here(plan, file):
            with _explained(repository, self._token):
                received = Transfer(
                    file, self._url(plan, file), self._headers, blob, self._patience, see
                ).run()
        self._tally.checked(repository, file)
        return received

    def _url(self, plan: _Plan, file: HubFile) -> str:
        return hf_hub_url(plan.order.repository, file.path, revision=plan.revision)

    def _is_here(self, plan: _Plan, file: HubFile) -> bool:
        """Whether the file is on disk already and right; a wrong one is deleted."""
        if not plan.cache.has(file, plan.revision) and not plan.cache.borrow(file):
            return False
        blob = plan.cache.blob(file.key)
        place = blob if blob.is_file() else plan.cache.snapshot(plan.revision) / file.path
        self._tally.see(plan.order.repository, file, file.size_bytes)
        if content_key(place, file.key) == file.key:
            return True
        place.unlink()
        return False

    def _finish(self, plan: _Plan, downloaded_bytes: int) -> None:
        """Make the snapshot whole. In this order: what is named is there."""
        plan.cache.link(plan.files, plan.revision)
        manifest = Manifest(
            repository=plan.order.repository,
            revision=plan.revision,
            endpoint=constants.ENDPOINT,
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files=as_manifest_files(plan.files),
        )
        write_manifest(self._paths, manifest)
        if plan.order.revision is None:
            plan.cache.point_main_at(plan.revision)
        self._say(
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


def _read_index(plan: _Plan, index: HubFile) -> dict[str, object]:
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


def _missing_bytes(plan: _Plan, file: HubFile) -> int:
    if plan.cache.has(file, plan.revision) or plan.cache.elsewhere(file) is not None:
        return 0
    partial = partial_of(plan.cache.blob(file.key))
    have = partial.stat().st_size if partial.is_file() else 0
    return max(0, file.size_bytes - have)
