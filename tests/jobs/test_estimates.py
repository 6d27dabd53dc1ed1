"""Estimates are the same as adding up job by job, and read no more than the queue."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from flux_mcp.jobs.estimates import Estimates, estimate_s, rates, work
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import DrawnWork, JobQueue, job_migrations
from flux_mcp.jobs.scheduler import NextJob, WaitingJob
from flux_mcp.requests.render_plan import PlanInput, RenderPlan
from flux_mcp.storage.database import open_database
from flux_mcp.worker_protocol.messages import Progress

from .factories import make_job, make_plan_row


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path / "gallery.sqlite")
    job_migrations().apply(database)
    yield database
    database.close()


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, limit=50)


@pytest.fixture
def estimates(queue: JobQueue) -> Estimates:
    return Estimates(queue)


def claim(queue: JobQueue) -> Job:
    def first(waiting: Sequence[WaitingJob]) -> NextJob | None:
        return NextJob(waiting[0].job_id) if waiting else None

    job = queue.claim("me", first)
    assert job is not None
    return job


def draw(queue: JobQueue, draw_s: float, **plan: object) -> None:
    queue.submit(make_job(plan=make_plan_row(**plan)))
    assert queue.complete(claim(queue), 0.0, draw_s)


plans = st.builds(
    make_plan_row,
    steps=st.integers(1, 50),
    width=st.integers(1, 128).map(lambda n: n * 16),
    height=st.integers(1, 128).map(lambda n: n * 16),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(waiting=st.lists(plans, min_size=1, max_size=6))
def test_the_estimate_of_each_waiting_job_is_the_sum_of_those_before_it_and_its_own(
    database: Database,
    queue: JobQueue,
    estimates: Estimates,
    waiting: list[RenderPlan],
) -> None:
    database.execute("DELETE FROM jobs")
    draw(queue, 2 * work(make_plan_row()))
    jobs = [queue.submit(make_job(plan=plan)) for plan in waiting]
    until_s = 0.0
    for place, job in enumerate(jobs, start=1):
        until_s += 2 * work(job.plan)
        assert estimates.end_s(job) == pytest.approx(until_s)
        assert queue.position(job) == place
    assert estimates.start_s() == pytest.approx(until_s)
    assert estimates.draw_s(jobs[0].plan) == pytest.approx(2 * work(jobs[0].plan))


def test_a_running_job_ends_when_its_worker_says(queue: JobQueue, estimates: Estimates) -> None:
    draw(queue, 2 * work(make_plan_row()))
    queue.submit(make_job())
    running = claim(queue)
    waiting = queue.submit(make_job())
    own_s = 2 * work(make_plan_row())
    assert estimates.end_s(running) == pytest.approx(own_s)
    assert estimates.end_s(waiting) == pytest.approx(2 * own_s)
    queue.report(
        Progress(
            job_id=running.id,
            attempt=1,
            seq=1,
            phase="denoising",
            step=1,
            total_steps=4,
            eta_s=40.0,
        )
    )
    assert estimates.end_s(queue.find(running.id)) == 40.0
    assert estimates.end_s(waiting) == pytest.approx(40.0 + own_s)
    assert estimates.start_s() == pytest.approx(40.0 + own_s)
    assert queue.complete(running, 0.0, 1.0)
    assert estimates.end_s(queue.find(running.id)) is None


def test_nothing_is_said_while_a_job_before_cannot_be_estimated(
    queue: JobQueue, estimates: Estimates
) -> None:
    draw(queue, 1.0)
    before = queue.submit(make_job(plan=make_plan_row(kind="fill")))
    after = queue.submit(make_job())
    assert estimates.end_s(before) is None
    assert estimates.end_s(after) is None
    assert estimates.start_s() is None
    assert estimates.draw_s(after.plan) == pytest.approx(1.0)


def test_an_empty_queue_starts_at_once(queue: JobQueue, estimates: Estimates) -> None:
    assert estimates.start_s() == 0
    assert queue.depth() == 0
    assert queue.entries(None, 10) == []


def test_estimates_follow_the_jobs_that_ended_last(queue: JobQueue, estimates: Estimates) -> None:
    for _ in range(20):
        draw(queue, 50.0)
    for _ in range(11):
        draw(queue, 3.0)
    assert estimates.draw_s(make_plan_row()) == pytest.approx(3.0)


def test_the_list_has_the_running_job_then_the_others_in_queue_order(
    queue: JobQueue,
) -> None:
    queue.submit(make_job(principal="ann"))
    running = claim(queue)
    sooner = queue.submit(make_job(principal="ann"))
    later = queue.submit(make_job(principal="bob", session="s"))
    lines = queue.entries(None, 10)
    assert [line.job_id for line in lines] == [running.id, sooner.id, later.id]
    assert [line.position for line in lines] == [None, 1, 2]
    assert (lines[2].session, lines[2].total_steps) == ("s", later.total_steps)
    (mine,) = queue.entries("bob", 10)
    assert (mine.job_id, mine.position) == (later.id, 2)
    assert len(queue.entries(None, 2)) == 2
    assert queue.depth() == 2


def test_no_look_reads_all_jobs_that_ever_were(
    database: Database, queue: JobQueue, estimates: Estimates
) -> None:
    """Each statement walks an index: the cost is that of the queue, not of the years before."""
    draw(queue, 1.0)
    queue.submit(make_job())
    claim(queue)
    job = queue.submit(make_job())
    asked: list[str] = []
    database.conn.set_trace_callback(asked.append)
    estimates.end_s(job)
    estimates.start_s()
    estimates.draw_s(job.plan)
    queue.entries(None, 10)
    queue.depth()
    queue.position(job)
    queue.is_cancel_requested(job.id)
    database.conn.set_trace_callback(None)
    looks = [sql for sql in asked if sql.lstrip().startswith("SELECT")]
    assert len(looks) >= 9
    for sql in looks:
        steps = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()]
        assert not [step for step in steps if step.startswith("SCAN jobs")], (sql, steps)
        if "'completed'" in sql:
            assert len(steps) == 1, "completed jobs are sorted, all of them"


# --- rates and work ----------------------------------------------------------------------------


def finished(draw_s: float, pipeline: str = "text2img/micro") -> DrawnWork:
    return DrawnWork(pipeline, work(make_plan_row()), draw_s)


def test_nothing_is_estimated_before_such_a_job_has_run() -> None:
    asked = {"text2img/micro": 1.0}
    assert estimate_s(asked, {}) is None
    assert estimate_s(asked, rates([finished(3.0, "fill/micro")])) is None
    assert estimate_s({**asked, "fill/micro": 1.0}, rates([finished(3.0)])) is None


def test_no_work_takes_no_time() -> None:
    assert estimate_s({}, {}) == 0


def test_work_of_several_pipelines_is_added_up() -> None:
    known = {"text2img/micro": 2.0, "fill/micro": 10.0}
    assert estimate_s({"text2img/micro": 3.0, "fill/micro": 0.5}, known) == pytest.approx(11.0)


def test_the_database_counts_the_steps_that_image_to_image_draws(
    queue: JobQueue, estimates: Estimates
) -> None:
    image = PlanInput(role="image", sha256="0" * 64, width=64, height=64)
    like = {"kind": "img2img", "inputs": (image,)}
    plans = [
        make_plan_row(**like, steps=steps, strength=tenths / 10)
        for steps in (1, 4, 10, 28)
        for tenths in range(1, 11)
    ]
    draw(queue, 2 * work(plans[0]), **dict(plans[0]))
    until_s = 0.0
    for plan in plans:
        assert work(plan) == pytest.approx(plan.steps_drawn * plan.width * plan.height / 1e6)
        until_s += 2 * work(plan)
        assert estimates.end_s(queue.submit(make_job(plan=plan))) == pytest.approx(until_s)


def test_twice_the_steps_or_pixels_or_images_are_twice_the_work() -> None:
    once = work(make_plan_row())
    assert work(make_plan_row(steps=8)) == pytest.approx(2 * once)
    assert work(make_plan_row(width=128)) == pytest.approx(2 * once)
    assert work(make_plan_row(seeds=(1, 2))) == pytest.approx(2 * once)


def test_twice_the_work_takes_twice_as_long() -> None:
    known = rates([finished(2.0)])
    once = work(make_plan_row())
    assert estimate_s({"text2img/micro": once}, known) == pytest.approx(2.0)
    assert estimate_s({"text2img/micro": 2 * once}, known) == pytest.approx(4.0)


def test_one_slow_job_does_not_spoil_the_estimate() -> None:
    known = rates([finished(2.0), finished(2.0), finished(90.0)])
    assert estimate_s({"text2img/micro": work(make_plan_row())}, known) == pytest.approx(2.0)
