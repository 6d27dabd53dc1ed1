"""What a switch between pipelines costs, from what finished jobs took. Pure.

measurements.py keeps the figures; scheduler.py weighs them.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

DEAR_SWITCH_RATIO = 0.1
"""A switch is dear from this share of a job's drawing time on. With jobs of `t_job` seconds, and
one switch of `t_switch` every k jobs instead of at every job, the throughput grows by
`(t_job + t_switch) / (t_job + t_switch / k)`: at most 10 % where `t_switch / t_job` is 0.1."""

LoadLevel = Literal["first", "again"]
"""`first`: nothing in this worker process had been drawn with the pipeline before: its weights came
from the disk. `again`: they had been loaded before, and lay in main memory or in the system's file
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

    def is_dear(self, held_up: str, passing: str) -> bool:
        """Whether a job of one pipeline may hold up a job of another to save a switch.

        What it saves is, on average, a switch from one to the other; what it costs is the time of
        its drawing, by which all that it passes wait longer. So a short job may pass a long one
        where the long one may not pass the short. Unknown costs count as dear: the first load of
        real weights takes tens of seconds.
        """
        loads_s = (self.load_s.get(held_up), self.load_s.get(passing))
        draw_s = self.draw_s.get(passing)
        if loads_s[0] is None or loads_s[1] is None or draw_s is None:
            return True
        return sum(filter(None, loads_s)) / 2 > DEAR_SWITCH_RATIO * draw_s

    def load_ms(self, pipelines: Iterable[str]) -> dict[str, int]:
        """Return what each load costs in whole milliseconds, at least 1, so that sums are exact.

        One that is not known counts as much as the dearest that is.
        """
        dearest_s = max(self.load_s.values(), default=1.0)
        return {
            pipeline: max(1, round(1000 * self.load_s.get(pipeline, dearest_s)))
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
