"""Which job next. Pure: the queue gives the waiting jobs, the executor what is loaded."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from statistics import median
from typing import Literal, NamedTuple

WIDTH = 100
"""States that are followed for each number of jobs served: the cheapest. It bounds the time to a
few hundredths of a second. On 18 made-up traces with long queues, 32 led to 7 % more loads, and 300
to 1 % fewer (2026-11, patterns of benchmarks/scheduling.py)."""


@dataclass(frozen=True)
class WaitingJob:
    """A waiting job."""

    pipeline: str
    overtakes_left: int
    """How many later jobs may still go first."""


class _State(NamedTuple):
    served: int
    """Bit n: whether job n is served."""
    loaded: tuple[str, ...]
    """The longest unused first."""


class _Way(NamedTuple):
    """The best way found to a state: the least is the best, field by field."""

    load_ms: int
    lateness: int
    """Places of its loads from the front, added up and negative: less is later. What is loaded
    later may find more jobs that wait for it."""
    first: int
    """The job it serves first."""


def first_of_cheapest_order(
    jobs: Sequence[WaitingJob], loaded: tuple[str, ...], load_ms: Mapping[str, int]
) -> int:
    """Return which job goes first in the order that spends least on loading.

    Jobs of one pipeline keep their order among themselves, and the oldest of all goes at once while
    its pipeline is loaded.

    Args:
        jobs: At least one, the oldest first.
        loaded: At least one pipeline, the longest unused first; as many fit, and the longest unused
            makes room.
        load_ms: What loading each pipeline costs, in milliseconds.
    """
    ways = {_State(0, loaded): _Way(0, 0, 0)}
    for place in range(len(jobs)):
        onward: dict[_State, _Way] = {}
        for state, way in nsmallest(WIDTH, ways.items(), key=lambda item: item[1][:2]):
            for job in _worth_trying(jobs, state):
                pipeline = jobs[job].pipeline
                after = _State(state.served | 1 << job, use(state.loaded, pipeline, len(loaded)))
                is_hit = pipeline in state.loaded
                new = _Way(
                    way.load_ms + (0 if is_hit else load_ms[pipeline]),
                    way.lateness - (0 if is_hit else place),
                    way.first if place else job,
                )
                known = onward.get(after)
                if known is None or new[:2] < known[:2]:
                    onward[after] = new
        ways = onward
    return min(ways.values()).first


def allowed(jobs: Sequence[WaitingJob], served: int) -> Iterator[int]:
    """Yield the jobs that may go next: of each pipeline the oldest, if no bound is in its way.

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
        passed = (served >> job).bit_count()
        if passed >= candidate.overtakes_left:
            return


def use(loaded: tuple[str, ...], pipeline: str, capacity: int) -> tuple[str, ...]:
    """Return what is loaded after a pipeline was used: the longest unused has made room."""
    if pipeline in loaded:
        return (*(other for other in loaded if other != pipeline), pipeline)
    return (*(loaded[1:] if len(loaded) >= capacity else loaded), pipeline)


def _worth_trying(jobs: Sequence[WaitingJob], state: _State) -> Iterable[int]:
    oldest = _oldest(state.served)
    if jobs[oldest].pipeline in state.loaded:
        # It loads nothing and passes nobody. Where one pipeline fits, nothing can be better; where
        # several do, using another first could keep that one loaded, which is given up.
        return (oldest,)
    return allowed(jobs, state.served)


def _oldest(served: int) -> int:
    """Return the oldest job that is not served: the lowest bit that is 0."""
    return (~served & (served + 1)).bit_length() - 1


DEAR_SWITCH_RATIO = 0.1
"""A switch is expensive from this share of a job's drawing time on. With jobs of `t_job` seconds, and
one switch of `t_switch` every k jobs instead of at every job, the throughput grows by
`(t_job + t_switch) / (t_job + t_switch / k)`: at most 10 % where `t_switch / t_job` is 0.1."""

LoadLevel = Literal["first", "again"]
"""`first`: nothing in this worker process had been drawn with the pipeline before: its weights came
from the disk. `again`: they had been loaded before, and lay in host memory or in the system's file
cache."""


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

    def is_expensive(self, held_up: str, passing: str) -> bool:
        """Whether a job of one pipeline may hold up a job of another to save a switch.

        What it saves is, on average, a switch from one to the other; what it costs is the time of
        its drawing, by which all that it passes wait longer. So a short job may pass a long one
        where the long one may not pass the short. Unknown costs count as expensive: the first load of
        real weights takes tens of seconds.
        """
        loads_s = (self.load_s.get(held_up), self.load_s.get(passing))
        draw_s = self.draw_s.get(passing)
        if loads_s[0] is None or loads_s[1] is None or draw_s is None:
            return True
        return sum(filter(None, loads_s)) / 2 > DEAR_SWITCH_RATIO * draw_s

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
    max_overtakes: int,
) -> Turn | None:
    """Return whose turn it is, or `None` when nobody waits.

    First in, first out within a priority, with one exception: where a switch is expensive, the jobs that
    wait are put into the order that loads least, and its first may pass others. No job is passed
    more than `max_overtakes` times: it waits for at most so many jobs that came later.

    The order is planned again for each job. Jobs that arrive meanwhile take part in the next plan;
    how much of a plan comes true does not matter to the bound.

    Args:
        waiting: In queue order: highest priority first, then oldest first.
        loaded: `kind/model` of every resident pipeline, the longest unused first. As many are taken
            to fit as there are.
        read_costs: What switches and jobs were measured to take; asked only where it decides.
        max_overtakes: How often one job may be passed.
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
        [WaitingJob(job.pipeline, max_overtakes - job.passes) for job in line],
        tuple(loaded),
        costs.load_ms({job.pipeline for job in line}),
    )
    if first == 0 or not costs.is_expensive(head.pipeline, line[first].pipeline):
        return Turn(head.job_id)
    return Turn(line[first].job_id, tuple(job.job_id for job in line[:first]))


def _may_gain(line: Sequence[Waiting], costs: Costs) -> bool:
    """Whether some job may pass the first; most often the plan need not be made to know."""
    head = line[0].pipeline
    return any(costs.is_expensive(head, job.pipeline) for job in line if job.pipeline != head)
