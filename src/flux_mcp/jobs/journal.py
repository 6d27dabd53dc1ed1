"""What is told of jobs while they run: a log line and the spans for each move, in one place.

Owns the trouble this process last had with drawing (for health.py) and, through `JobTraces`, the
open spans. Changes no job.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from flux_mcp.jobs.job import Job, JobStatus
from flux_mcp.jobs.tracing import JobTraces, trace_id_of
from flux_mcp.logs import log_fields
from flux_mcp.principals import LOCAL
from flux_mcp.requests.messages import Done, ErrorInfo, Progress

logger = logging.getLogger(__name__)

TROUBLE_S = 600.0
"""Trouble older than this is no longer told: a probe that keeps jobs away from a server in trouble
must not keep it from ever showing that it can draw again. As long as an idle worker stays."""
_TROUBLES = frozenset({"worker_lost", "engine_unavailable", "weights_invalid", "internal"})
"""Codes that say something of the machine; others are about the one job."""


def job_fields(job: Job) -> dict[str, str | int | None]:
    """Return the fields that every log line about a job has."""
    return {
        "job_id": job.id,
        "kind": job.kind,
        "model": job.model,
        "principal": None if job.principal == LOCAL else job.principal,
        "trace_id": trace_id_of(job),
    }


class Journal:
    """Told of every move of a job in this process, by whoever makes the move."""

    def __init__(self) -> None:
        self._traces = JobTraces()
        self._trouble: tuple[str, float] | None = None

    @property
    def trouble(self) -> str | None:
        """The code of what went wrong with the last worker or job, `None` if nothing did."""
        if self._trouble is None or time.monotonic() - self._trouble[1] > TROUBLE_S:
            return None
        return self._trouble[0]

    @contextmanager
    def about(self, job: Job) -> Iterator[None]:
        """Put the job's fields on every log line of the block."""
        with log_fields(**job_fields(job), attempt=job.attempt):
            yield

    def started(self, job: Job) -> None:
        """Tell that an attempt begins."""
        self._traces.begin(job)
        logger.info("job started", extra={"wait_s": _wait_s(job)})

    def progress(self, event: Progress) -> None:
        """Tell how far a job is; to the traces only."""
        self._traces.progress(event)

    def drawn(self, job: Job, done: Done) -> None:
        """Tell that the worker has drawn a job: it works."""
        self._trouble = None
        self._traces.drawn(job.id, done.load_s, done.draw_s)

    def saving(self, job: Job) -> None:
        """Tell that a job's pictures are being saved."""
        self._traces.saving(job.id)

    def completed(self, job: Job, done: Done) -> None:
        """Tell that a job is completed."""
        self._traces.end(job.id, "completed")
        seconds = {"wait_s": _wait_s(job), "load_s": done.load_s, "draw_s": done.draw_s}
        logger.info("job completed", extra={**seconds, "pictures": len(job.plan.seeds)})

    def failed(self, job: Job, error: ErrorInfo) -> None:
        """Tell that a job failed; its text is the caller's and not told."""
        if error.code in _TROUBLES:
            self._in_trouble(error.code)
        self._traces.end(job.id, "failed", error.code)
        logger.warning("job failed", extra={"code": error.code})

    def cancelled(self, job: Job) -> None:
        """Tell that a running job stopped as asked."""
        self._traces.end(job.id, "cancelled")
        logger.info("job cancelled")

    def lost(self, job: Job, why: str, status: JobStatus) -> None:
        """Tell that a job's worker is gone, and what became of the job."""
        if status == "cancelled":
            # It was ended because it did not stop in time: that is slow, not broken.
            self.cancelled(job)
            return
        self._in_trouble("worker_lost")
        self._traces.end(job.id, status, "worker_lost")
        logger.warning("job lost its worker", extra={"reason": why, "status": status})

    def worker_failed(self, why: str) -> None:
        """Tell that a worker died without a job, while starting."""
        self._in_trouble("worker_lost")
        logger.warning("the worker could not be started", extra={"reason": why})

    def taken_back(self, job: Job) -> None:
        """Tell what became of a job that a server which is gone left running."""
        with self.about(job):
            logger.warning("job was left running and is taken back", extra={"status": job.status})

    def given_back(self, moved: Mapping[str, JobStatus]) -> None:
        """Tell what became of the jobs this process ran when it stopped leading."""
        for job_id, status in moved.items():
            self._traces.end(job_id, status)
            logger.info("job given back", extra={"job_id": job_id, "status": status})
        self._traces.forget()

    def _in_trouble(self, code: str) -> None:
        self._trouble = (code, time.monotonic())


def _wait_s(job: Job) -> float | None:
    """Return the seconds from the submit to the newest claim."""
    if job.started_at is None:
        return None
    claimed, created = (datetime.fromisoformat(text) for text in (job.started_at, job.created_at))
    return (claimed - created).total_seconds()
