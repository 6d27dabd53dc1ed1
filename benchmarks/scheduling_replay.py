"""A trace drawn again on an imagined GPU, by the server's own choice of what comes next.

`choose_next` is the product's, and so is what it knows: medians of the jobs that were drawn before.
The clock and the GPU are imagined. Times are whole milliseconds, so a replay is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduling_traces import TraceJob

from flux_mcp.jobs.scheduler import TimedJob, WaitingJob, choose_next, costs_of, load_level, use


@dataclass(frozen=True)
class Gpu:
    """Where a trace is replayed."""

    name: str
    resident: int
    """Pipelines that fit at the same time; the longest unused makes room."""
    first_s: float
    """Seconds to load a pipeline for the first time."""
    again_s: float
    """Seconds to load it once more."""


@dataclass(frozen=True)
class DrawnJob:
    """One job of a replay, in milliseconds from the first arrival."""

    job: int
    """Its place in the order of arrival."""
    arrival_ms: int
    start_ms: int
    load_ms: int
    """0: its pipeline was loaded."""
    end_ms: int


@dataclass(frozen=True)
class Replay:
    """What became of a trace."""

    drawn: tuple[DrawnJob, ...]
    """In the order in which the jobs were drawn."""

    @property
    def swaps(self) -> int:
        """How often a pipeline was loaded, first loads included."""
        return sum(one.load_ms > 0 for one in self.drawn)

    @property
    def swap_s(self) -> float:
        """Seconds spent on loading."""
        return sum(one.load_ms for one in self.drawn) / 1000

    @property
    def waits_s(self) -> list[float]:
        """From each job's arrival until it starts."""
        return [(one.start_ms - one.arrival_ms) / 1000 for one in self.drawn]

    @property
    def order(self) -> tuple[int, ...]:
        """The jobs as they were drawn, by their place in the order of arrival."""
        return tuple(one.job for one in self.drawn)

    @property
    def most_overtaken(self) -> int:
        """How many later jobs overtook the job that most did."""
        order = self.order
        return max(
            (sum(other > job for other in order[:place]) for place, job in enumerate(order)),
            default=0,
        )


class Drawing:
    """The GPU while a trace is drawn on it: its clock and what is loaded."""

    def __init__(self, jobs: Sequence[TraceJob], gpu: Gpu) -> None:
        self.clock_ms = 0
        self.loaded: tuple[str, ...] = ()
        self.used: set[str] = set()
        self.timed: list[TimedJob] = []
        self._jobs = jobs
        self._gpu = gpu

    def draw(self, number: int) -> DrawnJob:
        """Draw a job; returns when it is done."""
        job = self._jobs[number]
        level = load_level(job.pipeline, self.loaded, self.used)
        load_ms = 0 if level is None else load_ms_of(self._gpu, is_first=level == "first")
        start_ms = self.clock_ms
        self.clock_ms += load_ms + to_ms(job.draw_s)
        self.loaded = use(self.loaded, job.pipeline, self._gpu.resident)
        self.used.add(job.pipeline)
        load_s = None if level is None else load_ms / 1000
        self.timed.append(TimedJob(job.pipeline, job.draw_s, level, load_s))
        return DrawnJob(number, to_ms(job.arrival_s), start_ms, load_ms, self.clock_ms)


def replay(jobs: Sequence[TraceJob], gpu: Gpu, max_overtakes: int) -> Replay:
    """Draw a trace in the order that the server would; without overtaking: first in, first out."""
    drawing = Drawing(jobs, gpu)
    overtakes = dict.fromkeys(range(len(jobs)), 0)
    waiting: list[int] = []
    drawn: list[DrawnJob] = []
    arrived = 0
    while len(drawn) < len(jobs):
        if not waiting:
            drawing.clock_ms = max(drawing.clock_ms, to_ms(jobs[arrived].arrival_s))
        while arrived < len(jobs) and to_ms(jobs[arrived].arrival_s) <= drawing.clock_ms:
            waiting.append(arrived)
            arrived += 1
        chosen = choose_next(
            [WaitingJob(str(one), jobs[one].pipeline, overtakes[one]) for one in waiting],
            drawing.loaded,
            lambda: costs_of(drawing.timed),
            max_overtakes,
        )
        if chosen is None:
            raise RuntimeError("jobs wait, and none is chosen")
        for overtaken in chosen.overtaken:
            overtakes[int(overtaken)] += 1
        waiting.remove(int(chosen.job_id))
        drawn.append(drawing.draw(int(chosen.job_id)))
    return Replay(tuple(drawn))


def replay_order(jobs: Sequence[TraceJob], gpu: Gpu, order: Sequence[int]) -> Replay:
    """Draw a trace in a given order."""
    drawing = Drawing(jobs, gpu)
    drawn = []
    for number in order:
        drawing.clock_ms = max(drawing.clock_ms, to_ms(jobs[number].arrival_s))
        drawn.append(drawing.draw(number))
    return Replay(tuple(drawn))


def to_ms(seconds: float) -> int:
    """Return whole milliseconds."""
    return round(1000 * seconds)


def load_ms_of(gpu: Gpu, *, is_first: bool) -> int:
    """Return what a load takes."""
    return to_ms(gpu.first_s if is_first else gpu.again_s)
