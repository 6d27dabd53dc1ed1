"""JobQueue: the jobs table. Every row, every read and every transition of a job is in this module.

A job is in one of five statuses. The methods that move it are the only ones that do:

    queued      `submit`; `claim` takes it; `request_cancel` ends it
    running     `claim`; `report` and `heartbeat` update it; `complete`, `fail` and `cancelled` end
                it; `lost`, `not_started`, `give_back` and `recover` put it back into the queue, or
                end it
    completed   final: its images have rows in the gallery
    failed      final: `error` says why
    cancelled   final: a caller asked for it

Each transition is one guarded statement: it changes the row only if the row is still in the status
the transition starts from. A late event, a second server or a repeated call changes nothing.

Everything here is synchronous and runs on the database thread.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flux_mcp.errors import (
    IdempotencyConflictError,
    QueueFullError,
    StorageError,
    UnknownJobError,
)
from flux_mcp.jobs.job import MAX_ATTEMPTS, Job, JobStatus, PreviewSize, ShownStatus, utc_now
from flux_mcp.jobs.scheduler import NextJob, WaitingJob
from flux_mcp.models.registry import Kind
from flux_mcp.storage.database import bring_up_to_date, immediate, is_from_before_squash
from flux_mcp.worker_protocol.messages import ErrorInfo, Progress

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

logger = logging.getLogger(__name__)

HISTORY = 20
"""Newest completed jobs that estimates are made of."""
REPEAT_WITHIN_S = 600.0
"""A call repeated this long after the end of its job still gets that job: a person who reads an
error and asks again does so within minutes, later the same words are meant as a new request."""
_DEFAULT_JOB_S = 30.0
"""How long a job is said to take before any has ended."""

_SHOWN = """CASE WHEN status = 'running' AND cancel_requested = 1
    THEN 'stopping' ELSE status END"""
"""`Job.shown_status` of a row."""
_PIPELINE = "kind || '/' || model"
_STEPS = """(json_extract(plan, '$.steps') - CASE kind WHEN 'img2img' THEN CAST(
    json_extract(plan, '$.steps') - json_extract(plan, '$.steps') * json_extract(plan, '$.strength')
    AS INTEGER) ELSE 0 END)"""
"""`RenderPlan.steps_drawn` of a stored plan."""
_WORK = f"""(CASE WHEN json_valid(plan) THEN
    json_array_length(plan, '$.seeds') * {_STEPS}
    * json_extract(plan, '$.width') * json_extract(plan, '$.height') / 1e6 ELSE 0 END)"""
"""`estimates.work` of a stored plan: megapixel-steps; 0 for one that cannot be read."""

# --- the table ---------------------------------------------------------------------------------

_CREATE_JOBS = """
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
    principal TEXT NOT NULL,
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
    overtakes INTEGER NOT NULL,
    owner TEXT,
    heartbeat_at TEXT,
    cancel_requested INTEGER NOT NULL,
    id_given INTEGER NOT NULL,
    preview TEXT NOT NULL,
    error TEXT,
    load_s REAL,
    draw_s REAL,
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    UNIQUE (principal, idempotency_key)
) STRICT
"""
_CREATE_INDEXES = (
    "CREATE INDEX jobs_by_status ON jobs (status, seq)",
    "CREATE INDEX jobs_by_session ON jobs (session) WHERE session IS NOT NULL",
    # What has ended since a moment, for metrics: rows that have not ended are not in it.
    "CREATE INDEX jobs_by_end ON jobs (finished_at) WHERE finished_at IS NOT NULL",
)
_JSON_COLUMNS = ("parents", "request", "plan", "notices", "error", "composed")
_BOOL_COLUMNS = ("cancel_requested", "id_given")


def migrate(database: "Database") -> None:
    """Bring the jobs table up to date; several processes may do so at the same time."""
    bring_up_to_date(database, job_migrations())


def job_migrations() -> "Migrations":
    """Return the steps that make the jobs table; append, never change."""
    from sqlite_utils.migrations import Migrations

    steps = Migrations("jobs")

    @steps(name="0001_jobs")
    def _jobs(database: "Database") -> None:
        if is_from_before_squash(database, "jobs", {"principal", "preview", "passes"}):
            _rebuild(database)
        else:
            _create(database)

    @steps(name="0002_unanswered")
    def _unanswered(database: "Database") -> None:
        database.execute("ALTER TABLE jobs ADD COLUMN unanswered_at TEXT")
        database.execute(
            "CREATE INDEX jobs_unanswered ON jobs (principal) WHERE unanswered_at IS NOT NULL"
        )

    return steps


def _create(database: "Database") -> None:
    for statement in (_CREATE_JOBS, *_CREATE_INDEXES):
        database.execute(statement)


def _rebuild(database: "Database") -> None:
    """Copy a table of before the first release: `passes` became `overtakes`, `priority` went."""
    database.execute("ALTER TABLE jobs RENAME TO jobs_before")
    database.execute(_CREATE_JOBS)
    before = set(database.table("jobs_before").columns_dict)
    kept = ", ".join(name for name in database.table("jobs").columns_dict if name in before)
    database.execute(f"INSERT INTO jobs ({kept}, overtakes) SELECT {kept}, passes FROM jobs_before")
    database.execute("DROP TABLE jobs_before")
    for statement in _CREATE_INDEXES:
        database.execute(statement)


def to_row(job: Job) -> dict[str, Any]:
    """Return a job as column values."""
    row = job.model_dump(mode="json")
    for name in _JSON_COLUMNS:
        row[name] = None if row[name] is None else _as_json(row[name])
    for name in _BOOL_COLUMNS:
        row[name] = int(row[name])
    return row


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def from_row(row: dict[str, Any]) -> Job:
    """Return the job of a row. Columns that a newer version added are left out.

    Raises:
        StorageError: the row is damaged, or another version wrote it otherwise.
    """
    values = {name: value for name, value in row.items() if name in Job.model_fields}
    try:
        for name in _JSON_COLUMNS:
            values[name] = None if values[name] is None else json.loads(values[name])
        return Job.model_validate(values)
    except (ValidationError, ValueError, RecursionError) as error:
        wrong = "JSON"
        if isinstance(error, ValidationError):
            wrong = ", ".join(sorted({str(one["loc"][0]) for one in error.errors() if one["loc"]}))
        raise StorageError(
            f"The job {row['id']} cannot be read from the database ({wrong}): its row is damaged, "
            "or another version of flux-mcp wrote it.",
            "Submit the request again.",
        ) from error


# --- what is read of jobs besides whole ones ---------------------------------------------------


@dataclass(frozen=True)
class QueueEntry:
    """One unfinished job, as far as the queue's list shows it."""

    job_id: str
    status: ShownStatus
    kind: Kind
    model: str
    step: int
    total_steps: int
    position: int | None
    """1 for the next; `None` while it runs."""
    session: str | None
    created_at: str


@dataclass(frozen=True)
class QueueLoad:
    """How many jobs are unfinished; each counts once."""

    queued: int = 0
    running: int = 0
    stopping: int = 0


@dataclass(frozen=True)
class UnfinishedJobs:
    """The unfinished jobs of one kind and status."""

    kind: str
    status: str
    """`queued` or `running`, which counts those that stop: they are still on the GPU."""
    jobs: int
    oldest_at: str
    """When the oldest of them was submitted; ISO 8601, UTC."""


@dataclass(frozen=True)
class EndedJob:
    """One job that is over."""

    seq: int
    """Its place in the table, which no other job ever has."""
    kind: str
    model: str
    status: str
    """`completed`, `failed` or `cancelled`."""
    code: str | None
    """Why it failed."""
    total_steps: int
    load_s: float | None
    draw_s: float | None
    created_at: str
    started_at: str | None
    finished_at: str


@dataclass(frozen=True)
class DrawnWork:
    """What a completed job was, and the seconds the pipeline took for it."""

    pipeline: str
    """`kind/model`."""
    work: float
    """In megapixel-steps, as `estimates.work` counts."""
    draw_s: float


@dataclass(frozen=True)
class RunningWork:
    """What a running job is, and when it will be done."""

    pipeline: str
    work: float
    eta_s: float | None
    """Seconds left, as its worker sees it; `None` before it has said so."""


# --- the queue ---------------------------------------------------------------------------------


class JobQueue:
    """Jobs in SQLite: submit, claim, move, and look up.

    Args:
        database: Open on the thread this object is used from.
        limit: How many jobs may wait.
    """

    def __init__(self, database: "Database", limit: int) -> None:
        self._database = database
        self._limit = limit

    # --- reads -----------------------------------------------------------------------------------

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
            StorageError: its row cannot be read.
        """
        job = self._one("WHERE id = ? AND principal = ifnull(?, principal)", (job_id, principal))
        if job is None:
            raise UnknownJobError(
                f"There is no job '{job_id[:60]}'.",
                "Use the job_id of an earlier answer, or call flux_get_job without an id.",
            )
        return job

    def is_untold(self, job_id: str, request: Mapping[str, Any]) -> bool:
        """Return whether this request made a job before, and no caller has been given its id."""
        return bool(
            self._value(
                "SELECT count(*) FROM jobs WHERE id = ? AND id_given = 0 AND request = ?",
                (job_id, _as_json(request)),
            )
        )

    def has_unfinished(self, principal: str, session: str | None = None) -> bool:
        """Return whether a principal has a job that waits or runs; with a session, one of it."""
        return bool(
            self._value(
                "SELECT EXISTS (SELECT 1 FROM jobs WHERE status IN ('queued', 'running') "
                "AND principal = ?1 AND session IS ifnull(?2, session))",
                (principal, session),
            )
        )

    def recent(self, limit: int) -> list[Job]:
        """Return the newest jobs, finished or not, newest first; those that can be read."""
        return self._readable("ORDER BY seq DESC LIMIT ?", (limit,))

    def unfinished_of_session(self, session: str, principal: str | None = None) -> list[Job]:
        """Return the jobs of a session that can still be cancelled; with a principal, its own."""
        return self._readable(
            "WHERE session = ? AND status IN ('queued', 'running') "
            "AND principal = ifnull(?, principal) ORDER BY seq",
            (session, principal),
        )

    def depth(self) -> int:
        """Return how many jobs wait."""
        return int(self._value("SELECT count(*) FROM jobs WHERE status = 'queued'"))

    def load(self) -> "QueueLoad":
        """Return how many jobs are unfinished, of everybody."""
        rows = self._database.execute(
            f"SELECT {_SHOWN}, count(*) FROM jobs WHERE status IN ('queued', 'running') GROUP BY 1"
        ).fetchall()
        return QueueLoad(**dict(rows))

    def position(self, job: Job) -> int | None:
        """Return a waiting job's place, 1 for the next; `None` when it does not wait."""
        if job.status != "queued":
            return None
        waiting = self._value(
            """
            SELECT count(*) FROM jobs AS other, jobs AS this
            WHERE this.id = ? AND this.status = 'queued'
                AND other.status = 'queued' AND other.seq <= this.seq
            """,
            (job.id,),
        )
        return int(waiting) or None  # it may have been started since it was read

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
            (HISTORY,),
        ).fetchall()
        spans = [
            (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
            for start, end in rows
        ]
        return max(1.0, sum(spans) / len(spans)) if spans else _DEFAULT_JOB_S

    def entries(self, principal: str | None, limit: int) -> list[QueueEntry]:
        """Return running jobs, then waiting ones in queue order; with a principal, its own only."""
        rows = self._database.execute(
            f"""
            SELECT id, {_SHOWN}, kind, model, step, total_steps, place, session, created_at FROM (
                SELECT *, NULL AS place FROM jobs WHERE status = 'running'
                UNION ALL
                SELECT *, row_number() OVER (ORDER BY seq) FROM jobs WHERE status = 'queued'
            )
            WHERE principal = ifnull(:principal, principal)
            ORDER BY place NULLS FIRST, seq LIMIT :limit
            """,
            {"principal": principal, "limit": limit},
        ).fetchall()
        return [QueueEntry(*row) for row in rows]

    def unfinished(self) -> tuple[UnfinishedJobs, ...]:
        """Return how many jobs are unfinished, by kind and status."""
        rows = self._database.execute(
            """
            SELECT kind, status, count(*), min(created_at) FROM jobs
            WHERE status IN ('queued', 'running') GROUP BY kind, status
            """
        ).fetchall()
        return tuple(UnfinishedJobs(*row) for row in rows)

    def ended_since(self, moment: str) -> tuple[EndedJob, ...]:
        """Return the jobs that ended at `moment` or later."""
        rows = self._database.execute(
            """
            SELECT seq, kind, model, status, json_extract(error, '$.code'), total_steps, load_s,
                draw_s, created_at, started_at, finished_at
            FROM jobs WHERE finished_at IS NOT NULL AND finished_at >= ?
            """,
            (moment,),
        ).fetchall()
        return tuple(EndedJob(*row) for row in rows)

    def drawn_work(self) -> list[DrawnWork]:
        """Return what the completed jobs that ended last took, newest first."""
        # By their end, which has an index: by `seq` SQLite would sort all jobs that ever completed.
        rows = self._database.execute(
            f"""
            SELECT {_PIPELINE}, {_WORK}, draw_s FROM jobs INDEXED BY jobs_by_end
            WHERE finished_at IS NOT NULL AND status = 'completed' AND draw_s IS NOT NULL
            ORDER BY finished_at DESC LIMIT ?
            """,
            (HISTORY,),
        ).fetchall()
        return [DrawnWork(*row) for row in rows]

    def running_work(self) -> list[RunningWork]:
        """Return what runs; a job that stops takes no more than its present step."""
        rows = self._database.execute(
            f"SELECT {_PIPELINE}, {_WORK}, eta_s FROM jobs "
            "WHERE status = 'running' AND cancel_requested = 0"
        ).fetchall()
        return [RunningWork(*row) for row in rows]

    def waiting_work(self, up_to: Job | None = None) -> dict[str, float]:
        """Return the megapixel-steps that wait, by pipeline.

        Args:
            up_to: Count this job and those before it only.
        """
        rows = self._database.execute(
            f"""
            SELECT {_PIPELINE}, sum({_WORK}) FROM jobs WHERE status = 'queued'
                AND seq <= ifnull((SELECT seq FROM jobs WHERE id = ?), seq) GROUP BY 1
            """,
            (None if up_to is None else up_to.id,),
        ).fetchall()
        return dict(rows)

    def _one(self, where: str, values: Sequence[object] = ()) -> Job | None:
        rows = self._rows(where, values)
        return from_row(rows[0]) if rows else None

    def _readable(self, where: str, values: Sequence[object] = ()) -> list[Job]:
        """Return jobs of a list: one that cannot be read does not take the others along."""
        jobs = []
        for row in self._rows(where, values):
            try:
                jobs.append(from_row(row))
            except StorageError as error:
                logger.warning("a job is left out of a list: %s", error)
        return jobs

    def _rows(self, where: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        cursor = self._database.execute(f"SELECT * FROM jobs {where}", tuple(values))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _value(self, sql: str, values: Sequence[object] = ()) -> Any:
        return self._database.execute(sql, tuple(values)).fetchone()[0]

    # --- transitions that callers ask for --------------------------------------------------------

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

    def mark_unanswered(self, job_id: str) -> None:
        """Record that a call about a job has ended and no caller has its id: a repeat may take it.

        Changes nothing once a caller has the id, or the job was asked to stop.
        """
        self._database.execute(
            "UPDATE jobs SET unanswered_at = ? "
            "WHERE id = ? AND id_given = 0 AND cancel_requested = 0",
            (utc_now(), job_id),
        )

    def take_unanswered(self, principal: str, request: dict[str, Any]) -> Job | None:
        """Return the oldest job of a request that nobody was answered about, if there is one.

        It is given once: it counts as unanswered again only when the call that it is given to ends
        without an answer too. A job that has ended is given for `REPEAT_WITHIN_S`.
        """
        since = (datetime.now(UTC) - timedelta(seconds=REPEAT_WITHIN_S)).isoformat(
            timespec="microseconds"
        )
        with immediate(self._database):
            job = self._one(
                """
                WHERE principal = ? AND unanswered_at IS NOT NULL AND request = ?
                    AND idempotency_key IS NULL AND cancel_requested = 0
                    AND (finished_at IS NULL OR max(finished_at, unanswered_at) >= ?)
                ORDER BY seq LIMIT 1
                """,
                (principal, _as_json(request), since),
            )
            if job is not None:
                self._database.conn.execute(
                    "UPDATE jobs SET unanswered_at = NULL WHERE id = ?", (job.id,)
                )
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
        """Do as `request_cancel`, but only while no caller has been given its id.

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
            UPDATE jobs SET id_given = 1, unanswered_at = NULL, preview = ifnull(:preview, preview)
            WHERE id = :id AND (id_given = 0 OR preview <> ifnull(:preview, preview))
            """,
            {"id": job_id, "preview": preview},
        )

    # --- transitions of the executor -------------------------------------------------------------

    def claim(
        self, owner: str, choose: Callable[[Sequence[WaitingJob]], NextJob | None]
    ) -> Job | None:
        """Take the next job; `None` when none waits.

        The choice is advice; the claim itself is one statement that takes a job only while it is
        still queued, so two executors can never run one job.
        """
        while True:
            chosen = choose(self._waiting())
            if chosen is None:
                return None
            now = utc_now()
            with immediate(self._database) as database:
                taken = database.conn.execute(
                    """
                    UPDATE jobs SET status = 'running', owner = ?, attempt = attempt + 1, step = 0,
                        phase = NULL, message = '', eta_s = NULL, heartbeat_at = ?, started_at = ?
                    WHERE id = ? AND status = 'queued' RETURNING id
                    """,
                    (owner, now, now, chosen.job_id),
                ).fetchall()
                if taken:
                    database.conn.executemany(
                        "UPDATE jobs SET overtakes = overtakes + 1 WHERE id = ?",
                        [(job_id,) for job_id in chosen.overtaken],
                    )
            if taken:
                try:
                    return self.find(chosen.job_id)
                except StorageError as error:
                    self._fail_unreadable(chosen.job_id, error)

    def next_up(self, choose: Callable[[Sequence[WaitingJob]], NextJob | None]) -> Job | None:
        """Return the job that `claim` would take now, and leave it where it is."""
        chosen = choose(self._waiting())
        found = [] if chosen is None else self._readable("WHERE id = ?", (chosen.job_id,))
        return found[0] if found else None

    def _waiting(self) -> list[WaitingJob]:
        rows = self._database.execute(
            f"SELECT id, {_PIPELINE}, overtakes FROM jobs WHERE status = 'queued' ORDER BY seq"
        ).fetchall()
        return [WaitingJob(*row) for row in rows]

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

    def not_started(self, job: Job) -> JobStatus:
        """Put a running job back for which no worker could be started; return what it is now.

        The attempt does not count. One that was asked to stop is cancelled.
        """
        if self.find(job.id).cancel_requested:
            self.cancelled(job)
        else:
            self._database.execute(
                """
                UPDATE jobs SET status = 'queued', owner = NULL, phase = NULL, step = 0,
                    eta_s = NULL, attempt = attempt - 1,
                    message = 'its worker could not be started; it is tried again'
                WHERE id = ? AND attempt = ? AND status = 'running'
                """,
                (job.id, job.attempt),
            )
        return self.find(job.id).status

    def recover(self, error: ErrorInfo) -> list[Job]:
        """Deal with every running job; returns them as they are now.

        Only a new holder of the GPU lock calls this, before it runs anything: the process that ran
        these jobs is gone.
        """
        recovered = []
        running = self._database.execute(
            "SELECT id FROM jobs WHERE status = 'running' ORDER BY seq"
        )
        for (job_id,) in running.fetchall():
            try:
                self.lost(self.find(job_id), error)
                recovered.append(self.find(job_id))
            except StorageError as unreadable:
                self._fail_unreadable(job_id, unreadable)
        return recovered

    def _fail_unreadable(self, job_id: str, error: StorageError) -> None:
        """End a running job whose row cannot be read: the queue goes on without it."""
        logger.error("a job that cannot be read has failed: %s", error)
        info = ErrorInfo.of(error)
        with immediate(self._database) as database:
            database.conn.execute(
                "UPDATE jobs SET status = 'failed', error = ?, finished_at = ? "
                "WHERE id = ? AND status = 'running'",
                (info.model_dump_json(), utc_now(), job_id),
            )
