"""DownloadStore: the downloads table, the only holder of its rows. Runs on the database thread."""

import json
from typing import TYPE_CHECKING, Any

from flux_mcp.database import bring_up_to_date, immediate
from flux_mcp.errors import UnknownJobError
from flux_mcp.jobs.download import Download, DownloadStatus, as_seen, lost
from flux_mcp.jobs.job import utc_now
from flux_mcp.models.hub_messages import PullProgress
from flux_mcp.requests.messages import ErrorInfo

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations


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
    row.pop("seq")
    row["models"] = json.loads(row["models"])
    row["error"] = None if row["error"] is None else json.loads(row["error"])
    return Download.model_validate(row)
