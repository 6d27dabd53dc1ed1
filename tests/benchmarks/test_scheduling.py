"""The simulator counts right, its optimum is one, and our order is close to it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scheduling import GPUS, MAX_OVERTAKES, compare, scenarios
from scheduling_optimum import optimum
from scheduling_replay import Gpu, replay, replay_order
from scheduling_traces import (
    JOB_S,
    PATTERNS,
    TRACES,
    TraceJob,
    main,
    make,
    read_trace,
    write_trace,
)

from flux_mcp.jobs.job import new_job_id
from flux_mcp.jobs.queue import JobQueue, migrate
from flux_mcp.jobs.scheduler import NextJob
from flux_mcp.models.registry import load_registry
from flux_mcp.settings.paths import Paths, ensure_dirs
from flux_mcp.storage.database import open_database
from tests.jobs.factories import make_job, make_plan_row

GOAL = 1.1
"""Swaps of ours over those of the optimum (facts on performance, C10)."""
MEMORY = Gpu("from memory", resident=1, first_s=8.0, again_s=0.5)
DRAWS_S = {"text2img/a": 1.0, "fill/a": 0.4, "redux/a": 2.3}


def one_that_fits() -> Iterator[ParameterSet]:
    for name, gpu in scenarios(quick=False):
        is_cheap = gpu.again_s <= 0.1 * JOB_S.get(name.rsplit("-", 1)[-1], 1.0)
        if gpu.resident == 1 and not is_cheap:
            # The largest searches; the same patterns are there for the smaller GPU.
            marks = [pytest.mark.torture] if name in ("bursts-h200", "session-h200") else []
            yield pytest.param(name, gpu, marks=marks)


@pytest.mark.parametrize(("name", "gpu"), list(one_that_fits()), ids=str)
def test_where_one_pipeline_fits_ours_is_close_to_the_optimum(name: str, gpu: Gpu) -> None:
    found = compare(name, gpu, lambda _share: None)
    assert found.is_expensive
    assert found.best.is_exact
    assert found.best.swaps <= found.ours.swaps <= GOAL * found.best.swaps
    assert found.ours.swaps < found.fifo.swaps
    assert found.ours.most_overtaken <= MAX_OVERTAKES
    assert found.fifo.most_overtaken == 0
    assert max(found.ours.waits_s) <= found.bound_s


def test_there_are_traces_of_every_pattern_and_one_that_was_recorded() -> None:
    names = {path.stem for path in TRACES.glob("*.jsonl")}
    assert names == {f"{pattern}-{gpu}" for pattern in PATTERNS for gpu in JOB_S} | {"recorded"}
    assert {name.rsplit("-", 1)[-1] for name in names} == GPUS.keys()


@pytest.mark.parametrize("gpu", JOB_S)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_made_up_traces_are_what_their_seeds_make(pattern: str, gpu: str) -> None:
    made = make(pattern, gpu)
    assert read_trace(TRACES / f"{made.name}.jsonl") == made


def test_a_replay_is_the_same_each_time_and_draws_each_job_once_when_it_is_there() -> None:
    jobs = read_trace(TRACES / "session-16gb.jsonl").jobs
    first, second = (replay(jobs, MEMORY, MAX_OVERTAKES) for _ in range(2))
    assert first == second
    assert sorted(first.order) == list(range(len(jobs)))
    assert all(one.start_ms >= one.arrival_ms for one in first.drawn)
    assert replay_order(jobs, MEMORY, first.order) == first


def test_a_replay_counts_loads_seconds_and_waits_as_one_does_by_hand() -> None:
    jobs = [
        TraceJob(0.0, "a/x", 1.0),
        TraceJob(0.0, "b/x", 1.0),
        TraceJob(0.5, "a/x", 1.0),
    ]
    fifo = replay(jobs, MEMORY, max_overtakes=0)
    assert (fifo.order, fifo.swaps, fifo.swap_s) == ((0, 1, 2), 3, 16.5)
    assert fifo.waits_s == [0.0, 9.0, 17.5]
    ours = replay(jobs, MEMORY, max_overtakes=1)
    assert (ours.order, ours.swaps, ours.swap_s) == ((0, 2, 1), 2, 16.0)
    assert ours.most_overtaken == 1


def best_by_trying_all(jobs: list[TraceJob], gpu: Gpu, max_overtakes: int) -> int:
    """Try every order; count swaps and overtakes in another way than the product does."""
    best = len(jobs)
    for order in permutations(range(len(jobs))):
        if any(sum(o > j for o in order[:at]) > max_overtakes for at, j in enumerate(order)):
            continue
        clock, loaded, used, swaps = 0.0, [], set(), 0
        for at, number in enumerate(order):
            clock = max(clock, min(jobs[other].arrival_s for other in order[at:]))
            job = jobs[number]
            if job.arrival_s > clock:
                break
            if job.pipeline in loaded:
                loaded.remove(job.pipeline)
            else:
                swaps += 1
                clock += gpu.again_s if job.pipeline in used else gpu.first_s
                del loaded[: len(loaded) - gpu.resident + 1]
            loaded.append(job.pipeline)
            used.add(job.pipeline)
            clock += job.draw_s
        else:
            best = min(best, swaps)
    return best


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(sorted(DRAWS_S))), min_size=1, max_size=6
    ),
    st.integers(1, 2),
    st.integers(0, 3),
    st.sampled_from([0.5, 4.0]),
)
@example([(0, "text2img/a"), (0, "fill/a"), (40, "text2img/a")], 1, 3, 0.5)
def test_the_optimum_is_what_trying_every_order_finds(
    arrivals: list[tuple[int, str]], resident: int, max_overtakes: int, again_s: float
) -> None:
    jobs = [TraceJob(at / 2, pipeline, DRAWS_S[pipeline]) for at, pipeline in sorted(arrivals)]
    gpu = Gpu("tiny", resident, first_s=2.0, again_s=again_s)
    known = replay(jobs, gpu, max_overtakes=0)
    found = optimum(jobs, gpu, max_overtakes, known)
    assert found.is_exact
    assert found.swaps == best_by_trying_all(jobs, gpu, max_overtakes)
    assert found.order is not None
    reached = replay_order(jobs, gpu, found.order)
    assert reached.swaps == found.swaps
    assert reached.most_overtaken <= max_overtakes
    assert found.swaps <= replay(jobs, gpu, max_overtakes).swaps


def test_a_search_that_grows_too_large_gives_a_lower_bound_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = read_trace(TRACES / "session-16gb.jsonl").jobs
    gpu = Gpu("from disk", resident=1, first_s=4.0, again_s=4.0)
    known = replay(jobs, gpu, MAX_OVERTAKES)
    exact = optimum(jobs, gpu, MAX_OVERTAKES, known)
    monkeypatch.setattr("scheduling_optimum.MAX_STATES", 500)
    bound = optimum(jobs, gpu, MAX_OVERTAKES, known)
    assert exact.is_exact
    assert not bound.is_exact
    assert bound.order is None
    assert bound.swaps <= exact.swaps


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A data folder with two drawn jobs, one of a user's own model, and one that was cancelled."""
    paths = Paths(tmp_path / "data")
    ensure_dirs(paths)
    database = open_database(paths.database)
    migrate(database)
    queue = JobQueue(database, limit=10)
    secret = {"prompt": "a SECRET image", "session": "SECRET"}
    plans = [
        make_plan_row(prompt="a SECRET image"),
        make_plan_row(prompt="a SECRET image", model="SECRET-lora"),
        make_plan_row(prompt="a SECRET image"),
    ]
    for number, plan in enumerate(plans):
        job = make_job(
            id=new_job_id(),
            plan=plan,
            request=secret,
            session="SECRET",
            principal="SECRET",
            created_at=f"2026-11-21T10:00:0{number}.500000+00:00",
        )
        queue.submit(job)
        taken = queue.claim("me", lambda waiting: NextJob(waiting[0].job_id))
        assert taken is not None
        if number < 2:
            queue.complete(taken, load_s=0.5, draw_s=1.25)
        else:
            queue.cancelled(taken)
    database.close()
    return paths.root


def test_an_exported_trace_says_what_came_when_and_nothing_else(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.jsonl"
    main(["export", str(drawn), str(file)])
    assert "2 jobs" in capsys.readouterr().out
    text = file.read_text(encoding="utf-8")
    assert "SECRET" not in text
    assert read_trace(file).jobs == (
        TraceJob(0.0, "text2img/micro", 1.25),
        TraceJob(1.0, "text2img/own1", 1.25),
    )
    keys = [set(json.loads(line)) for line in text.splitlines()]
    assert keys[1:] == [{"arrival_s", "pipeline", "draw_s"}] * 2


def test_exporting_from_a_folder_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path), str(tmp_path / "mine.jsonl")])
    assert "no gallery.sqlite" in capsys.readouterr().err
    assert not (tmp_path / "gallery.sqlite").exists()


def test_a_trace_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    trace = replace(make("agents", "h200"), name="again")
    write_trace(trace, tmp_path / "again.jsonl")
    assert read_trace(tmp_path / "again.jsonl") == trace


def test_the_recorded_trace_names_only_models_that_are_shipped() -> None:
    shipped = {f"{spec.kind}/{spec.id}" for spec in load_registry()}
    recorded = read_trace(TRACES / "recorded.jsonl")
    assert {job.pipeline for job in recorded.jobs} <= shipped
    assert len(recorded.jobs) == recorded.about["jobs"] > 50
