"""Replays to look at: the table of figures, and when which pipeline was loaded and drew."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from rich.table import Table
from scheduling_optimum import Optimum
from scheduling_replay import Gpu, Replay
from scheduling_traces import Trace

DRAWING, LOADING, NOTHING = "█", "░", " "
HEADINGS = ("trace", "pipelines that fit, loading", "swaps", "of the optimum", "swap s", "wait s")


@dataclass(frozen=True)
class Comparison:
    """One trace on one GPU: first in first out, ours, and the best there is."""

    trace: Trace
    gpu: Gpu
    fifo: Replay
    ours: Replay
    best: Optimum
    is_expensive: bool
    """Whether jobs may overtake: elsewhere the rule is first in, first out on purpose."""

    @property
    def ratio(self) -> float:
        """Swaps of ours over those of the optimum."""
        return self.ours.swaps / self.best.swaps

    @property
    def bound_s(self) -> float:
        """How long a job may wait: first in first out's longest wait, and the overtaking jobs."""
        job_s = max(job.draw_s for job in self.trace.jobs) + max(self.gpu.first_s, self.gpu.again_s)
        return max(self.fifo.waits_s) + job_s * self.ours.most_overtaken


def table(compared: Sequence[Comparison]) -> Table:
    """Return all figures: first in first out, then ours."""
    shown = Table(title="first in first out > ours", title_justify="left", title_style="bold")
    for heading in (*HEADINGS, "longest wait s"):
        shown.add_column(heading)
    for one in compared:
        sign = "" if one.best.is_exact else ">= "
        shown.add_row(
            one.trace.name,
            f"{one.gpu.resident}, {one.gpu.name}",
            f"{one.fifo.swaps} > {one.ours.swaps}",
            f"{sign}{one.best.swaps}: {one.ratio:.2f}" + ("" if one.is_expensive else ", cheap"),
            f"{one.fifo.swap_s:.0f} > {one.ours.swap_s:.0f}",
            f"{mean(one.fifo.waits_s):.0f} > {mean(one.ours.waits_s):.0f}",
            f"{max(one.fifo.waits_s):.0f} > {max(one.ours.waits_s):.0f}",
        )
    return shown


def lanes(one: Comparison, from_s: float, column_s: float, columns: int) -> str:
    """Draw a stretch of both replays: a lane for each pipeline, first in first out above ours."""
    pipelines = sorted({job.pipeline for job in one.trace.jobs})
    width = max(len(pipeline.split("/")[0]) for pipeline in pipelines)
    lines = []
    for name, replay in (("first in, first out", one.fifo), ("ours", one.ours)):
        until_ms = 1000 * (from_s + columns * column_s)
        done = sum(turn.end_ms <= until_ms for turn in replay.drawn)
        lines.append(f"{name}: {done} jobs done after {until_ms / 1000:.0f} s")
        for pipeline in pipelines:
            own = [turn for turn in replay.drawn if one.trace.jobs[turn.job].pipeline == pipeline]
            marks = []
            for column in range(columns):
                at_ms = 1000 * (from_s + (column + 0.5) * column_s)
                mark = NOTHING
                for turn in own:
                    if turn.start_ms <= at_ms < turn.end_ms:
                        mark = LOADING if at_ms < turn.start_ms + turn.load_ms else DRAWING
                marks.append(mark)
            lines.append(f"{pipeline.split('/')[0]:>{width}} |{''.join(marks)}|")
    lines.append(
        f"{'':>{width}}  {LOADING} loading, {DRAWING} drawing; a column is {column_s:g} s, "
        f"from {from_s:g} s on"
    )
    return "\n".join(lines)
