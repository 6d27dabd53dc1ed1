"""What the rows of finished jobs say, read from the database that a server left."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.settings.paths import Paths
from flux_mcp.storage.database import open_database


def read_jobs(data_dir: Path) -> dict[str, Job]:
    """Read the job rows as the server left them."""
    database = open_database(Paths(data_dir).database)
    try:
        return {job.id: job for job in JobQueue(database, limit=0).recent(100_000)}
    finally:
        database.close()


def worker_s(job: Job) -> float:
    """Return the seconds the worker itself measured, for loading and drawing."""
    return (job.load_s or 0.0) + (job.draw_s or 0.0)


def _claimed(job: Job) -> datetime:
    if job.started_at is None:
        raise RuntimeError(f"job {job.id} was never claimed")
    return datetime.fromisoformat(job.started_at)


def idle_gaps_s(jobs: Sequence[Job]) -> list[float]:
    """Return the worker's idle seconds between jobs of which the second was waiting already."""
    ordered = sorted(jobs, key=_claimed)
    return [
        (_claimed(after) - _claimed(before)).total_seconds() - worker_s(before)
        for before, after in pairwise(ordered)
        if datetime.fromisoformat(after.created_at) < _claimed(before)
    ]
