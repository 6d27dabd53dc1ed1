"""JobReader: the jobs table, looked at. Runs on the database thread.

Owns nothing and changes nothing; the queue, which does, reads through it as well.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flux_mcp.errors import IdempotencyConflictError, UnknownJobError
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.rows import from_row

if TYPE_CHECKING:
    from sqlite_utils import Database

_HISTORY = 20
_DEFAULT_JOB_S = 30.0


class JobReader:
    """Look jobs up in SQLite.

    Args:
        database: Open on the thread this object is used from.
    """

    def __init__(self, database: "Database") -> None:
        self._database = database

    def find_same(
        self, principal: str, idempotency_key: str | None, request: dict[str, Any]
    ) -> Job | None:
        """Return the stored job that a principal's idempotency key names, if any.

        Raises:
            IdempotencyConflictError: that job was made by another request.
        """
        if idempotency_key is None:
            return None
        known = self._one(
            "WHERE principal = ? AND idempotency_key = ?", (principal, idempotency_key)
        )
        if known is not None and known.request != request:
            raise IdempotencyConflictError(
                f"The idempotency key was used for job {known.id}, which asked for something else.",
                "Use a new key for a new request.",
            )
        return known

    def find(self, job_id: str, principal: str | None = None) -> Job:
        """Return one job; with a principal, only if it is that one's.

        Raises:
            UnknownJobError: there is none with that id.
        """
        job = self._one("WHERE id = ? AND principal = ifnull(?, principal)", (job_id, principal))
        if job is None:
            raise UnknownJobError(
                f"There is no job '{job_id[:60]}'.",
                "Use the job_id of an earlier answer, or call flux_get_job without an id.",
            )
        return job

    def recent(self, limit: int) -> list[Job]:
        """Return the newest jobs, finished or not, newest first."""
        return self._many("ORDER BY seq DESC LIMIT ?", (limit,))

    def unfinished_of_session(self, session: str, principal: str | None = None) -> list[Job]:
        """Return the jobs of a session that can still be cancelled; with a principal, its own."""
        return self._many(
            "WHERE session = ? AND status IN ('queued', 'running') "
            "AND principal = ifnull(?, principal) ORDER BY seq",
            (session, principal),
        )

    def depth(self) -> int:
        """Return how many jobs wait."""
        return int(self._value("SELECT count(*) FROM jobs WHERE status = 'queued'"))

    def position(self, job: Job) -> int | None:
        """Return a waiting job's place, 1 for the next; `None` when it does not wait."""
        if job.status != "queued":
            return None
        return int(
            self._value(
                """
                SELECT count(*) FROM jobs AS other, jobs AS this
                WHERE this.id = ? AND other.status = 'queued' AND (other.priority > this.priority
                    OR (other.priority = this.priority AND other.seq <= this.seq))
                """,
                (job.id,),
            )
        )

    def is_cancel_requested(self, job_id: str) -> bool:
        """Return whether a job was asked to stop."""
        asked = "SELECT count(*) FROM jobs WHERE id = ? AND cancel_requested = 1"
        return bool(self._value(asked, (job_id,)))

    def typical_job_s(self) -> float:
        """Return how long a job takes, from start to end: the mean of those that ended last."""
        rows = self._database.execute(
            """
            SELECT started_at, finished_at FROM jobs INDEXED BY jobs_by_end
            WHERE finished_at IS NOT NULL AND status = 'completed'
            ORDER BY finished_at DESC LIMIT ?
            """,
            (_HISTORY,),
        ).fetchall()
        spans = [
            (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
            for start, end in rows
        ]
        return max(1.0, sum(spans) / len(spans)) if spans else _DEFAULT_JOB_S

    def _one(self, where: str, values: Sequence[object] = ()) -> Job | None:
        jobs = self._many(where, values)
        return jobs[0] if jobs else None

    def _many(self, where: str, values: Sequence[object] = ()) -> list[Job]:
        cursor = self._database.execute(f"SELECT * FROM jobs {where}", tuple(values))
        names = [column[0] for column in cursor.description]
        return [from_row(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]

    def _value(self, sql: str, values: Sequence[object] = ()) -> Any:
        return self._database.execute(sql, tuple(values)).fetchone()[0]
