"""JobQueue: the jobs table, the only holder of queue state. Runs on the database thread.

Every move of a job is one guarded statement: it changes the row only if the row is still in the
state the move starts from, so a late event, a second server or a repeated call changes nothing.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flux_mcp.database import immediate
from flux_mcp.errors import QueueFullError
from flux_mcp.jobs.job import MAX_ATTEMPTS, Job, JobStatus, PreviewSize, utc_now
from flux_mcp.jobs.reader import JobReader
from flux_mcp.jobs.rows import to_row
from flux_mcp.jobs.scheduler import Turn, Waiting
from flux_mcp.requests.messages import ErrorInfo, Progress

if TYPE_CHECKING:
    from sqlite_utils import Database


_QUEUE_ORDER = "ORDER BY priority DESC, seq"


class JobQueue(JobReader):
    """Jobs in SQLite: submit, claim, move; and look up, as `JobReader`.

    Args:
        database: Open on the thread this object is used from.
        limit: How many jobs may wait.
    """

    def __init__(self, database: "Database", limit: int) -> None:
        super().__init__(database)
        self._limit = limit

    # --- callers -------------------------------------------------------------------------------

    def submit(self, job: Job) -> Job:
        """Store a new job, or return the one its idempotency key already names.

        Raises:
            QueueFullError: as many jobs wait as may.
            IdempotencyConflictError: the key names a job made by another request.
        """
        with immediate(self._database):
            known = self.find_same(job.principal, job.idempotency_key, job.request)
            if known is not None:
                return known
            self.refuse_if_full()
            row = to_row(job)
            columns = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            self._database.conn.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", row)
        return job

    def refuse_if_full(self) -> None:
        """Refuse early what `submit` would refuse, before any work is done for it.

        Raises:
            QueueFullError: as many jobs wait as may.
        """
        waiting = self.depth()
        if waiting >= self._limit:
            retry_s = self.typical_job_s()
            raise QueueFullError(
                f"{waiting} jobs are waiting, and no more than {self._limit} may.",
                f"Try again in about {retry_s:.0f} s, or cancel jobs that are no longer wanted.",
            )

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a waiting job at once; ask a running one to stop. Returns it as it is now.

        Raises:
            UnknownJobError: there is none with that id.
        """
        return self._request_cancel(job_id, "TRUE")

    def cancel_unclaimed(self, job_id: str) -> Job:
        """Do the same, but only while no caller holds its id.

        Raises:
            UnknownJobError: there is none with that id.
        """
        return self._request_cancel(job_id, "id_given = 0")

    def _request_cancel(self, job_id: str, condition: str) -> Job:
        now = utc_now()
        with immediate(self._database) as database:
            database.conn.execute(
                f"""
                UPDATE jobs SET status = 'cancelled', cancel_requested = 1, finished_at = ?
                WHERE id = ? AND status = 'queued' AND {condition}
                """,
                (now, job_id),
            )
            database.conn.execute(
                "UPDATE jobs SET cancel_requested = 1 "
                f"WHERE id = ? AND status = 'running' AND {condition}",
                (job_id,),
            )
        return self.find(job_id)

    def mark_id_given(self, job_id: str, preview: PreviewSize | None = None) -> None:
        """Record that a caller now holds the id, and how large a preview it wants, if it said."""
        self._database.execute(
            """
            UPDATE jobs SET id_given = 1, preview = ifnull(:preview, preview)
            WHERE id = :id AND (id_given = 0 OR preview <> ifnull(:preview, preview))
            """,
            {"id": job_id, "preview": preview},
        )

    # --- the executor --------------------------------------------------------------------------

    def claim(self, owner: str, choose: Callable[[Sequence[Waiting]], Turn | None]) -> Job | None:
        """Take the job whose turn it is; `None` when nobody waits.

        The choice is advice; the claim itself is one statement that takes a job only while it is
        still queued, so two executors can never run one job.
        """
        while True:
            turn = choose(self._waiting())
            if turn is None:
                return None
            now = utc_now()
            with immediate(self._database) as database:
                taken = database.conn.execute(
                    """
                    UPDATE jobs SET status = 'running', owner = ?, attempt = attempt + 1, step = 0,
                        phase = NULL, message = '', eta_s = NULL, heartbeat_at = ?, started_at = ?
                    WHERE id = ? AND status = 'queued' RETURNING id
                    """,
                    (owner, now, now, turn.job_id),
                ).fetchall()
                if taken:
                    database.conn.executemany(
                        "UPDATE jobs SET passes = passes + 1 WHERE id = ?",
                        [(job_id,) for job_id in turn.passed],
                    )
            if taken:
                return self.find(turn.job_id)

    def next_up(self, choose: Callable[[Sequence[Waiting]], Turn | None]) -> Job | None:
        """Return the job whose turn would be next, and leave it where it is."""
        turn = choose(self._waiting())
        return None if turn is None else self.find(turn.job_id)

    def _waiting(self) -> list[Waiting]:
        rows = self._database.execute(
            "SELECT id, kind, model, priority, passes FROM jobs "
            f"WHERE status = 'queued' {_QUEUE_ORDER}"
        ).fetchall()
        return [Waiting(row[0], f"{row[1]}/{row[2]}", row[3], row[4]) for row in rows]

    def report(self, progress: Progress) -> None:
        """Store how far a running job is; also a sign of life. An older attempt's is dropped."""
        self._database.execute(
            """
            UPDATE jobs SET phase = ?, step = ?, message = ?, eta_s = ?, heartbeat_at = ?
            WHERE id = ? AND attempt = ? AND status = 'running'
            """,
            (
                progress.phase,
                progress.step,
                progress.message,
                progress.eta_s,
                utc_now(),
                progress.job_id,
                progress.attempt,
            ),
        )

    def heartbeat(self, owner: str) -> None:
        """Store a sign of life for every job this owner runs."""
        self._database.execute(
            "UPDATE jobs SET heartbeat_at = ? WHERE owner = ? AND status = 'running'",
            (utc_now(), owner),
        )

    def complete(self, job: Job, load_s: float, draw_s: float) -> bool:
        """Move a running job to completed; False when it was not running in this attempt."""
        return self._finish(
            job,
            "status = 'completed', step = total_steps, load_s = ?, draw_s = ?",
            (load_s, draw_s),
        )

    def fail(self, job: Job, error: ErrorInfo) -> bool:
        """Move a running job to failed; False when it was not running in this attempt."""
        return self._finish(job, "status = 'failed', error = ?", (error.model_dump_json(),))

    def cancelled(self, job: Job) -> bool:
        """Move a running job to cancelled; False when it was not running in this attempt."""
        return self._finish(job, "status = 'cancelled'", ())

    def _finish(self, job: Job, changes: str, values: Sequence[object]) -> bool:
        with immediate(self._database) as database:
            cursor = database.conn.execute(
                f"UPDATE jobs SET {changes}, phase = NULL, eta_s = NULL, message = '', "
                "finished_at = ? WHERE id = ? AND attempt = ? AND status = 'running'",
                (*values, utc_now(), job.id, job.attempt),
            )
        return cursor.rowcount == 1

    def give_back(self, owner: str) -> dict[str, JobStatus]:
        """Put what `owner` runs back in its place because it ends; the attempt does not count.

        A job that was asked to stop is cancelled instead. Returns by id what each job is now.
        """
        with immediate(self._database) as database:
            cancelled = database.conn.execute(
                """
                UPDATE jobs SET status = 'cancelled', phase = NULL, eta_s = NULL, message = '',
                    finished_at = ?
                WHERE owner = ? AND status = 'running' AND cancel_requested = 1
                RETURNING id, status
                """,
                (utc_now(), owner),
            ).fetchall()
            queued = database.conn.execute(
                """
                UPDATE jobs SET status = 'queued', owner = NULL, phase = NULL, step = 0,
                    eta_s = NULL, message = '', attempt = attempt - 1
                WHERE owner = ? AND status = 'running'
                RETURNING id, status
                """,
                (owner,),
            ).fetchall()
        return dict(cancelled + queued)

    def lost(self, job: Job, error: ErrorInfo) -> JobStatus:
        """Deal with a running job whose worker is gone; return what it is now.

        Cancelled if that was asked for, back in the queue for another attempt, or failed with
        `error` when the attempts are used up.
        """
        if self.find(job.id).cancel_requested:
            self.cancelled(job)
        elif job.attempt >= MAX_ATTEMPTS:
            self.fail(job, error)
        else:
            self._database.execute(
                """
                UPDATE jobs SET status = 'queued', owner = NULL, phase = NULL, step = 0,
                    eta_s = NULL, message = 'its worker was lost; it will run again'
                WHERE id = ? AND attempt = ? AND status = 'running'
                """,
                (job.id, job.attempt),
            )
        return self.find(job.id).status

    def recover(self, error: ErrorInfo) -> list[Job]:
        """Deal with every running job; returns them as they are now.

        Only a new holder of the GPU lock calls this, before it runs anything: whoever ran these
        jobs is gone.
        """
        orphans = self._many("WHERE status = 'running' ORDER BY seq")
        for job in orphans:
            self.lost(job, error)
        return [self.find(job.id) for job in orphans]
