"""A trace drawn again on an imagined GPU, by the server's own choice of what comes next.

`choose_next` is the product's, and so is what it knows: medians of the jobs that were drawn before.
The clock and the GPU are imagined. Times are whole milliseconds, so a replay is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduling_traces import TraceJob

from flux_mcp.jobs.scheduler import TimedJob, Waiting, choose_next, costs_of, load_level, use


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
class Turn:
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

    turns: tuple[Turn, ...]
    """In the order in which the jobs were drawn."""

    @property
    def swaps(self) -> int:
        """How often a pipeline was loaded, first loads included."""
        return sum(turn.load_ms > 0 for turn in self.turns)

    @property
    def swap_s(self) -> float:
        """Seconds spent on loading."""
        return sum(turn.load_ms for turn in self.turns) / 1000

    @property
    def waits_s(self) -> list[float]:
        """From each job's arrival until its turn."""
        return [(turn.start_ms - turn.arrival_ms) / 1000 for turn in self.turns]

    @property
    def order(self) -> tuple[int, ...]:
        """The jobs as they were drawn, by their place in the order of arrival."""
        return tuple(turn.job for turn in self.turns)

    @property
    def most_passed(self) -> int:
        """By how many later jobs the most passed one was passed."""
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

    def draw(self, number: int) -> Turn:
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
        return Turn(number, to_ms(job.arrival_s), start_ms, load_ms, self.clock_ms)


def replay(jobs: Sequence[TraceJob], gpu: Gpu, max_overtakes: int) -> Replay:
    """Draw a trace in the order that the server would; with no passes: first in, first out."""
    drawing = Drawing(jobs, gpu)
    passes = dict.fromkeys(range(len(jobs)), 0)
    waiting: list[int] = []
    turns: list[Turn] = []
    arrived = 0
    while len(turns) < len(jobs):
        if not waiting:
            drawing.clock_ms = max(drawing.clock_ms, to_ms(jobs[arrived].arrival_s))
        while arrived < len(jobs) and to_ms(jobs[arrived].arrival_s) <= drawing.clock_ms:
            waiting.append(arrived)
            arrived += 1
        turn = choose_next(
            [Waiting(str(number), jobs[number].pipeline, 0, passes[number]) for number in waiting],
            drawing.loaded,
            lambda: costs_of(drawing.timed),
            max_overtakes,
        )
        if turn is None:
            raise RuntimeError("jobs wait, and none has its turn")
        for passed in turn.passed:
            passes[int(passed)] += 1
        waiting.remove(int(turn.job_id))
        turns.append(drawing.draw(int(turn.job_id)))
    return Replay(tuple(turns))


def replay_order(jobs: Sequence[TraceJob], gpu: Gpu, order: Sequence[int]) -> Replay:
    """Draw a trace in a given order."""
    drawing = Drawing(jobs, gpu)
    turns = []
    for number in order:
        drawing.clock_ms = max(drawing.clock_ms, to_ms(jobs[number].arrival_s))
        turns.append(drawing.draw(number))
    return Replay(tuple(turns))


def to_ms(seconds: float) -> int:
    """Return whole milliseconds."""
    return round(1000 * seconds)


def load_ms_of(gpu: Gpu, *, is_first: bool) -> int:
    """Return what a load takes."""
    return to_ms(gpu.first_s if is_first else gpu.again_s)
