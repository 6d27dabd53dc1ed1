"""Which job next. Pure: the queue gives the waiting jobs, the executor what is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flux_mcp.jobs.costs import Costs
from flux_mcp.jobs.ordering import Candidate, first_of_cheapest_order

HORIZON = 32
"""Jobs that the order is planned for. On 18 made-up traces with long queues of five pipelines, 24
jobs led to 2 % more loads, and 60 to 1 % fewer (2026-11, patterns of benchmarks/scheduling.py)."""


@dataclass(frozen=True)
class Waiting:
    """What the choice needs to know of a queued job."""

    job_id: str
    pipeline: str
    """`kind/model`."""
    priority: int
    passes: int


@dataclass(frozen=True)
class Turn:
    """The job whose turn it is, and those it passes."""

    job_id: str
    passed: tuple[str, ...] = ()


def choose_next(
    waiting: Sequence[Waiting],
    loaded: Sequence[str],
    read_costs: Callable[[], Costs],
    max_passes: int,
) -> Turn | None:
    """Return whose turn it is, or `None` when nobody waits.

    First in, first out within a priority, with one exception: where a switch is dear, the jobs that
    wait are put into the order that loads least, and its first may pass others. No job is passed
    more than `max_passes` times: it waits for at most so many jobs that came later.

    The order is planned anew for each job. Jobs that arrive meanwhile take part in the next plan;
    how much of a plan comes true does not matter to the bound.

    Args:
        waiting: In queue order: highest priority first, then oldest first.
        loaded: `kind/model` of every resident pipeline, the longest unused first. As many are taken
            to fit as there are.
        read_costs: What switches and jobs were measured to take; asked only where it decides.
        max_passes: How often one job may be passed.
    """
    if not waiting:
        return None
    head = waiting[0]
    line = [job for job in waiting if job.priority == head.priority][:HORIZON]
    if not loaded or head.pipeline in loaded:
        return Turn(head.job_id)
    costs = read_costs()
    if not _may_gain(line, costs):
        return Turn(head.job_id)
    first = first_of_cheapest_order(
        [Candidate(job.pipeline, max_passes - job.passes) for job in line],
        tuple(loaded),
        costs.load_ms({job.pipeline for job in line}),
    )
    if first == 0 or not costs.is_dear(head.pipeline, line[first].pipeline):
        return Turn(head.job_id)
    return Turn(line[first].job_id, tuple(job.job_id for job in line[:first]))


def _may_gain(line: Sequence[Waiting], costs: Costs) -> bool:
    """Whether some job may pass the first; most often the plan need not be made to know."""
    head = line[0].pipeline
    return any(costs.is_dear(head, job.pipeline) for job in line if job.pipeline != head)
