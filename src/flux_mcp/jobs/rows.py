"""The jobs table: its schema steps, and a job as a row of it.

Only queue.py writes it; reader.py reads it as jobs, tally.py as numbers.
"""

import json
from typing import TYPE_CHECKING, Any

from flux_mcp.database import bring_up_to_date
from flux_mcp.jobs.job import Job

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations


_JSON_COLUMNS = ("parents", "request", "plan", "notices", "error", "composed")
_BOOL_COLUMNS = ("cancel_requested", "id_given")


def migrate(database: "Database") -> None:
    """Bring the jobs table up to date; several processes may do so at the same time."""
    bring_up_to_date(database, job_migrations())


def job_migrations() -> "Migrations":
    """Return the steps that make the jobs table; append, never change."""
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("jobs")

    @migrations()
    def create_jobs(database: "Database") -> None:
        database.execute(
            """
            CREATE TABLE jobs (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                kind TEXT NOT NULL,
                model TEXT NOT NULL,
                status TEXT NOT NULL,
                phase TEXT,
                step INTEGER NOT NULL,
                total_steps INTEGER NOT NULL,
                message TEXT NOT NULL,
                eta_s REAL,
                priority INTEGER NOT NULL,
                session TEXT,
                stage TEXT,
                parents TEXT NOT NULL,
                request TEXT NOT NULL,
                plan TEXT NOT NULL,
                notices TEXT NOT NULL,
                idempotency_key TEXT UNIQUE,
                attempt INTEGER NOT NULL,
                passes INTEGER NOT NULL,
                owner TEXT,
                heartbeat_at TEXT,
                cancel_requested INTEGER NOT NULL,
                id_given INTEGER NOT NULL,
                error TEXT,
                load_s REAL,
                draw_s REAL,
                created_at TEXT NOT NULL,
                started_at TEXT,
                finished_at TEXT
            ) STRICT
            """
        )
        database.execute("CREATE INDEX jobs_by_status ON jobs (status, priority DESC, seq)")
        database.execute("CREATE INDEX jobs_by_session ON jobs (session) WHERE session IS NOT NULL")

    @migrations()
    def keep_what_prompts_are_composed_of(database: "Database") -> None:
        database.execute("ALTER TABLE jobs ADD COLUMN composed TEXT NOT NULL DEFAULT '[]'")

    @migrations()
    def bind_jobs_to_principals(database: "Database") -> None:
        # SQLite cannot take a UNIQUE away: keys are unique for each principal from here on.
        database.execute("ALTER TABLE jobs RENAME TO jobs_before")
        database.execute(
            """
            CREATE TABLE jobs (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                kind TEXT NOT NULL,
                model TEXT NOT NULL,
                status TEXT NOT NULL,
                phase TEXT,
                step INTEGER NOT NULL,
                total_steps INTEGER NOT NULL,
                message TEXT NOT NULL,
                eta_s REAL,
                priority INTEGER NOT NULL,
                principal TEXT NOT NULL DEFAULT 'local',
                session TEXT,
                stage TEXT,
                parents TEXT NOT NULL,
                request TEXT NOT NULL,
                plan TEXT NOT NULL,
                notices TEXT NOT NULL,
                composed TEXT NOT NULL,
                idempotency_key TEXT,
                traceparent TEXT,
                attempt INTEGER NOT NULL,
                passes INTEGER NOT NULL,
                owner TEXT,
                heartbeat_at TEXT,
                cancel_requested INTEGER NOT NULL,
                id_given INTEGER NOT NULL,
                error TEXT,
                load_s REAL,
                draw_s REAL,
                created_at TEXT NOT NULL,
                started_at TEXT,
                finished_at TEXT,
                UNIQUE (principal, idempotency_key)
            ) STRICT
            """
        )
        kept = ", ".join(database.table("jobs_before").columns_dict)
        database.execute(f"INSERT INTO jobs ({kept}) SELECT {kept} FROM jobs_before")  # noqa: S608 - our own column names
        database.execute("DROP TABLE jobs_before")
        database.execute("CREATE INDEX jobs_by_status ON jobs (status, priority DESC, seq)")
        database.execute("CREATE INDEX jobs_by_session ON jobs (session) WHERE session IS NOT NULL")
        # What has ended since a moment, for metrics: rows that have not ended are not in it.
        database.execute(
            "CREATE INDEX jobs_by_end ON jobs (finished_at) WHERE finished_at IS NOT NULL"
        )

    @migrations()
    def keep_the_preview_a_caller_wants(database: "Database") -> None:
        database.execute("ALTER TABLE jobs ADD COLUMN preview TEXT NOT NULL DEFAULT 'small'")

    return migrations


def to_row(job: Job) -> dict[str, Any]:
    """Return a job as column values."""
    row = job.model_dump(mode="json")
    for name in _JSON_COLUMNS:
        row[name] = None if row[name] is None else json.dumps(row[name], ensure_ascii=False)
    for name in _BOOL_COLUMNS:
        row[name] = int(row[name])
    return row


def from_row(row: dict[str, Any]) -> Job:
    """Return the job of a row; its place in the table is the table's own business."""
    row.pop("seq")
    for name in _JSON_COLUMNS:
        row[name] = None if row[name] is None else json.loads(row[name])
    return Job.model_validate(row)
