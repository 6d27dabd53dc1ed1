"""What the jobs table says as numbers: who waits, what ended. Only reads; for health and metrics.

Runs on the database thread. Both questions walk an index, whatever the table's size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database


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
