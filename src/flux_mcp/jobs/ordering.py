"""In which order waiting jobs load least, if each may be passed only so often. Pure.

The bound is that of "constrained position shifting", made for landing aircraft: nobody is moved
more than k places from first come, first served (R. G. Dear, MIT, 1976). There, as here, it makes a
dynamic programme small: all but a few jobs after the oldest unserved one are unserved (H.
Balakrishnan and B. Chandran, Operations Research 58(6), 2010). With P pipelines, of which one fits,
and k passes, there are at most P * C(k + P - 1, P - 1) states for each number of jobs served: 350
for five kinds and four passes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import NamedTuple

WIDTH = 100
"""States that are followed for each number of jobs served: the cheapest. It bounds the time to a
few hundredths of a second. On 18 made-up traces with long queues, 32 led to 7 % more loads, and 300
to 1 % fewer (2026-11, patterns of benchmarks/scheduling.py)."""


@dataclass(frozen=True)
class Candidate:
    """A waiting job."""

    pipeline: str
    passes_left: int
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
    jobs: Sequence[Candidate], loaded: tuple[str, ...], load_ms: Mapping[str, int]
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


def allowed(jobs: Sequence[Candidate], served: int) -> Iterator[int]:
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
        if passed >= candidate.passes_left:
            return


def use(loaded: tuple[str, ...], pipeline: str, capacity: int) -> tuple[str, ...]:
    """Return what is loaded after a pipeline was used: the longest unused has made room."""
    if pipeline in loaded:
        return (*(other for other in loaded if other != pipeline), pipeline)
    return (*(loaded[1:] if len(loaded) >= capacity else loaded), pipeline)


def _worth_trying(jobs: Sequence[Candidate], state: _State) -> Iterable[int]:
    oldest = _oldest(state.served)
    if jobs[oldest].pipeline in state.loaded:
        # It loads nothing and passes nobody. Where one pipeline fits, nothing can be better; where
        # several do, using another first could keep that one loaded, which is given up.
        return (oldest,)
    return allowed(jobs, state.served)


def _oldest(served: int) -> int:
    """Return the oldest job that is not served: the lowest bit that is 0."""
    return (~served & (served + 1)).bit_length() - 1
