import subprocess
import sys
from pathlib import Path
from sqlite3 import OperationalError

import pytest

from flux_mcp.gallery.store import migrate
from flux_mcp.storage.database import open_database

MIGRATE = """
import sys
from pathlib import Path
from flux_mcp.storage.database import open_database
from flux_mcp.gallery.store import migrate

print("ready", flush=True)
sys.stdin.readline()
database = open_database(Path(sys.argv[1]))
migrate(database)
print(database.execute("SELECT count(*) FROM images").fetchone()[0], flush=True)
"""


def schema(database):
    return database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_migrating_twice_is_the_same_as_once(tmp_path: Path):
    database = open_database(tmp_path / "g.sqlite")
    migrate(database)
    before = schema(database), list(database.table("gallery_facts").rows)
    migrate(database)
    assert (schema(database), list(database.table("gallery_facts").rows)) == before
    assert not database.conn.in_transaction
    database.close()


def test_the_tables_are_strict(tmp_path: Path):
    database = open_database(tmp_path / "g.sqlite")
    migrate(database)
    assert database.table("images").strict
    assert database.table("gallery_facts").strict
    database.close()


def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path):
    database = open_database(tmp_path / "g.sqlite")
    database.execute("CREATE TABLE images_fts (in_the_way TEXT)")
    before = schema(database)
    with pytest.raises(OperationalError, match="images_fts"):
        migrate(database)
    assert schema(database) == before
    database.close()


def test_processes_migrating_one_fresh_file_at_once_all_succeed(tmp_path: Path):
    for attempt in range(3):
        command = [sys.executable, "-c", MIGRATE, str(tmp_path / f"{attempt}.sqlite")]
        processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=60) for process in processes]
        assert answers == [("0\n", "")] * 3
