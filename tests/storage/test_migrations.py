"""The tables of a data folder: made once, and kept where an older version made them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from sqlite3 import OperationalError

import pytest
from sqlite_utils import Database

from flux_mcp.errors import StorageError
from flux_mcp.gallery.store import migrate as migrate_gallery
from flux_mcp.gallery.uploads import migrate as migrate_uploads
from flux_mcp.jobs.downloads import migrate as migrate_downloads
from flux_mcp.jobs.measurements import migrate as migrate_measurements
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.queue import migrate as migrate_jobs
from flux_mcp.storage.database import open_database
from tests.jobs.factories import make_job

OLD = Path(__file__).parents[1] / "data" / "old_data" / "gallery.sqlite"
STEPS = (migrate_jobs, migrate_downloads, migrate_gallery, migrate_uploads, migrate_measurements)
TABLES = ("jobs", "downloads", "images", "images_fts", "gallery_facts", "uploads", "measurements")
RACES = 4
MIGRATE = """
import sys
from pathlib import Path
from flux_mcp.gallery.store import migrate as migrate_gallery
from flux_mcp.jobs.measurements import migrate as migrate_measurements
from flux_mcp.jobs.queue import migrate as migrate_jobs
from flux_mcp.storage.database import open_database

print("ready", flush=True)
for line in sys.stdin:
    database = open_database(Path(line.strip()))
    for step in (migrate_jobs, migrate_gallery, migrate_measurements):
        step(database)
    print(database.execute("SELECT count(*) FROM jobs").fetchone()[0], flush=True)
    database.close()
"""


def migrate(database: Database) -> None:
    for step in STEPS:
        step(database)


def fresh(path: Path) -> Path:
    return path


def old(path: Path) -> Path:
    shutil.copy(OLD, path)
    return path


def columns(database: Database) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: [row[1:] for row in database.execute(f"PRAGMA table_info({table})").fetchall()]
        for table in TABLES
    }


def indexes(database: Database) -> set[tuple[str, tuple[str, ...], bool]]:
    return {
        (index.name, tuple(index.columns), bool(index.unique))
        for table in TABLES
        for index in database.table(table).indexes
    }


@pytest.mark.parametrize("make", [fresh, old])
def test_migrating_twice_is_the_same_as_once(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    database = open_database(make(tmp_path / "g.sqlite"))
    migrate(database)
    before = database.schema, list(database.table("gallery_facts").rows)
    migrate(database)
    assert (database.schema, list(database.table("gallery_facts").rows)) == before
    assert not database.conn.in_transaction
    assert all(database.table(t).strict for t in TABLES if t != "images_fts")
    database.close()


def test_old_tables_and_new_ones_become_the_same(tmp_path: Path) -> None:
    found = []
    for make in (fresh, old):
        database = open_database(make(tmp_path / f"{make.__name__}.sqlite"))
        migrate(database)
        found.append((columns(database), indexes(database)))
        database.close()
    assert found[0] == found[1]


def test_old_jobs_keep_their_order_their_keys_and_their_bound(tmp_path: Path) -> None:
    path = old(tmp_path / "g.sqlite")
    before = open_database(path)
    before.execute("UPDATE jobs SET passes = 3, idempotency_key = 'k' WHERE seq = 5")
    ids = [row[0] for row in before.execute("SELECT id FROM jobs ORDER BY seq")]
    before.close()
    database = open_database(path)
    migrate(database)
    queue = JobQueue(database, limit=9)
    assert [job.id for job in queue.recent(9)] == ids[::-1]
    last = queue.find(ids[-1])
    assert (last.overtakes, last.principal, last.preview) == (3, "local", "small")
    again = make_job(idempotency_key="k", request=last.request)
    assert queue.submit(again).id == last.id
    others = make_job(idempotency_key="k", principal="ada")
    assert queue.submit(others).id == others.id
    (seq,) = database.execute("SELECT seq FROM jobs WHERE id = ?", [others.id]).fetchone()
    assert seq == len(ids) + 1
    database.close()


@pytest.mark.parametrize(
    ("step", "table", "column"),
    [
        (migrate_jobs, "jobs", "preview"),
        (migrate_gallery, "images", "principal"),
        (migrate_measurements, "measurements", "load_level"),
    ],
)
def test_a_table_that_is_too_old_is_refused_and_left_as_it_is(
    tmp_path: Path, step: Callable[[Database], None], table: str, column: str
) -> None:
    database = open_database(old(tmp_path / "g.sqlite"))
    database.execute(f"DROP INDEX IF EXISTS {table}_{column}")
    database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    before = database.schema
    with pytest.raises(StorageError, match=f"{table} was made by .* no column {column}"):
        step(database)
    assert database.schema == before
    database.close()


def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    database = open_database(tmp_path / "g.sqlite")
    database.execute("CREATE TABLE images_fts (in_the_way TEXT)")
    before = database.schema
    with pytest.raises(OperationalError, match="images_fts"):
        migrate_gallery(database)
    assert database.schema == before
    database.close()


def test_processes_migrating_one_file_at_once_all_succeed(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE],
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
    for make, jobs in ((fresh, 0), (old, 5)):
        for race in range(RACES):
            path = make(tmp_path / f"{make.__name__}{race}.sqlite")
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == f"{jobs}\n"
    assert [process.communicate(timeout=60) for process in processes] == [("", "")] * 3
