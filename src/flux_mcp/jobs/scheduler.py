"""Which job next. Pure: the queue gives the waiting jobs, the executor what is loaded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

DEAR_SWAP_RATIO = 0.1
"""A swap counts as dear from this share of a job's drawing time on: below it, letting others pass
gains at most a few percent (facts: gain = (t_job + t_swap) / (t_job + t_swap / k))."""


@dataclass(frozen=True)
class Waiting:
    """What the choice needs to know of a queued job."""

    job_id: str
    pipeline: str
    """`kind/model`."""
    priority: int
    passes: int


@dataclass(frozen=True)
class Costs:
    """Measured seconds by `kind/model`."""

    load_s: Mapping[str, float]
    draw_s: Mapping[str, float]

    def is_dear(self, pipeline: str) -> bool:
        """Whether loading this pipeline costs enough to let other jobs go first.

        Unknown costs count as dear: the first load of real weights takes tens of seconds.
        """
        load_s, draw_s = self.load_s.get(pipeline), self.draw_s.get(pipeline)
        if load_s is None or draw_s is None:
            return True
        return load_s > DEAR_SWAP_RATIO * draw_s


@dataclass(frozen=True)
class Turn:
    """The job whose turn it is, and those it passes."""

    job_id: str
    passed: tuple[str, ...] = ()


def choose_next(
    waiting: Sequence[Waiting], loaded: Collection[str], costs: Costs, max_passes: int
) -> Turn | None:
    """Return whose turn it is, or `None` when nobody waits.

    First in, first out within a priority. A job whose pipeline is loaded may pass others of its
    priority, but only where the swap is dear, and never one that was passed `max_passes` times.

    Args:
        waiting: In queue order: highest priority first, then oldest first.
        loaded: `kind/model` of every resident pipeline.
        costs: What swaps and jobs were measured to take.
        max_passes: How often one job may be passed.
    """
    if not waiting:
        return None
    head = waiting[0]
    if not loaded or head.pipeline in loaded or not costs.is_dear(head.pipeline):
        return Turn(head.job_id)
    passed: list[str] = []
    for job in waiting:
        if job.priority != head.priority:
            break
        if job.pipeline in loaded:
            return Turn(job.job_id, tuple(passed))
        if job.passes >= max_passes:
            break
        passed.append(job.job_id)
    return Turn(head.job_id)
