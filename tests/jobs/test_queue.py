"""The jobs table: each move is guarded, nothing is lost, nothing runs twice."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlite_utils import Database

from flux_mcp.errors import (
    IdempotencyConflictError,
    QueueFullError,
    StorageError,
    UnknownJobError,
)
from flux_mcp.jobs.estimates import Estimates
from flux_mcp.jobs.job import MAX_ATTEMPTS, Job
from flux_mcp.jobs.queue import JobQueue, QueueLoad, job_migrations
from flux_mcp.jobs.scheduler import NextJob, WaitingJob
from flux_mcp.storage.database import immediate, open_database
from flux_mcp.worker_protocol.messages import ErrorInfo, Progress

from .factories import make_job, make_plan_row

LONG_AGO = "2026-01-01T00:00:00.000000+00:00"
LOST = ErrorInfo(code="worker_lost", message="gone", hint="try again")


def first(waiting: Sequence[WaitingJob]) -> NextJob | None:
    return NextJob(waiting[0].job_id) if waiting else None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gallery.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = open_database(path)
    job_migrations().apply(database)
    yield database
    database.close()


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, limit=3)


def claim(queue: JobQueue, owner: str = "me") -> Job:
    job = queue.claim(owner, first)
    assert job is not None
    return job


def progress(job: Job, step: int) -> Progress:
    return Progress(
        job_id=job.id, attempt=job.attempt, seq=step, phase="denoising", step=step, total_steps=4
    )


def test_a_submitted_job_comes_back_whole(queue: JobQueue) -> None:
    job = make_job(session="s", parents=("img_a",), notices=("n",), idempotency_key="k")
    assert queue.submit(job) == job
    assert queue.find(job.id) == job


def test_a_submitted_job_survives_a_killed_process(path: Path, queue: JobQueue) -> None:
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from factories import make_job\n"
        "from flux_mcp.storage.database import immediate, open_database\n"
        "from flux_mcp.jobs.queue import JobQueue\n"
        "job = JobQueue(open_database(Path(sys.argv[1])), 3).submit(make_job())\n"
        "print(job.id, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    here = str(Path(__file__).parent)
    process = subprocess.run(
        [sys.executable, "-c", program, str(path), here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -9
    assert queue.find(process.stdout.strip()).status == "queued"


def test_the_same_idempotency_key_returns_the_same_job(queue: JobQueue) -> None:
    job = queue.submit(make_job(idempotency_key="k"))
    assert queue.submit(make_job(idempotency_key="k")).id == job.id
    assert queue.depth() == 1


def test_the_same_key_for_another_request_is_refused(queue: JobQueue) -> None:
    queue.submit(make_job(idempotency_key="k"))
    with pytest.raises(IdempotencyConflictError, match="something else"):
        queue.submit(make_job(idempotency_key="k", request={"prompt": "another"}))
    assert queue.depth() == 1


def test_a_known_key_is_answered_even_when_the_queue_is_full(queue: JobQueue) -> None:
    known = queue.submit(make_job(idempotency_key="k"))
    queue.submit(make_job())
    queue.submit(make_job())
    assert queue.submit(make_job(idempotency_key="k")).id == known.id


def test_a_full_queue_refuses_with_the_number_waiting_and_a_time(queue: JobQueue) -> None:
    for _ in range(3):
        queue.submit(make_job())
    with pytest.raises(QueueFullError, match=r"3 jobs are waiting.*Try again in about \d+ s"):
        queue.submit(make_job())
    with pytest.raises(QueueFullError):
        queue.refuse_if_full()
    assert queue.depth() == 3


def test_the_time_to_try_again_is_what_jobs_took(queue: JobQueue, database: Database) -> None:
    done = queue.submit(make_job())
    claim(queue)
    queue.complete(queue.find(done.id), 0.0, 1.0)
    database.execute(
        "UPDATE jobs SET started_at = '2026-01-01T00:00:00+00:00', "
        "finished_at = '2026-01-01T00:00:42+00:00'"
    )
    for _ in range(3):
        queue.submit(make_job())
    with pytest.raises(QueueFullError, match="about 42 s"):
        queue.submit(make_job())


def test_a_claim_takes_the_job_and_counts_the_attempt(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue, "me")
    assert (job.status, job.attempt, job.owner) == ("running", 1, "me")
    assert job.started_at is not None
    assert job.heartbeat_at is not None
    assert queue.claim("me", first) is None


def test_jobs_are_claimed_first_in_first_out(queue: JobQueue) -> None:
    jobs = [queue.submit(make_job()) for _ in range(3)]
    assert [claim(queue).id for _ in jobs] == [job.id for job in jobs]


def test_no_job_is_claimed_twice_by_competing_processes(path: Path, database: Database) -> None:
    queue = JobQueue(database, limit=100)
    jobs = [queue.submit(make_job()) for _ in range(40)]
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from flux_mcp.storage.database import immediate, open_database\n"
        "from flux_mcp.jobs.queue import JobQueue\n"
        "from flux_mcp.jobs.scheduler import NextJob\n"
        "queue = JobQueue(open_database(Path(sys.argv[1])), 100)\n"
        "sys.stdin.readline()\n"
        "while job := queue.claim('x', lambda w: NextJob(w[0].job_id) if w else None):\n"
        "    print(job.id)\n"
    )
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    claimed = [line for rival in rivals for line in rival.communicate()[0].split()]
    assert sorted(claimed) == sorted(job.id for job in jobs)
    assert {queue.find(job.id).attempt for job in jobs} == {1}


def test_a_job_overtaken_by_another_is_counted(queue: JobQueue) -> None:
    patient, quick = queue.submit(make_job()), queue.submit(make_job())
    assert queue.claim("me", lambda _: NextJob(quick.id, (patient.id,))) is not None
    assert queue.find(patient.id).overtakes == 1


def test_a_choice_that_was_taken_meanwhile_is_chosen_again(queue: JobQueue) -> None:
    one, two = queue.submit(make_job()), queue.submit(make_job())
    claim(queue, "other")
    turns = iter([NextJob(one.id), NextJob(two.id)])
    job = queue.claim("me", lambda _: next(turns))
    assert job is not None
    assert job.id == two.id


def test_progress_is_stored_for_the_running_attempt_only(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue)
    queue.report(progress(job, 2))
    assert queue.find(job.id).step == 2
    queue.report(progress(job.model_copy(update={"attempt": 0}), 3))
    assert queue.find(job.id).step == 2


def test_a_final_job_never_moves_again(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue)
    assert queue.complete(job, 0.5, 1.5)
    assert not queue.fail(job, LOST)
    assert not queue.cancelled(job)
    queue.lost(job, LOST)
    queue.give_back("me")
    queue.report(progress(job, 1))
    assert queue.request_cancel(job.id).status == "completed"
    after = queue.find(job.id)
    assert (after.status, after.step, after.load_s, after.draw_s) == ("completed", 4, 0.5, 1.5)


def test_a_result_of_an_older_attempt_changes_nothing(queue: JobQueue) -> None:
    queue.submit(make_job())
    old = claim(queue)
    queue.lost(old, LOST)
    claim(queue)
    assert not queue.complete(old, 0.0, 1.0)
    assert queue.find(old.id).status == "running"


def test_a_waiting_job_is_cancelled_at_once(queue: JobQueue) -> None:
    job = queue.submit(make_job())
    assert queue.request_cancel(job.id).status == "cancelled"
    assert queue.claim("me", first) is None


def test_a_running_job_is_asked_to_stop(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue)
    after = queue.request_cancel(job.id)
    assert (after.status, after.cancel_requested) == ("running", True)
    assert queue.cancelled(job)
    assert queue.find(job.id).finished_at is not None


def test_whether_a_job_should_stop_can_be_asked(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue)
    assert not queue.is_cancel_requested(job.id)
    queue.request_cancel(job.id)
    assert queue.is_cancel_requested(job.id)
    assert not queue.is_cancel_requested("job_unknown")


def test_a_lost_job_runs_again_and_fails_when_attempts_are_used_up(queue: JobQueue) -> None:
    queue.submit(make_job())
    for attempt in range(1, MAX_ATTEMPTS):
        job = claim(queue)
        assert job.attempt == attempt
        queue.lost(job, LOST)
        assert queue.find(job.id).status == "queued"
    last = claim(queue)
    queue.lost(last, LOST)
    after = queue.find(last.id)
    assert (after.status, after.error) == ("failed", LOST)


def test_a_lost_job_that_should_stop_is_cancelled_not_retried(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue)
    queue.request_cancel(job.id)
    queue.lost(job, LOST)
    assert queue.find(job.id).status == "cancelled"


def test_a_job_given_back_keeps_its_place_and_its_attempts(queue: JobQueue) -> None:
    job, later = queue.submit(make_job()), queue.submit(make_job())
    claim(queue)
    queue.give_back("me")
    after = queue.find(job.id)
    assert (after.status, after.attempt, after.step) == ("queued", 0, 0)
    assert queue.position(after) == 1
    assert queue.position(later) == 2


def test_a_job_that_should_stop_is_cancelled_when_its_server_ends(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue)
    queue.request_cancel(job.id)
    queue.give_back("me")
    assert queue.find(job.id).status == "cancelled"


def test_giving_back_leaves_the_jobs_of_other_owners(queue: JobQueue) -> None:
    queue.submit(make_job())
    job = claim(queue, "other")
    queue.give_back("me")
    assert queue.find(job.id).status == "running"


def test_a_new_leader_recovers_what_the_last_one_left(queue: JobQueue) -> None:
    queue.submit(make_job())
    queue.submit(make_job())
    left, stopping = claim(queue, "gone"), claim(queue, "gone")
    queue.request_cancel(stopping.id)
    assert [job.id for job in queue.recover(LOST)] == [left.id, stopping.id]
    assert queue.find(left.id).status == "queued"
    assert queue.find(stopping.id).status == "cancelled"


def test_a_running_job_that_was_cancelled_is_shown_as_stopping_until_it_has_ended(
    queue: JobQueue,
) -> None:
    queue.submit(make_job())
    queue.submit(make_job())
    job, other = claim(queue), claim(queue)
    assert job.shown_status == "running"
    asked = queue.request_cancel(job.id)
    assert (asked.status, asked.shown_status, asked.is_final) == ("running", "stopping", False)
    assert [entry.status for entry in queue.entries(None, 9)] == ["stopping", "running"]
    assert queue.load() == QueueLoad(running=1, stopping=1)
    assert len(queue.running_work()) == 1, "nobody waits for what it had left to do"
    assert Estimates(queue).end_s(asked) is None
    queue.cancelled(job)
    assert queue.find(job.id).shown_status == "cancelled"
    assert queue.load() == QueueLoad(running=1)
    assert queue.find(other.id).shown_status == "running"


def test_sessions_and_positions(queue: JobQueue) -> None:
    mine = queue.submit(make_job(session="s"))
    other = queue.submit(make_job(plan=make_plan_row(steps=8)))
    assert [job.id for job in queue.unfinished_of_session("s")] == [mine.id]
    claim(queue)
    assert queue.position(queue.find(mine.id)) is None
    assert queue.position(mine) is None, "as it was read before it was started"
    assert queue.position(other) == 1
    queue.complete(queue.find(mine.id), 0.1, 2.0)
    assert [job.id for job in queue.recent(1)] == [other.id]


def test_the_last_who_is_told_an_id_says_which_preview_it_wants(queue: JobQueue) -> None:
    job_id = queue.submit(make_job()).id
    assert (queue.find(job_id).id_given, queue.find(job_id).preview) == (False, "small")
    for told, wanted in (("none", "none"), (None, "none"), ("normal", "normal")):
        queue.mark_id_given(job_id, told)
        assert (queue.find(job_id).id_given, queue.find(job_id).preview) == (True, wanted)


@pytest.mark.parametrize("running", [False, True])
def test_a_job_whose_id_somebody_has_is_not_cancelled_for_a_caller_that_left(
    queue: JobQueue, *, running: bool
) -> None:
    claimed, unclaimed = (queue.submit(make_job()) for _ in range(2))
    if running:
        claim(queue)
        claim(queue)
    queue.mark_id_given(claimed.id)
    assert not queue.cancel_unclaimed(claimed.id).cancel_requested
    after = queue.cancel_unclaimed(unclaimed.id)
    assert (after.cancel_requested, after.is_final) == (True, not running)


def test_an_unanswered_job_is_given_until_some_time_after_its_end(
    queue: JobQueue, database: Database
) -> None:
    job = queue.submit(make_job())

    def is_given() -> bool:
        queue.mark_unanswered(job.id)
        database.execute("UPDATE jobs SET unanswered_at = ?", (LONG_AGO,))
        return queue.take_unanswered(job.principal, job.request) is not None

    assert is_given(), "it still waits, however long ago its caller left"
    queue.fail(claim(queue), LOST)
    assert is_given(), "it has ended just now, and nobody knows why"
    database.execute("UPDATE jobs SET finished_at = ?", (LONG_AGO,))
    assert not is_given()


def test_an_unknown_job_is_said_to_be_unknown(queue: JobQueue) -> None:
    for call in (queue.find, queue.request_cancel, queue.cancel_unclaimed):
        with pytest.raises(UnknownJobError, match=r"\[unknown_job\]"):
            call("job_none")


def test_a_hostile_job_id_is_only_ever_a_value(queue: JobQueue) -> None:
    job = queue.submit(make_job())
    with pytest.raises(UnknownJobError):
        queue.find("' OR 1=1 --")
    assert queue.find(job.id).status == "queued"


def test_nobody_writes_between_the_look_at_the_queue_and_the_new_row(
    path: Path, queue: JobQueue, database: Database
) -> None:
    """A deferred transaction would let another process in here, and then fail for it."""
    other = open_database(path)
    other.execute("PRAGMA busy_timeout = 0")
    with immediate(database):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("UPDATE jobs SET step = 1")
        queue.depth()
    other.execute("UPDATE jobs SET step = 1")
    other.close()


def test_submitting_waits_for_another_writer(path: Path, queue: JobQueue) -> None:
    other = open_database(path)
    other.conn.execute("BEGIN IMMEDIATE")
    stored: list[Job] = []
    begun = threading.Event()

    def submit() -> None:
        mine = open_database(path)
        begun.set()
        stored.append(JobQueue(mine, 3).submit(make_job()))
        mine.close()

    writer = threading.Thread(target=submit)
    writer.start()
    begun.wait(30)
    other.conn.execute("COMMIT")
    writer.join(30)
    other.close()
    assert queue.find(stored[0].id).status == "queued"


def test_a_column_that_a_newer_version_added_is_left_out(
    queue: JobQueue, database: Database
) -> None:
    job = queue.submit(make_job())
    database.execute("ALTER TABLE jobs ADD COLUMN worker TEXT")
    assert queue.find(job.id) == job


def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = database.schema
    job_migrations().apply(database)
    assert database.schema == before


# --- rows that cannot be read --------------------------------------------------------------------


DAMAGES = {
    "plan": '\'{"kind": "text2img"\'',
    "plan ": '\'{"kind": "of next year"}\'',
    "notices": "'no list'",
    "error": "'[1]'",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_row_that_cannot_be_read_fails_and_the_queue_goes_on(
    queue: JobQueue, database: Database, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good, later = (queue.submit(make_job(session="s")) for _ in range(3))
    statement = f"UPDATE jobs SET {damage} = {DAMAGES[damage]} WHERE id = ?"  # noqa: S608 - our own
    database.execute(statement, [bad.id])
    # What only looks goes on without it.
    assert queue.next_up(first) is None
    assert {job.id for job in queue.recent(9)} == {good.id, later.id}
    assert {job.id for job in queue.unfinished_of_session("s")} == {good.id, later.id}
    assert sum(queue.waiting_work().values()) > 0
    with pytest.raises(StorageError, match=f"{bad.id} cannot be read.*damaged"):
        queue.find(bad.id)
    # What runs jobs ends it, and takes the next one.
    assert claim(queue).id == good.id
    status, error = database.execute(
        "SELECT status, error FROM jobs WHERE id = ?", [bad.id]
    ).fetchone()
    assert (status, json.loads(error)["code"]) == ("failed", "storage")
    assert "a job that cannot be read has failed" in caplog.text
    assert queue.next_up(first) == later


def test_a_new_leader_ends_a_running_job_that_it_cannot_read(
    queue: JobQueue, database: Database
) -> None:
    bad, good = queue.submit(make_job()), queue.submit(make_job())
    for _ in range(2):
        claim(queue)
    database.execute("UPDATE jobs SET plan = '{}' WHERE id = ?", [bad.id])
    (recovered,) = queue.recover(ErrorInfo(code="worker_lost", message="gone", hint=""))
    assert (recovered.id, recovered.status) == (good.id, "queued")
    assert claim(queue).id == good.id
    assert queue.depth() == 0
