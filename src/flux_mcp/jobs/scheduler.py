"""Which job is next: first in, first out, unless another order saves expensive model swaps.

Three parts, all pure. `choose_next` is the rule. `Costs` says what loading and drawing take, as
finished jobs measured it. `first_of_cheapest_order` plans the order of the waiting jobs that loads
least, under the bound on how often each may be overtaken. The queue gives the waiting jobs, the
executor what is loaded.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from statistics import median
from typing import Literal, NamedTuple

HORIZON = 32
"""Jobs that the order is planned for. On 18 made-up traces with long queues of five pipelines, 24
jobs led to 2 % more loads, and 60 to 1 % fewer (2026-11, patterns of benchmarks/scheduling.py)."""
WIDTH = 100
"""Cheapest states that are followed for each number of jobs served (a beam search). It bounds the
time to a few hundredths of a second. On 18 made-up traces with long queues, 32 led to 7 % more
loads, and 300 to 1 % fewer (2026-11, patterns of benchmarks/scheduling.py)."""
EXPENSIVE_SWAP_RATIO = 0.1
"""A model swap is expensive from this share of a job's drawing time on. With jobs of `t_job`
seconds, and one swap of `t_swap` every k jobs instead of at every job, the throughput grows by
`(t_job + t_swap) / (t_job + t_swap / k)`: at most 10 % where `t_swap / t_job` is 0.1."""

LoadLevel = Literal["first", "again"]
"""`first`: nothing in this worker process had been drawn with the pipeline before: its weights came
from the disk. `again`: they had been loaded before, and lay in host memory or in the system's file
cache."""

# --- the next job ------------------------------------------------------------------------------


@dataclass(frozen=True)
class WaitingJob:
    """What the choice needs to know of a queued job."""

    job_id: str
    pipeline: str
    """`kind/model`."""
    overtakes: int
    """How often a later job has been started before this one."""


@dataclass(frozen=True)
class NextJob:
    """The job that is started next, and those it overtakes."""

    job_id: str
    overtaken: tuple[str, ...] = ()


def choose_next(
    waiting: Sequence[WaitingJob],
    loaded: Sequence[str],
    read_costs: Callable[[], "Costs"],
    max_overtakes: int,
) -> NextJob | None:
    """Return which job is next, or `None` when none waits.

    First in, first out, with one exception: where a model swap is expensive, the waiting jobs are
    put into the order that loads least, and its first may overtake others. No job is overtaken more
    than `max_overtakes` times: it waits for at most so many jobs that came later.

    The order is planned again for each job. Jobs that arrive meanwhile take part in the next plan;
    how much of a plan comes true does not matter to the bound.

    Args:
        waiting: The oldest first.
        loaded: `kind/model` of every resident pipeline, the longest unused first. As many are taken
            to fit as there are.
        read_costs: What loads and jobs were measured to take; called only where it decides.
        max_overtakes: How often one job may be overtaken.
    """
    if not waiting:
        return None
    head, planned = waiting[0], waiting[:HORIZON]
    if not loaded or head.pipeline in loaded:
        return NextJob(head.job_id)
    costs = read_costs()
    if not _may_gain(planned, costs):
        return NextJob(head.job_id)
    first = first_of_cheapest_order(
        [OrderedJob(job.pipeline, max_overtakes - job.overtakes) for job in planned],
        tuple(loaded),
        costs.load_ms({job.pipeline for job in planned}),
    )
    if first == 0 or not costs.is_expensive(head.pipeline, planned[first].pipeline):
        return NextJob(head.job_id)
    return NextJob(planned[first].job_id, tuple(job.job_id for job in planned[:first]))


def _may_gain(planned: Sequence[WaitingJob], costs: "Costs") -> bool:
    """Whether some job may overtake the first; most often no order is needed to know."""
    head = planned[0].pipeline
    return any(costs.is_expensive(head, job.pipeline) for job in planned if job.pipeline != head)


# --- costs, as measured ------------------------------------------------------------------------


@dataclass(frozen=True)
class TimedJob:
    """What one finished job took."""

    pipeline: str
    """`kind/model`."""
    draw_s: float
    load: LoadLevel | None
    """`None`: the pipeline was loaded already."""
    load_s: float | None
    """Of a job whose pipeline had to be loaded."""


@dataclass(frozen=True)
class Costs:
    """Expected seconds by `kind/model`; what is not in here is not known."""

    load_s: Mapping[str, float]
    """Of loading it once more."""
    draw_s: Mapping[str, float]
    """Of one job."""

    def is_expensive(self, overtaken: str, overtaking: str) -> bool:
        """Whether a job of one pipeline may be overtaken by one of another to save a model swap.

        What that saves is, on average, a swap from one to the other; what it costs is the time the
        overtaking job is drawn, by which all that it overtakes wait longer. A short job may
        overtake a long one where the long one may not overtake the short. Unknown costs count as
        expensive: the first load of real weights takes tens of seconds.
        """
        loads_s = (self.load_s.get(overtaken), self.load_s.get(overtaking))
        draw_s = self.draw_s.get(overtaking)
        if loads_s[0] is None or loads_s[1] is None or draw_s is None:
            return True
        return (loads_s[0] + loads_s[1]) / 2 > EXPENSIVE_SWAP_RATIO * draw_s

    def load_ms(self, pipelines: Iterable[str]) -> dict[str, int]:
        """Return what each load costs in whole milliseconds, at least 1, so that sums are exact.

        One that is not known counts as much as the most expensive that is.
        """
        most_expensive_s = max(self.load_s.values(), default=1.0)
        return {
            pipeline: max(1, round(1000 * self.load_s.get(pipeline, most_expensive_s)))
            for pipeline in pipelines
        }


def load_level(pipeline: str, loaded: Collection[str], used: Collection[str]) -> LoadLevel | None:
    """Return what a job will have to load; `None` for nothing.

    Args:
        pipeline: The job's, as `kind/model`.
        loaded: What is loaded in the worker.
        used: What this worker process has drawn with since it started.
    """
    if pipeline in loaded:
        return None
    return "again" if pipeline in used else "first"


def costs_of(jobs: Iterable[TimedJob]) -> Costs:
    """Return the medians. A pipeline's first load counts only until it was loaded again.

    The order of the jobs decides nothing about first loads: each pipeline has one in any order.
    What an order can save is loading it once more.
    """
    draws: dict[str, list[float]] = {}
    loads: dict[LoadLevel, dict[str, list[float]]] = {"first": {}, "again": {}}
    for job in jobs:
        draws.setdefault(job.pipeline, []).append(job.draw_s)
        if job.load is not None and job.load_s is not None:
            loads[job.load].setdefault(job.pipeline, []).append(job.load_s)
    known = loads["first"] | loads["again"]
    return Costs(
        load_s={pipeline: median(seconds) for pipeline, seconds in known.items()},
        draw_s={pipeline: median(seconds) for pipeline, seconds in draws.items()},
    )


# --- the order that loads least ----------------------------------------------------------------


@dataclass(frozen=True)
class OrderedJob:
    """A waiting job, as the order is planned with it."""

    pipeline: str
    overtakes_left: int
    """How many later jobs may still start before it."""


class _State(NamedTuple):
    served: int
    """Bit n: whether job n is served."""
    loaded: tuple[str, ...]
    """The longest unused first."""


class _Path(NamedTuple):
    """The cheapest path found to a state: the least is the best, field by field."""

    load_ms: int
    lateness: int
    """Places of its loads from the front, added up and negative: less is later. What is loaded
    later may find more jobs that wait for it."""
    first: int
    """The job it serves first."""


def first_of_cheapest_order(
    jobs: Sequence[OrderedJob], loaded: tuple[str, ...], load_ms: Mapping[str, int]
) -> int:
    """Return which job, by index, goes first in the order that spends least on loading.

    Jobs of one pipeline keep their order among themselves, and the oldest of all goes at once while
    its pipeline is loaded.

    Args:
        jobs: At least one, the oldest first.
        loaded: At least one pipeline, the longest unused first; as many fit, and the longest unused
            makes room.
        load_ms: What loading each pipeline costs, in milliseconds.
    """
    paths = {_State(0, loaded): _Path(0, 0, 0)}
    for place in range(len(jobs)):
        onward: dict[_State, _Path] = {}
        for state, path in nsmallest(WIDTH, paths.items(), key=lambda item: item[1][:2]):
            for job in _worth_trying(jobs, state):
                pipeline = jobs[job].pipeline
                after = _State(state.served | 1 << job, use(state.loaded, pipeline, len(loaded)))
                is_hit = pipeline in state.loaded
                new = _Path(
                    path.load_ms + (0 if is_hit else load_ms[pipeline]),
                    path.lateness - (0 if is_hit else place),
                    path.first if place else job,
                )
                known = onward.get(after)
                if known is None or new[:2] < known[:2]:
                    onward[after] = new
        paths = onward
    return min(paths.values()).first


def allowed(jobs: Sequence[OrderedJob], served: int) -> Iterator[int]:
    """Yield the jobs that may go next: of each pipeline the oldest, as far as the bounds allow.

    Args:
        jobs: All, the oldest first.
        served: Bit n: whether job n is served already.
    """
    seen = set()
    for job in range(_oldest(served), len(jobs)):
        if served >> job & 1:
            continue
        candidate = jobs[job]
        if candidate.pipeline not in seen:
            seen.add(candidate.pipeline)
            yield job
        later_served = (served >> job).bit_count()
        if later_served >= candidate.overtakes_left:
            return


def use(loaded: tuple[str, ...], pipeline: str, capacity: int) -> tuple[str, ...]:
    """Return what is loaded after a pipeline was used: the longest unused has made room."""
    if pipeline in loaded:
        return (*(other for other in loaded if other != pipeline), pipeline)
    return (*(loaded[1:] if len(loaded) >= capacity else loaded), pipeline)


def _worth_trying(jobs: Sequence[OrderedJob], state: _State) -> Iterable[int]:
    oldest = _oldest(state.served)
    if jobs[oldest].pipeline in state.loaded:
        # It loads nothing and overtakes nobody. Where one pipeline fits, nothing can be better.
        # Where several do, using another first could keep that one loaded: that is not tried.
        return (oldest,)
    return allowed(jobs, state.served)


def _oldest(served: int) -> int:
    """Return the oldest job that is not served: the lowest bit that is 0."""
    return (~served & (served + 1)).bit_length() - 1
