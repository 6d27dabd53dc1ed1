"""Downloads of model files: their table, and the process that downloads.

`DownloadStore` is the `downloads` table: every row, read and transition of it. `Downloader` starts
the downloading process (models/hub/process.py), stores the progress it reports, and ends it when a
caller asks for that. Only the command that asked for a download runs it; all other processes see
it through the table.
"""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from pydantic import BaseModel, ConfigDict, ValidationError

from flux_mcp.errors import DownloadLostError, StorageError, UnknownJobError
from flux_mcp.jobs.changes import Changes
from flux_mcp.jobs.job import utc_now
from flux_mcp.models.hub.messages import (
    Listed,
    Pulled,
    PullEvent,
    PullFailed,
    PullFinished,
    PullOrder,
    PullProgress,
    PullRequest,
    parse_pull_event,
)
from flux_mcp.models.hub.selection import GIB
from flux_mcp.settings.environment import all_variables
from flux_mcp.settings.files import whole_path
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import DatabaseThread, bring_up_to_date, immediate
from flux_mcp.worker_protocol.messages import ErrorInfo

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

DownloadStatus = Literal["running", "completed", "failed", "cancelled"]
DownloadPhase = Literal["listing", "downloading", "verifying"]

ID_PREFIX = "dl_"
STALE_S = 60.0
"""A running download gives a sign of life twice a second; after so long without, it is lost."""
_MIB, _GIB = 1024**2, 1024**3
_MINUTE_S = 60

# -P: the folder the command was started in must not shadow the hub's libraries.
HUB_COMMAND = (sys.executable, "-P", "-m", "flux_mcp.models.hub.process")
END_PATIENCE_S = 5.0
"""The process ends at once when its stdin is closed; one that does not is killed."""
_NOT_INHERITED = frozenset({"HF_DEBUG", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})


# --- a download --------------------------------------------------------------------------------


class Download(BaseModel):
    """Everything known about one download. Nothing in it is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    id: str
    models: tuple[str, ...]
    status: DownloadStatus = "running"
    phase: DownloadPhase | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    """0 until the hub has said how large the files are."""
    speed_bytes_s: float | None = None
    eta_s: float | None = None
    error: ErrorInfo | None = None
    cancel_requested: bool = False
    heartbeat_at: str
    created_at: str
    finished_at: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status != "running"

    @property
    def step(self) -> int:
        """Percent of the bytes, rounded down."""
        return 100 * self.done_bytes // self.total_bytes if self.total_bytes else 0

    @property
    def total_steps(self) -> int:
        """What `step` ends at."""
        return 100

    @property
    def message(self) -> str:
        """How far it is, in words."""
        names = ", ".join(self.models)
        if not self.total_bytes:
            return f"{names}: asking the hub"
        done = f"{_size(self.done_bytes)} of {_size(self.total_bytes)} ({self.step} %)"
        speed = f", {self.speed_bytes_s / _MIB:.1f} MiB/s" if self.speed_bytes_s else ""
        left = f", about {_duration(self.eta_s)} left" if self.eta_s is not None else ""
        return f"{names}: {done}{speed}{left}"


def new_download_id() -> str:
    """Return an unguessable id."""
    return f"{ID_PREFIX}{secrets.token_urlsafe(12)}"


def is_download_id(job_id: str) -> bool:
    """Whether an id is that of a download and not of a job."""
    return job_id.startswith(ID_PREFIX)


def as_seen(download: Download, now: str) -> Download:
    """Return a download as it is at `now`: without a sign of life for `STALE_S` it has failed."""
    silent = datetime.fromisoformat(now) - datetime.fromisoformat(download.heartbeat_at)
    if download.is_final or silent.total_seconds() <= STALE_S:
        return download
    return download.model_copy(
        update={"status": "failed", "phase": None, "eta_s": None, "error": lost()}
    )


def lost() -> ErrorInfo:
    """Return the error of a download whose process ended without saying how."""
    return ErrorInfo(
        code=DownloadLostError.code,
        message="The command that downloaded is gone.",
        hint="Run it again: it goes on from where it was.",
    )


def _size(size_bytes: int) -> str:
    gib = size_bytes / _GIB
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size_bytes / _MIB:.1f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds / _MINUTE_S:.0f} min" if seconds >= 2 * _MINUTE_S else f"{seconds:.0f} s"


# --- the table ---------------------------------------------------------------------------------


def migrate(database: "Database") -> None:
    """Bring the downloads table up to date; several processes may do so at the same time."""
    bring_up_to_date(database, download_migrations())


def download_migrations() -> "Migrations":
    """Return the steps that make the downloads table; append, never change."""
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("downloads")

    @migrations()
    def create_downloads(database: "Database") -> None:
        database.execute(
            """
            CREATE TABLE downloads (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                models TEXT NOT NULL,
                status TEXT NOT NULL,
                phase TEXT,
                done_bytes INTEGER NOT NULL,
                total_bytes INTEGER NOT NULL,
                speed_bytes_s REAL,
                eta_s REAL,
                error TEXT,
                cancel_requested INTEGER NOT NULL,
                heartbeat_at TEXT NOT NULL,
                created_at TEXT NOT NULL,
                finished_at TEXT
            ) STRICT
            """
        )
        database.execute("CREATE INDEX downloads_by_status ON downloads (status)")

    return migrations


class DownloadStore:
    """Downloads in SQLite: begin, report, end, look up.

    Args:
        database: Open on the thread this object is used from.
    """

    def __init__(self, database: "Database") -> None:
        self._database = database

    def begin(self, download: Download) -> None:
        """Store a new download."""
        row = download.model_dump(mode="json")
        row |= {"models": json.dumps(row["models"]), "error": None, "cancel_requested": 0}
        columns, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
        with immediate(self._database) as database:
            database.conn.execute(f"INSERT INTO downloads ({columns}) VALUES ({marks})", row)

    def report(self, download_id: str, progress: PullProgress) -> Download:
        """Store how far a running download is, a sign of life; return it as it is now."""
        with immediate(self._database) as database:
            database.conn.execute(
                """
                UPDATE downloads SET phase = ?, done_bytes = ?, total_bytes = ?, speed_bytes_s = ?,
                    eta_s = ?, heartbeat_at = ?
                WHERE id = ? AND status = 'running'
                """,
                (
                    progress.phase,
                    progress.done_bytes,
                    progress.total_bytes,
                    progress.speed_bytes_s,
                    progress.eta_s,
                    utc_now(),
                    download_id,
                ),
            )
        return self.find(download_id)

    def end(
        self, download_id: str, status: DownloadStatus, error: ErrorInfo | None = None
    ) -> Download:
        """Move a running download to its end; one that has ended stays as it is."""
        with immediate(self._database) as database:
            database.conn.execute(
                """
                UPDATE downloads SET status = ?, error = ?, phase = NULL, eta_s = NULL,
                    speed_bytes_s = NULL, finished_at = ?
                WHERE id = ? AND status = 'running'
                """,
                (status, error and error.model_dump_json(), utc_now(), download_id),
            )
        return self.find(download_id)

    def recover(self, download_id: str) -> None:
        """Fail every other running download.

        Only whoever holds the download lock calls this: those that ran the others are gone.
        """
        for other in self.running():
            if other.id != download_id:
                self.end(other.id, "failed", lost())

    def request_cancel(self, download_id: str) -> Download:
        """Ask a running download to stop; return it as it is now.

        Raises:
            UnknownJobError: there is none with that id.
        """
        self._database.execute(
            "UPDATE downloads SET cancel_requested = 1 WHERE id = ? AND status = 'running'",
            (download_id,),
        )
        return self.find(download_id)

    def find(self, download_id: str) -> Download:
        """Return one download as it is now.

        Raises:
            UnknownJobError: there is none with that id.
        """
        found = self._many("WHERE id = ?", download_id)
        if not found:
            raise UnknownJobError(
                f"There is no download '{download_id[:60]}'.",
                "flux_get_job without an id names those that run.",
            )
        return found[0]

    def running(self) -> list[Download]:
        """Return the downloads that run, oldest first: one, or none."""
        return [one for one in self._many("WHERE status = 'running'") if not one.is_final]

    def _many(self, where: str, *values: object) -> list[Download]:
        cursor = self._database.execute(f"SELECT * FROM downloads {where} ORDER BY seq", values)
        names = [column[0] for column in cursor.description]
        now = utc_now()
        return [as_seen(_from_row(dict(zip(names, row, strict=True))), now) for row in cursor]


def _from_row(row: dict[str, Any]) -> Download:
    """Return the download of a row. Columns that a newer version added are left out."""
    values = {name: value for name, value in row.items() if name in Download.model_fields}
    values["models"] = json.loads(values["models"])
    values["error"] = None if values["error"] is None else json.loads(values["error"])
    return Download.model_validate(values)


# --- the downloading process -------------------------------------------------------------------


Show = Callable[[Download, PullEvent | None], None]


class Downloader:
    """Runs downloads, one at a time for each data folder."""

    def __init__(
        self,
        settings: Settings,
        store: DownloadStore,
        database: DatabaseThread,
        changes: Changes,
    ) -> None:
        self._settings = settings
        self._store = store
        self._database = database
        self._changes = changes

    async def run(self, orders: Sequence[PullOrder], show: Show) -> Download:
        """Download until the end, whatever it is; a cancelled caller leaves it cancelled.

        Args:
            orders: What to have on disk.
            show: Called with the record at its beginning and after each event of the process.

        Raises:
            StorageError: the process cannot be started, or the database refused.
        """
        now = utc_now()
        models = tuple(dict.fromkeys(order.model for order in orders))
        download = Download(id=new_download_id(), models=models, heartbeat_at=now, created_at=now)
        await self._database.call(self._store.begin, download)
        self._changes.poke()
        show(download, None)
        request = PullRequest(
            orders=tuple(orders), reserve_bytes=int(self._settings.disk_reserve_gib * GIB)
        )
        try:
            await self._follow(download.id, request, show)
            return await self._end(download.id, "failed", lost())
        except asyncio.CancelledError:
            await asyncio.shield(self._end(download.id, "cancelled"))
            raise
        except StorageError as error:
            told = ErrorInfo.of(error)
            with contextlib.suppress(StorageError):  # it may be the database that cannot be used
                await self._end(download.id, "failed", told)
            raise

    async def _follow(self, download_id: str, request: PullRequest, show: Show) -> None:
        """Run the process until its last event, or until a caller asks it to stop."""
        process = await self._start()
        holds_lock = False
        try:
            stdin, stdout = process.stdin, process.stdout
            if stdin is None or stdout is None:
                raise ValueError("the process was started without pipes")
            with contextlib.suppress(ConnectionError):
                stdin.write(request.model_dump_json().encode() + b"\n")
                await stdin.drain()
            async for line in stdout:
                try:
                    event = parse_pull_event(line)
                except ValidationError:
                    return  # not an event: the process is broken, and ended
                download = await self._take(download_id, event)
                if not holds_lock and not isinstance(event, PullFailed):
                    holds_lock = True
                    await self._database.call(self._store.recover, download_id)
                show(download, event)
                if download.is_final:
                    return
                if download.cancel_requested:
                    show(await self._end(download_id, "cancelled"), None)
                    return
        finally:
            await asyncio.shield(_end_process(process))

    async def _start(self) -> asyncio.subprocess.Process:
        log = self._settings.paths.download_log
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as errors:
                return await asyncio.create_subprocess_exec(
                    *HUB_COMMAND,
                    str(self._settings.data_dir),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    env=hub_environment(self._settings),
                    # Ctrl-C is for the command: it ends the process in order.
                    start_new_session=True,
                )
        except OSError as error:
            raise StorageError(
                f"The downloading process cannot be started: {error.strerror}.",
                "Look at the permissions of the data folder.",
            ) from error

    async def _take(self, download_id: str, event: PullEvent) -> Download:
        match event:
            case PullProgress():
                download = await self._database.call(self._store.report, download_id, event)
            case PullFailed():
                error = ErrorInfo(code=event.code, message=event.message, hint=event.hint)
                return await self._end(download_id, "failed", error)
            case PullFinished():
                return await self._end(download_id, "completed")
            case Listed() | Pulled():
                download = await self._database.call(self._store.find, download_id)
            case _:
                assert_never(event)
        self._changes.poke()
        return download

    async def _end(
        self, download_id: str, status: DownloadStatus, error: ErrorInfo | None = None
    ) -> Download:
        download = await self._database.call(self._store.end, download_id, status, error)
        self._changes.poke()
        return download


async def _end_process(process: asyncio.subprocess.Process) -> None:
    """Close its stdin, which ends it at once; kill it if that does not."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_PATIENCE_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def hub_environment(settings: Settings) -> dict[str, str]:
    """Return the whole environment of the downloading process, the only one that goes online.

    The hub's libraries keep everything below the data folder, but find the token where the user's
    `hf auth login` put it; HF_ENDPOINT, proxies and HF_TOKEN are the caller's. Xet is off: its
    transfers cannot be taken up again by another process, ours can. Source: huggingface_hub 2.4,
    constants.py and file_download.py.
    """
    inherited = {
        name: value
        for name, value in all_variables().items()
        if not name.upper().startswith("FLUX_MCP_") and name not in _NOT_INHERITED
    }
    return {
        **inherited,
        "HF_HOME": str(settings.paths.hf_cache),
        "HF_TOKEN_PATH": str(_hub_token_file(all_variables())),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _hub_token_file(variables: Mapping[str, str]) -> Path:
    """Return where `hf auth login` keeps the token (huggingface_hub 2.4, constants.py)."""
    named = variables.get("HF_TOKEN_PATH")
    if named:
        return whole_path(Path(named))
    caches = variables.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(variables.get("HF_HOME") or Path(caches) / "huggingface")
    try:
        return whole_path(home) / "token"
    except ValueError:  # there is no home folder, so nobody has logged in
        return Path(os.devnull)
