"""How long jobs will take, from how long such jobs took. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from flux_mcp.jobs.job import Job, JobStatus
from flux_mcp.models.registry import Kind
from flux_mcp.requests.plan import RenderPlan
from flux_mcp.worker_protocol.messages import pipeline_key

if TYPE_CHECKING:
    from sqlite_utils import Database


@dataclass(frozen=True)
class Finished:
    """A job that was drawn, and the seconds the pipeline took."""

    pipeline: str
    """`kind/model`."""
    work: float
    """In megapixel-steps, as `work` says."""
    draw_s: float


def work(plan: RenderPlan) -> float:
    """Return a plan's size in megapixel-steps: what a diffusion transformer's time grows with."""
    return len(plan.seeds) * plan.steps * plan.width * plan.height / 1e6


def rates(history: Iterable[Finished]) -> dict[str, float]:
    """Return for each pipeline the median seconds that its jobs took per megapixel-step."""
    found: dict[str, list[float]] = {}
    for finished in history:
        found.setdefault(finished.pipeline, []).append(finished.draw_s / finished.work)
    return {pipeline: median(values) for pipeline, values in found.items()}


def estimate_s(work_of: Mapping[str, float], known: Mapping[str, float]) -> float | None:
    """Return the seconds that work will take, or `None` when a pipeline has not drawn yet.

    Args:
        work_of: For each pipeline the megapixel-steps it has to do.
        known: What `rates` found.
    """
    if not work_of.keys() <= known.keys():
        return None
    return sum(amount * known[pipeline] for pipeline, amount in work_of.items())


_HISTORY = 20
"""Newest completed jobs that estimates are made of."""
_PIPELINE = "kind || '/' || model"
_WORK = """(json_array_length(plan, '$.seeds') * json_extract(plan, '$.steps')
    * json_extract(plan, '$.width') * json_extract(plan, '$.height') / 1e6)"""
"""`estimates.work` of a stored plan."""


@dataclass(frozen=True)
class Line:
    """One unfinished job, as far as the queue's list shows it."""

    job_id: str
    status: JobStatus
    kind: Kind
    model: str
    step: int
    total_steps: int
    position: int | None
    """1 for the next; `None` while it runs."""
    session: str | None
    created_at: str


class Outlook:
    """Estimates and the list of who waits, over an open database."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def draw_s(self, plan: RenderPlan) -> float | None:
        """Return the seconds a plan will be drawn; `None` before any such job."""
        return estimate_s({pipeline_key(plan): work(plan)}, self._rates())

    def start_s(self) -> float | None:
        """Return the seconds until a job that is submitted now would start.

        `None` when a job before it cannot be estimated.
        """
        known = self._rates()
        waiting = self._database.execute(
            f"SELECT {_PIPELINE}, sum({_WORK}) FROM jobs WHERE status = 'queued' GROUP BY 1"
        ).fetchall()
        return _sum(self._running_s(known), estimate_s(dict(waiting), known))

    def end_s(self, job: Job) -> float | None:
        """Return the seconds until a job is finished: of those before it, and its own.

        `None` when it has ended, or one of them cannot be estimated.
        """
        if job.is_final:
            return None
        if job.status == "running" and job.eta_s is not None:
            return job.eta_s
        known = self._rates()
        if job.status == "running":
            return estimate_s({pipeline_key(job.plan): work(job.plan)}, known)
        until = self._database.execute(
            f"""
            SELECT {_PIPELINE}, sum({_WORK}) FROM jobs WHERE status = 'queued'
                AND (priority, -seq) >= (SELECT priority, -seq FROM jobs WHERE id = ?) GROUP BY 1
            """,
            (job.id,),
        ).fetchall()
        return _sum(self._running_s(known), estimate_s(dict(until), known))

    def depth(self) -> int:
        """Return how many jobs wait."""
        (found,) = self._database.execute(
            "SELECT count(*) FROM jobs WHERE status = 'queued'"
        ).fetchone()
        return int(found)

    def lines(self, principal: str | None, limit: int) -> list[Line]:
        """Return running jobs, then waiting ones in queue order; with a principal, its own only."""
        rows = self._database.execute(
            """
            SELECT id, status, kind, model, step, total_steps, place, session, created_at FROM (
                SELECT *, NULL AS place FROM jobs WHERE status = 'running'
                UNION ALL
                SELECT *, row_number() OVER (ORDER BY priority DESC, seq) FROM jobs
                WHERE status = 'queued'
            )
            WHERE principal = ifnull(:principal, principal)
            ORDER BY place NULLS FIRST, seq LIMIT :limit
            """,
            {"principal": principal, "limit": limit},
        ).fetchall()
        return [Line(*row) for row in rows]

    def _running_s(self, known: dict[str, float]) -> float | None:
        """Return the seconds until all running jobs are done: as workers see it, or estimated."""
        rows = self._database.execute(
            f"SELECT eta_s, {_PIPELINE}, {_WORK} FROM jobs WHERE status = 'running'"
        ).fetchall()
        left = [
            estimate_s({pipeline: amount}, known) if eta_s is None else float(eta_s)
            for eta_s, pipeline, amount in rows
        ]
        return _sum(*left)

    def _rates(self) -> dict[str, float]:
        # By their end, which has an index: by `seq` SQLite would sort all jobs that ever completed.
        rows = self._database.execute(
            f"""
            SELECT {_PIPELINE}, {_WORK}, draw_s FROM jobs INDEXED BY jobs_by_end
            WHERE finished_at IS NOT NULL AND status = 'completed' AND draw_s IS NOT NULL
            ORDER BY finished_at DESC LIMIT ?
            """,
            (_HISTORY,),
        ).fetchall()
        return rates(Finished(*row) for row in rows)


def _sum(*parts_s: float | None) -> float | None:
    known = [part for part in parts_s if part is not None]
    return sum(known) if len(known) == len(parts_s) else None


@dataclass(frozen=True)
class Standing:
    """The unfinished jobs of one kind and status."""

    kind: str
    status: str
    """`queued` or `running`."""
    jobs: int
    oldest_at: str
    """When the oldest of them was submitted; ISO 8601, UTC."""


@dataclass(frozen=True)
class Ended:
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


class JobTally:
    """Reads the table.

    Args:
        database: Open on the thread this object is used from.
    """

    def __init__(self, database: "Database") -> None:
        self._database = database

    def standing(self) -> tuple[Standing, ...]:
        """Return the unfinished jobs, by kind and status."""
        rows = self._database.execute(
            """
            SELECT kind, status, count(*), min(created_at) FROM jobs
            WHERE status IN ('queued', 'running') GROUP BY kind, status
            """
        ).fetchall()
        return tuple(Standing(*row) for row in rows)

    def ended_since(self, moment: str) -> tuple[Ended, ...]:
        """Return the jobs that ended at `moment` or later."""
        rows = self._database.execute(
            """
            SELECT seq, kind, model, status, json_extract(error, '$.code'), total_steps, load_s,
                draw_s, created_at, started_at, finished_at
            FROM jobs WHERE finished_at IS NOT NULL AND finished_at >= ?
            """,
            (moment,),
        ).fetchall()
        return tuple(Ended(*row) for row in rows)
