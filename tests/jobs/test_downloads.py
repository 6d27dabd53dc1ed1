"""The downloads table: every move, and what is seen of a download nobody runs any more."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flux_mcp.errors import UnknownJobError
from flux_mcp.jobs.downloads import (
    STALE_S,
    Download,
    DownloadStore,
    as_seen,
    migrate,
    new_download_id,
)
from flux_mcp.jobs.job import utc_now
from flux_mcp.models.hub.messages import PullProgress
from flux_mcp.storage.database import open_database
from flux_mcp.worker_protocol.messages import ErrorInfo

ERROR = ErrorInfo(code="hub", message="It is gone.", hint="Try again.")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DownloadStore]:
    database = open_database(tmp_path / "gallery.sqlite")
    migrate(database)
    yield DownloadStore(database)
    database.close()


def begun(store: DownloadStore, *, silent_s: float = 0.0) -> Download:
    """Store a download that gave its last sign of life so long ago."""
    beat = datetime.fromisoformat(utc_now()) - timedelta(seconds=silent_s)
    when = beat.isoformat(timespec="microseconds")
    download = Download(id=new_download_id(), models=("a", "b"), heartbeat_at=when, created_at=when)
    store.begin(download)
    return download


def progress(done: int, total: int, **more: object) -> PullProgress:
    return PullProgress.model_validate(
        {
            "phase": "downloading",
            "done_bytes": done,
            "total_bytes": total,
            "speed_bytes_s": None,
            "eta_s": None,
            "files": (),
            **more,
        }
    )


def test_what_is_stored_comes_back(store: DownloadStore) -> None:
    download = begun(store)
    assert store.find(download.id) == download
    assert store.running() == [download]


def test_progress_is_a_sign_of_life(store: DownloadStore) -> None:
    download = begun(store, silent_s=2 * STALE_S)
    assert store.find(download.id).status == "failed"
    seen = store.report(download.id, progress(1, 4, speed_bytes_s=0.5, eta_s=6.0))
    assert (seen.status, seen.step, seen.eta_s) == ("running", 25, 6.0)


@pytest.mark.parametrize(
    ("status", "error"), [("completed", None), ("failed", ERROR), ("cancelled", None)]
)
def test_an_end_is_final(store: DownloadStore, status: str, error: ErrorInfo | None) -> None:
    download = begun(store)
    ended = store.end(download.id, status, error)
    assert (ended.status, ended.error, ended.is_final) == (status, error, True)
    assert ended.finished_at is not None
    assert store.running() == []
    assert store.end(download.id, "completed") == ended
    assert store.report(download.id, progress(1, 2)) == ended
    assert store.request_cancel(download.id) == ended


def test_a_cancel_is_asked_for_and_seen_by_whoever_runs_it(store: DownloadStore) -> None:
    download = begun(store)
    assert store.request_cancel(download.id).status == "running"
    assert store.report(download.id, progress(0, 1)).cancel_requested


def test_a_silent_download_is_seen_as_lost_by_all_before_anybody_says_so(
    store: DownloadStore,
) -> None:
    silent = begun(store, silent_s=STALE_S + 1)
    quiet = begun(store, silent_s=STALE_S - 30)
    seen = store.find(silent.id)
    assert (seen.status, seen.error.code) == ("failed", "download_lost")
    assert store.running() == [quiet]
    later = datetime.fromisoformat(utc_now()) + timedelta(seconds=STALE_S)
    assert as_seen(quiet, later.isoformat()).status == "failed"


def test_whoever_holds_the_lock_fails_the_others(store: DownloadStore) -> None:
    silent, mine = begun(store), begun(store)
    store.recover(mine.id)
    assert store.find(silent.id).error.code == "download_lost"
    assert store.running() == [mine]


def test_an_unknown_id_is_refused(store: DownloadStore) -> None:
    for ask in (store.find, store.request_cancel):
        with pytest.raises(UnknownJobError, match="dl_nothing"):
            ask("dl_nothing")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "a, b: asking the hub"),
        ({"done_bytes": 1024**2, "total_bytes": 4 * 1024**2}, "a, b: 1.0 MiB of 4.0 MiB (25 %)"),
        (
            {
                "done_bytes": 3 * 1024**3,
                "total_bytes": 31 * 1024**3,
                "speed_bytes_s": 50 * 1024**2,
                "eta_s": 573.4,
            },
            "a, b: 3.0 GiB of 31.0 GiB (9 %), 50.0 MiB/s, about 10 min left",
        ),
        ({"done_bytes": 1, "total_bytes": 2, "eta_s": 42.2}, "(50 %), about 42 s left"),
    ],
)
def test_how_far_it_is_is_said_in_words(
    store: DownloadStore, changes: dict[str, object], says: str
) -> None:
    assert says in begun(store).model_copy(update=changes).message
