"""Traces: which jobs came when, and what they took. A file of them is read, made or exported here.

    python benchmarks/scheduling_traces.py make                       the made-up ones, again
    python benchmarks/scheduling_traces.py export DATA_DIR FILE       one from a data folder's jobs

A file in traces/ is JSON lines: first what the trace is, then a job a line, in order of arrival:
`arrival_s` after the first job, `pipeline` as kind/model, `draw_s` without loading. Nothing else of
a job leaves its data folder: no prompt, no session, no owner; a model that flux-mcp does not ship
is called own1, own2, ...

The made-up ones are drawn from a seed; their parameters stand in their first lines. Times are in
jobs: the same arrivals serve a fast GPU with short jobs and a slow one with long jobs.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flux_mcp.jobs.queue import EndedJob, JobQueue, migrate
from flux_mcp.models.registry import load_registry
from flux_mcp.settings.paths import Paths
from flux_mcp.storage.database import open_database

TRACES = Path(__file__).resolve().parent / "traces"
PIPELINES = (
    "text2img/flux1-schnell",
    "kontext/flux1-kontext-dev",
    "fill/flux1-fill-dev",
    "control/flux1-canny-dev",
    "redux/flux1-redux-dev",
)


@dataclass(frozen=True)
class TraceJob:
    """One job of a trace."""

    arrival_s: float
    """After the first."""
    pipeline: str
    """`kind/model`."""
    draw_s: float


@dataclass(frozen=True)
class Trace:
    """Jobs in order of arrival."""

    name: str
    about: dict[str, Any]
    """How it came to be."""
    jobs: tuple[TraceJob, ...]


def read_trace(path: Path) -> Trace:
    """Read one file."""
    about, *jobs = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return Trace(path.stem, about, tuple(TraceJob(**job) for job in jobs))


def write_trace(trace: Trace, path: Path) -> None:
    """Write one file."""
    lines = (trace.about, *map(asdict, trace.jobs))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


# --- from a data folder --------------------------------------------------------------------------


def export(data_dir: Path) -> tuple[TraceJob, ...]:
    """Return the completed jobs of a data folder as a trace has them."""
    database = open_database(Paths(data_dir).database)
    migrate(database)
    ended = JobQueue(database, limit=0).ended_since("")
    database.close()
    completed = sorted((job for job in ended if job.status == "completed"), key=_arrival)
    shipped = {spec.id for spec in load_registry()}
    own = sorted({job.model for job in completed} - shipped)
    names = {model: f"own{number}" for number, model in enumerate(own, 1)}
    first_s = _arrival(completed[0])[0] if completed else 0.0
    return tuple(
        TraceJob(
            arrival_s=round(_arrival(job)[0] - first_s, 3),
            pipeline=f"{job.kind}/{names.get(job.model, job.model)}",
            draw_s=round(job.draw_s or 0.0, 3),
        )
        for job in completed
    )


def _arrival(job: EndedJob) -> tuple[float, int]:
    """Return when a job came, in seconds, and its place among those of the same moment."""
    return datetime.fromisoformat(job.created_at).timestamp(), job.seq


# --- made up -------------------------------------------------------------------------------------


def bursts(choose: random.Random, jobs: int) -> Iterator[tuple[float, str]]:
    """Yield five kinds at random: 8 to 20 within one job's time, every 16 to 40 jobs' time."""
    arrival, count = 0.0, 0
    while count < jobs:
        for _ in range(min(choose.randint(8, 20), jobs - count)):
            yield arrival + choose.uniform(0, 1), choose.choice(PIPELINES)
            count += 1
        arrival += choose.uniform(16, 40)


def session(choose: random.Random, jobs: int) -> Iterator[tuple[float, str]]:
    """Yield what one user asks for: a look, 1 to 4 images of a kind, another kind half the time.

    A round comes 1 to 4 jobs' time after the last, so often before that is done.
    """
    arrival, count, pipeline = 0.0, 0, PIPELINES[0]
    while count < jobs:
        if choose.random() < 0.5:
            pipeline = choose.choice(PIPELINES)
        for _ in range(min(choose.randint(1, 4), jobs - count)):
            yield arrival, pipeline
            arrival += choose.uniform(0, 0.2)
            count += 1
        arrival += choose.uniform(1, 4)


def agents(choose: random.Random, jobs: int) -> Iterator[tuple[float, str]]:
    """Yield two agents in turn, one drawing and one editing, every 0.5 to 1.1 jobs' time."""
    arrival = 0.0
    for number in range(jobs):
        yield arrival, PIPELINES[number % 2]
        arrival += choose.uniform(0.5, 1.1)


Pattern = Callable[[random.Random, int], Iterator[tuple[float, str]]]
PATTERNS: dict[str, Pattern] = {"bursts": bursts, "session": session, "agents": agents}
JOB_S = {"h200": 0.5, "16gb": 20.0}
"""Seconds of a job: schnell at 1024 px on an H200; FLUX.1 dev in fp8 with 20 steps on a GPU of
16 GB, as computed from the rates of such GPUs."""
JOBS = 120
SEED = 20261121


def make(pattern: str, gpu: str) -> Trace:
    """Make one trace from its seed."""
    choose = random.Random(f"{SEED} {pattern}")  # noqa: S311 - made-up arrivals
    job_s = JOB_S[gpu]
    about = {
        "made": pattern,
        "doc": (PATTERNS[pattern].__doc__ or "").split("\n")[0].removeprefix("Yield "),
        "seed": f"{SEED} {pattern}",
        "job_s": job_s,
        "jobs": JOBS,
    }
    arrivals = sorted(PATTERNS[pattern](choose, JOBS))
    jobs = (TraceJob(round(at * job_s, 3), pipeline, job_s) for at, pipeline in arrivals)
    return Trace(f"{pattern}-{gpu}", about, tuple(jobs))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the traces that are made up, or export one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make", help="write the made-up traces again")
    exporting = commands.add_parser("export", help="write a trace of a data folder's jobs")
    exporting.add_argument("data_dir", type=Path)
    exporting.add_argument("file", type=Path)
    asked = parser.parse_args(arguments)
    if asked.command == "export":
        if not Paths(asked.data_dir).database.is_file():
            parser.error(f"{asked.data_dir} holds no gallery.sqlite")
        jobs = export(asked.data_dir)
        about = {"recorded": "from the jobs of a data folder", "jobs": len(jobs)}
        write_trace(Trace(asked.file.stem, about, jobs), asked.file)
        print(f"{len(jobs)} jobs in {asked.file}")
        return
    for pattern in PATTERNS:
        for gpu in JOB_S:
            trace = make(pattern, gpu)
            write_trace(trace, TRACES / f"{trace.name}.jsonl")
            print(f"{len(trace.jobs)} jobs in {trace.name}.jsonl")


if __name__ == "__main__":
    main()
