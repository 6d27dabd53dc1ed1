"""A jobs table of an older version is brought up to date, whoever else does so at the same time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flux_mcp.jobs.queue import JobQueue, job_migrations, migrate, to_row
from flux_mcp.storage.database import open_database

from .factories import make_job

COMPOSED = "keep_what_prompts_are_composed_of"
REPORT = {"pack": "shapes", "version": "1.0.0", "blocks": [{"name": "fixed", "text": "a circle"}]}
MIGRATE = """
import sys
from pathlib import Path
from flux_mcp.storage.database import open_database
from flux_mcp.jobs.queue import migrate

print("ready", flush=True)
sys.stdin.readline()
database = open_database(Path(sys.argv[1]))
migrate(database)
print([row[1] for row in database.execute("PRAGMA table_info(jobs)")].count("composed"))
"""


def old_table(path: Path, *ids: str) -> None:
    """Write a jobs table from before prompts were composed, with jobs in it."""
    database = open_database(path)
    job_migrations().apply(database, stop_before=COMPOSED)
    for job_id in ids:
        row = to_row(make_job(id=job_id, idempotency_key=f"key of {job_id}"))
        for name in ("composed", "principal", "traceparent", "preview"):
            del row[name]
        database.table("jobs").insert(row)
    database.close()


def test_an_old_table_gets_the_column_and_keeps_its_jobs(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    old_table(path, "job_old")
    database = open_database(path)
    assert "composed" not in database.table("jobs").columns_dict
    migrate(database)
    queue = JobQueue(database, limit=9)
    assert queue.find("job_old").composed == ()
    assert queue.find("job_old").plan.prompt == "a red circle"
    assert queue.find("job_old").principal == "local"
    assert queue.find("job_old").preview == "small"
    queue.submit(make_job(id="job_new", composed=(REPORT,)))
    assert queue.find("job_new").composed == (REPORT,)
    stored = database.execute("SELECT composed FROM jobs WHERE id = 'job_new'").fetchone()
    assert json.loads(stored[0]) == [REPORT]
    assert not database.conn.in_transaction
    database.close()


def test_an_old_table_and_a_new_one_become_the_same(tmp_path: Path) -> None:
    old_table(tmp_path / "old.sqlite")
    columns = []
    for name in ("old", "new"):
        database = open_database(tmp_path / f"{name}.sqlite")
        migrate(database)
        columns.append(database.execute("PRAGMA table_info(jobs)").fetchall())
        database.close()
    assert columns[0] == columns[1]


@pytest.mark.parametrize("is_old", [True, False], ids=["old", "fresh"])
def test_processes_migrating_one_file_at_once_all_succeed(tmp_path: Path, *, is_old: bool) -> None:
    for attempt in range(3):
        path = tmp_path / f"{attempt}.sqlite"
        if is_old:
            old_table(path, "job_old")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", MIGRATE, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.communicate(timeout=60) for process in processes] == [("1\n", "")] * 3


def test_an_old_key_still_names_its_job_and_is_free_for_others(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite"
    old_table(path, "job_old", "job_later")
    database = open_database(path)
    migrate(database)
    queue = JobQueue(database, limit=9)
    again = make_job(idempotency_key="key of job_old")
    assert queue.submit(again).id == "job_old"
    other = make_job(idempotency_key="key of job_old", principal="ada")
    assert queue.submit(other).id == other.id
    order = [row[0] for row in database.execute("SELECT id FROM jobs ORDER BY seq")]
    assert order == ["job_old", "job_later", other.id]
    indexes = {index.name for index in database.table("jobs").indexes}
    assert {"jobs_by_status", "jobs_by_session", "jobs_by_end"} <= indexes
    database.close()
