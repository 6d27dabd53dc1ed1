"""How long jobs will take, from how long such jobs took.

A pipeline's time grows with the megapixel-steps it has to do. Its rate is the median over the
completed jobs that ended last; an estimate is work times rate, added up over everything that comes
first.
"""

from collections.abc import Iterable, Mapping
from statistics import median

from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import DrawnWork, JobQueue
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.worker_protocol.messages import pipeline_key


def work(plan: RenderPlan) -> float:
    """Return a plan's size in megapixel-steps: what a diffusion transformer's time grows with."""
    return len(plan.seeds) * plan.steps_drawn * plan.width * plan.height / 1e6


def rates(history: Iterable[DrawnWork]) -> dict[str, float]:
    """Return for each pipeline the median seconds that its jobs took per megapixel-step."""
    found: dict[str, list[float]] = {}
    for drawn in history:
        found.setdefault(drawn.pipeline, []).append(drawn.draw_s / drawn.work)
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


class Estimates:
    """Seconds until jobs start and end, as the queue stands now. Runs on the database thread."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def draw_s(self, plan: RenderPlan) -> float | None:
        """Return the seconds a plan will be drawn; `None` before any such job."""
        return estimate_s({pipeline_key(plan): work(plan)}, self._rates())

    def start_s(self) -> float | None:
        """Return the seconds until a job that is submitted now would start.

        `None` when a job before it cannot be estimated.
        """
        known = self._rates()
        return _sum(self._running_s(known), estimate_s(self._queue.waiting_work(), known))

    def end_s(self, job: Job) -> float | None:
        """Return the seconds until a job is finished: of those before it, and its own.

        `None` when it has ended or stops, or one of them cannot be estimated.
        """
        if job.is_final or job.is_stopping:
            return None
        if job.status == "running" and job.eta_s is not None:
            return job.eta_s
        known = self._rates()
        if job.status == "running":
            return estimate_s({pipeline_key(job.plan): work(job.plan)}, known)
        return _sum(self._running_s(known), estimate_s(self._queue.waiting_work(job), known))

    def _running_s(self, known: Mapping[str, float]) -> float | None:
        """Return the seconds until all running jobs are done: as workers see it, or estimated."""
        left = [
            estimate_s({one.pipeline: one.work}, known) if one.eta_s is None else one.eta_s
            for one in self._queue.running_work()
        ]
        return _sum(*left)

    def _rates(self) -> dict[str, float]:
        return rates(self._queue.drawn_work())


def _sum(*parts_s: float | None) -> float | None:
    known = [part for part in parts_s if part is not None]
    return sum(known) if len(known) == len(parts_s) else None
