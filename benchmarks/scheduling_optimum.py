"""The fewest swaps that any order could have reached which knew all arrivals beforehand.

"Any order" obeys what ours obeys: no job is overtaken by more than so many later ones, none starts
before it arrived, the GPU never idles while a job waits, the longest unused pipeline makes room,
and jobs of one pipeline keep their order among themselves. (With jobs of equal length within a
pipeline, keeping that order costs no swap: of two of them that are the wrong way round, exchanging
their places overtakes no job more often, and leaves the clock as it is.)

Exact, by dynamic programming over how many jobs of each pipeline are done, what is loaded, and the
clock. The bound makes it feasible: how often the oldest waiting job was overtaken follows from what
is done, and no job behind it was overtaken more often. Two searches:

1. Without the clock, backwards: the fewest swaps from each state on, if all jobs had come at once.
   No order can need fewer, because leaving out the arrivals only adds orders.
2. With the clock, forwards, leaving out what by (1) cannot beat the best order known.

If (2) grows too large, the result is a lower bound, proven by (1), and says so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scheduling_replay import Gpu, Replay, load_ms_of, to_ms
from scheduling_traces import TraceJob

from flux_mcp.jobs.scheduler import use

MAX_STATES = 3_000_000
"""Of the second search; some hundred bytes and microseconds each."""


@dataclass(frozen=True)
class Optimum:
    """What the search found."""

    swaps: int
    is_exact: bool
    """`False`: no order needs fewer, and perhaps all need more."""
    order: tuple[int, ...] | None
    """One that reaches it; `None` where it is only a bound."""
    states: int
    """Looked at in the second search."""


class _Done(NamedTuple):
    counts: tuple[int, ...]
    """Jobs done of each pipeline."""
    loaded: tuple[str, ...]


class _Label(NamedTuple):
    swaps: int
    came_from: tuple[_Done, int] | None
    job: int


def optimum(
    jobs: Sequence[TraceJob],
    gpu: Gpu,
    max_overtakes: int,
    known: Replay,
    report: Callable[[float], None] = lambda _share: None,
) -> Optimum:
    """Find the fewest swaps.

    Args:
        jobs: In order of arrival.
        gpu: Where they are drawn.
        max_overtakes: How often each may be overtaken.
        known: An order that obeys the same rules; the result is at most its swaps.
        report: Called with the share of the work that is done.
    """
    search = _Search(jobs, gpu, max_overtakes)
    to_go = search.swaps_to_go()
    layers: list[dict[tuple[_Done, int], _Label]] = [{(search.start, 0): _Label(0, None, -1)}]
    states = 0
    for number in range(len(jobs)):
        onward: dict[tuple[_Done, int], _Label] = {}
        for (done, clock_ms), label in layers[-1].items():
            for job, after, is_swap in search.steps(done):
                clock = search.start_ms(done, clock_ms)
                swaps = label.swaps + is_swap
                if to_ms(jobs[job].arrival_s) > clock or swaps + to_go[after] >= known.swaps:
                    continue
                key = (after, clock + search.takes_ms(done, job, is_swap=is_swap))
                if key not in onward or swaps < onward[key].swaps:
                    onward[key] = _Label(swaps, (done, clock_ms), job)
        states += len(onward)
        report((number + 1) / len(jobs))
        if not onward:
            return Optimum(known.swaps, is_exact=True, order=known.order, states=states)
        if states > MAX_STATES:
            bound = min(label.swaps + to_go[key[0]] for key, label in onward.items())
            return Optimum(bound, is_exact=False, order=None, states=states)
        layers.append(onward)
    best = min(layers[-1], key=lambda key: layers[-1][key].swaps)
    order = tuple(_walk_back(layers, best))[::-1]
    return Optimum(layers[-1][best].swaps, is_exact=True, order=order, states=states)


def _walk_back(
    layers: Sequence[dict[tuple[_Done, int], _Label]], last: tuple[_Done, int]
) -> Iterator[int]:
    at: tuple[_Done, int] | None = last
    for layer in reversed(layers[1:]):
        if at is None:
            return
        label = layer[at]
        yield label.job
        at = label.came_from


class _Search:
    """The states of one trace on one GPU."""

    def __init__(self, jobs: Sequence[TraceJob], gpu: Gpu, max_overtakes: int) -> None:
        self._jobs = jobs
        self._gpu = gpu
        self._max_overtakes = max_overtakes
        self._pipelines = sorted({job.pipeline for job in jobs})
        self._line = [
            [number for number, job in enumerate(jobs) if job.pipeline == pipeline]
            for pipeline in self._pipelines
        ]
        self.start = _Done((0,) * len(self._pipelines), ())

    def steps(self, done: _Done) -> Iterator[tuple[int, _Done, bool]]:
        """Yield each job that may be next, the state after it, and whether it must be loaded."""
        heads = self._heads(done)
        oldest = min(job for job, _ in heads)
        # All jobs before the oldest are done, so the others that are done overtook it.
        overtakes = sum(done.counts) - oldest
        for job, at in heads:
            if job == oldest or overtakes < self._max_overtakes:
                pipeline = self._pipelines[at]
                counts = (*done.counts[:at], done.counts[at] + 1, *done.counts[at + 1 :])
                after = _Done(counts, use(done.loaded, pipeline, self._gpu.resident))
                yield job, after, pipeline not in done.loaded

    def start_ms(self, done: _Done, clock_ms: int) -> int:
        """Return when the next job starts: now, or when the next one comes."""
        oldest = min(job for job, _ in self._heads(done))
        return max(clock_ms, to_ms(self._jobs[oldest].arrival_s))

    def takes_ms(self, done: _Done, job: int, *, is_swap: bool) -> int:
        """Return how long a job takes with its load."""
        at = self._pipelines.index(self._jobs[job].pipeline)
        load_ms = load_ms_of(self._gpu, is_first=done.counts[at] == 0) if is_swap else 0
        return load_ms + to_ms(self._jobs[job].draw_s)

    def swaps_to_go(self) -> dict[_Done, int]:
        """Return for each state the fewest swaps until the end, had all jobs come at once."""
        layers = [[self.start]]
        for _ in self._jobs:
            layers.append(list({after for done in layers[-1] for _, after, _ in self.steps(done)}))
        to_go = dict.fromkeys(layers.pop(), 0)
        for layer in reversed(layers):
            for done in layer:
                to_go[done] = min(swap + to_go[after] for _, after, swap in self.steps(done))
        return to_go

    def _heads(self, done: _Done) -> list[tuple[int, int]]:
        """Return the next job of each pipeline that has one, with the pipeline's number."""
        return [
            (line[count], at)
            for at, (line, count) in enumerate(zip(self._line, done.counts, strict=True))
            if count < len(line)
        ]
