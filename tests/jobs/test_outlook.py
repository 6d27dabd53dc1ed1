"""What is said about waiting: the same as adding up job by job, however long the queue is."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from flux_mcp.jobs.estimates import Outlook, work
from flux_mcp.jobs.job import Job
from flux_mcp.jobs.queue import JobQueue, job_migrations
from flux_mcp.jobs.scheduler import Turn, Waiting
from flux_mcp.requests.plan import RenderPlan
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
def outlook(database: Database) -> Outlook:
    return Outlook(database)


def claim(queue: JobQueue) -> Job:
    def first(waiting: Sequence[Waiting]) -> Turn | None:
        return Turn(waiting[0].job_id) if waiting else None

    job = queue.claim("me", first)
    assert job is not None
    return job


def draw(queue: JobQueue, draw_s: float, **plan: object) -> None:
    queue.submit(make_job(priority=9, plan=make_plan_row(**plan)))
    assert queue.complete(claim(queue), 0.0, draw_s)


plans = st.builds(
    make_plan_row,
    steps=st.integers(1, 50),
    width=st.integers(1, 128).map(lambda n: n * 16),
    height=st.integers(1, 128).map(lambda n: n * 16),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(waiting=st.lists(st.tuples(st.integers(-1, 1), plans), min_size=1, max_size=6))
def test_the_estimate_of_each_waiting_job_is_the_sum_of_those_before_it_and_its_own(
    database: Database,
    queue: JobQueue,
    outlook: Outlook,
    waiting: list[tuple[int, RenderPlan]],
) -> None:
    database.execute("DELETE FROM jobs")
    draw(queue, 2 * work(make_plan_row()))
    jobs = [queue.submit(make_job(priority=one, plan=plan)) for one, plan in waiting]
    in_order = sorted(jobs, key=lambda job: -job.priority)
    until_s = 0.0
    for place, job in enumerate(in_order, start=1):
        until_s += 2 * work(job.plan)
        assert outlook.end_s(job) == pytest.approx(until_s)
        assert queue.position(job) == place
    assert outlook.start_s() == pytest.approx(until_s)
    assert outlook.draw_s(jobs[0].plan) == pytest.approx(2 * work(jobs[0].plan))


def test_a_running_job_ends_when_its_worker_says(queue: JobQueue, outlook: Outlook) -> None:
    draw(queue, 2 * work(make_plan_row()))
    queue.submit(make_job())
    running = claim(queue)
    waiting = queue.submit(make_job())
    own_s = 2 * work(make_plan_row())
    assert outlook.end_s(running) == pytest.approx(own_s)
    assert outlook.end_s(waiting) == pytest.approx(2 * own_s)
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
    assert outlook.end_s(queue.find(running.id)) == 40.0
    assert outlook.end_s(waiting) == pytest.approx(40.0 + own_s)
    assert outlook.start_s() == pytest.approx(40.0 + own_s)
    assert queue.complete(running, 0.0, 1.0)
    assert outlook.end_s(queue.find(running.id)) is None


def test_nothing_is_said_while_a_job_before_cannot_be_estimated(
    queue: JobQueue, outlook: Outlook
) -> None:
    draw(queue, 1.0)
    before = queue.submit(make_job(plan=make_plan_row(kind="fill")))
    after = queue.submit(make_job())
    assert outlook.end_s(before) is None
    assert outlook.end_s(after) is None
    assert outlook.start_s() is None
    assert outlook.draw_s(after.plan) == pytest.approx(1.0)


def test_an_empty_queue_starts_at_once(outlook: Outlook) -> None:
    assert outlook.start_s() == 0
    assert outlook.depth() == 0
    assert outlook.lines(None, 10) == []


def test_estimates_follow_the_jobs_that_ended_last(queue: JobQueue, outlook: Outlook) -> None:
    for _ in range(20):
        draw(queue, 50.0)
    for _ in range(11):
        draw(queue, 3.0)
    assert outlook.draw_s(make_plan_row()) == pytest.approx(3.0)


def test_the_list_has_the_running_job_then_the_others_in_queue_order(
    queue: JobQueue, outlook: Outlook
) -> None:
    queue.submit(make_job(principal="ann"))
    running = claim(queue)
    later = queue.submit(make_job(principal="bob", session="s"))
    sooner = queue.submit(make_job(principal="ann", priority=1))
    lines = outlook.lines(None, 10)
    assert [line.job_id for line in lines] == [running.id, sooner.id, later.id]
    assert [line.position for line in lines] == [None, 1, 2]
    assert (lines[2].session, lines[2].total_steps) == ("s", later.total_steps)
    (mine,) = outlook.lines("bob", 10)
    assert (mine.job_id, mine.position) == (later.id, 2)
    assert len(outlook.lines(None, 2)) == 2
    assert outlook.depth() == 2


def test_no_look_reads_all_jobs_that_ever_were(
    database: Database, queue: JobQueue, outlook: Outlook
) -> None:
    """Each statement walks an index: the cost is that of the queue, not of the years before."""
    draw(queue, 1.0)
    queue.submit(make_job())
    claim(queue)
    job = queue.submit(make_job())
    asked: list[str] = []
    database.conn.set_trace_callback(asked.append)
    outlook.end_s(job)
    outlook.start_s()
    outlook.draw_s(job.plan)
    outlook.lines(None, 10)
    outlook.depth()
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
