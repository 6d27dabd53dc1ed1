"""What is the order of jobs worth? Unit: swaps; ratio to the fewest that any order could reach.

Method: recorded and made-up traces (traces/*.jsonl) are replayed on imagined GPUs by the server's
own `choose_next`: first in first out (no overtaking), then with the default bound on it. The
optimum knows all arrivals beforehand and obeys the same bound (scheduling_optimum.py); it is exact
unless the table says ">=". A swap is a load of a pipeline, first loads too. Nothing is measured
here, so every machine finds the same numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import mean, median

from common import Result, ratio, start
from rich.console import Console
from rich.progress import Progress, TaskID
from scheduling_chart import Comparison, lanes, table
from scheduling_optimum import optimum
from scheduling_replay import Gpu, Replay, replay
from scheduling_traces import TRACES, read_trace

from flux_mcp.jobs.scheduler import EXPENSIVE_SWAP_RATIO
from flux_mcp.settings.settings import Settings

MAX_OVERTAKES = int(Settings.model_fields["max_overtakes"].default)

FROM_MEMORY = "from memory"
FROM_DISK = "from disk"
GPUS = {
    # 23.8 GB of a FLUX.1 transformer in bf16: 0.5 s at 50 GB/s from pinned memory, 8 s at 3 GB/s
    # from an NVMe disk; on a PC's GPU 11.9 GB in fp8: 0.5 s at 25 GB/s, 4 s. Computed.
    "h200": (
        Gpu(FROM_MEMORY, resident=1, first_s=8.0, again_s=0.5),
        Gpu(FROM_DISK, resident=1, first_s=8.0, again_s=8.0),
        Gpu(FROM_MEMORY, resident=2, first_s=8.0, again_s=0.5),
        Gpu(FROM_DISK, resident=2, first_s=8.0, again_s=8.0),
    ),
    "16gb": (
        Gpu(FROM_DISK, resident=1, first_s=4.0, again_s=4.0),
        Gpu(FROM_MEMORY, resident=1, first_s=4.0, again_s=0.5),
    ),
    # Micro as it was recorded, if only so many fitted and loading took about as long as drawing.
    "recorded": (
        Gpu("0.5 s", resident=1, first_s=0.5, again_s=0.5),
        Gpu("0.5 s", resident=2, first_s=0.5, again_s=0.5),
    ),
}
IMAGE = ("bursts-h200", FROM_MEMORY, 1)
IMAGE_FROM_S, IMAGE_COLUMN_S, IMAGE_COLUMNS = 40.0, 0.5, 100


def scenarios(quick: bool) -> Iterator[tuple[str, Gpu]]:
    """Yield each trace with each GPU it is replayed on."""
    for path in sorted(TRACES.glob("*.jsonl")):
        gpus = GPUS[path.stem.rsplit("-", 1)[-1]]
        for gpu in gpus[:1] if quick else gpus:
            yield path.stem, gpu


def compare(name: str, gpu: Gpu, report: Callable[[float], None]) -> Comparison:
    """Replay one trace on one GPU, and find the optimum."""
    trace = read_trace(TRACES / f"{name}.jsonl")
    fifo = replay(trace.jobs, gpu, max_overtakes=0)
    ours = replay(trace.jobs, gpu, MAX_OVERTAKES)
    known = min(ours, fifo, key=lambda found: found.swaps)
    best = optimum(trace.jobs, gpu, MAX_OVERTAKES, known, report)
    typical_s = median(job.draw_s for job in trace.jobs)
    is_expensive = gpu.again_s > EXPENSIVE_SWAP_RATIO * typical_s
    return Comparison(trace, gpu, fifo, ours, best, is_expensive)


def measure(quick: bool) -> Result:
    """Replay every trace, and print what became of it."""
    asked = list(scenarios(quick))
    compared = []
    console = Console(width=100)
    with Progress(console=Console(stderr=True), transient=True) as bars:
        everything = bars.add_task("traces", total=len(asked))
        for name, gpu in asked:
            bar = bars.add_task(f"{name}, {gpu.resident} {gpu.name}", total=1.0)
            compared.append(compare(name, gpu, partial(_show, bars, bar)))
            bars.remove_task(bar)
            bars.advance(everything)
    console.print(table(compared))
    print()
    for one in compared:
        if (one.trace.name, one.gpu.name, one.gpu.resident) == IMAGE:
            print(lanes(one, IMAGE_FROM_S, IMAGE_COLUMN_S, IMAGE_COLUMNS), end="\n\n")
    return _report(compared, quick)


def _show(bars: Progress, bar: TaskID, share: float) -> None:
    bars.update(bar, completed=share)


def _report(compared: Sequence[Comparison], quick: bool) -> Result:
    result = Result("scheduling", quick, {"replays": len(compared), "max_overtakes": MAX_OVERTAKES})
    for one in compared:
        name = f"{one.trace.name}, {one.gpu.resident} {one.gpu.name}"
        result.ratios[name] = ratio(one.ours.swaps, one.best.swaps)
        result.absolute[name] = {
            "optimum": {"swaps": one.best.swaps, "exact": one.best.is_exact},
            "fifo": _figures(one.fifo),
            "ours": _figures(one.ours),
        }
    groups = {
        "one pipeline fits, swaps are expensive": [
            c for c in compared if _is(c, expensive=True, fit=1)
        ],
        "two fit, swaps are expensive": [c for c in compared if _is(c, expensive=True, fit=2)],
        "swaps are cheap: no job may overtake": [c for c in compared if not c.is_expensive],
    }
    for group, members in groups.items():
        ratios = [one.ratio for one in members]
        if ratios:
            together = sum(c.ours.swaps for c in members) / sum(c.best.swaps for c in members)
            result.line(
                f"swaps / the optimum's: {group}",
                f"{together:.2f}; {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)}",
                "C10: <= 1.1" if members[0].is_expensive else "",
            )
    late = [one for one in compared if max(one.ours.waits_s) > one.bound_s]
    most = max(one.ours.most_overtaken for one in compared)
    result.line("most often overtaken", str(most), f"{MAX_OVERTAKES}")
    result.line(
        "longest wait above first in first out's + the overtaking jobs", str(len(late)), "none"
    )
    return result


def _is(one: Comparison, *, expensive: bool, fit: int) -> bool:
    return one.is_expensive == expensive and one.gpu.resident == fit


def _figures(found: Replay) -> dict[str, float]:
    return {
        "swaps": found.swaps,
        "swap_s": round(found.swap_s, 3),
        "mean_wait_s": round(mean(found.waits_s), 3),
        "longest_wait_s": round(max(found.waits_s), 3),
        "most_overtaken": found.most_overtaken,
    }


if __name__ == "__main__":
    start(__doc__, measure)
