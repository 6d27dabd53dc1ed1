import asyncio
import importlib
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlite_utils.migrations import Migrations

from flux_mcp.errors import StorageError
from flux_mcp.storage import database as database_module
from flux_mcp.storage.database import (
    DatabaseThread,
    bring_up_to_date,
    immediate,
    open_database,
)

ADD = """
import sys
from pathlib import Path
from flux_mcp.storage.database import immediate, open_database

database = open_database(Path(sys.argv[1]))
for _ in range(50):
    with immediate(database):
        (n,) = database.execute("SELECT n FROM counter").fetchone()
        database.execute("UPDATE counter SET n = ?", [n + 1])
"""


def nothing(database) -> None:
    database.execute("CREATE TABLE IF NOT EXISTS counter (n INTEGER CHECK (n < 1000))")


def test_the_file_is_opened_with_a_write_ahead_log_and_patience(tmp_path: Path):
    database = open_database(tmp_path / "a.sqlite")
    assert database.journal_mode == "wal"
    assert database.execute("PRAGMA synchronous").fetchone() == (1,)
    assert database.execute("PRAGMA busy_timeout").fetchone()[0] >= 5000
    database.close()


def test_a_fresh_file_that_another_connection_writes_to_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE a (id INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    refused = sqlite3.connect(path)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        refused.execute("PRAGMA journal_mode = wal")
    refused.close()
    opened: list[str] = []
    waits = threading.Event()
    monkeypatch.setattr(time, "sleep", lambda _: waits.set())
    opening = threading.Thread(target=lambda: opened.append(mode_of(path)))
    opening.start()
    assert waits.wait(timeout=30)
    assert opened == []
    other.execute("COMMIT")
    opening.join(timeout=30)
    assert opened == ["wal"]
    other.close()


def mode_of(path: Path) -> str:
    database = open_database(path)
    try:
        return database.journal_mode
    finally:
        database.close()


def test_an_error_inside_a_transaction_undoes_it(tmp_path: Path):
    database = open_database(tmp_path / "a.sqlite")
    nothing(database)
    with pytest.raises(sqlite3.IntegrityError), immediate(database):
        database.executescript("INSERT INTO counter VALUES (1); INSERT INTO counter VALUES (1000);")
    assert not database.conn.in_transaction
    assert database.execute("SELECT count(*) FROM counter").fetchone() == (0,)
    database.close()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path):
    database = open_database(tmp_path / "a.sqlite")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    database.execute("CREATE TABLE b (a REFERENCES a(id) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), immediate(database):
        database.execute("INSERT INTO b VALUES (1)")
    assert not database.conn.in_transaction
    database.close()


def test_read_then_write_of_several_processes_loses_nothing(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    database = open_database(path)
    nothing(database)
    database.execute("INSERT INTO counter VALUES (0)")
    processes = [subprocess.Popen([sys.executable, "-c", ADD, str(path)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert database.execute("SELECT n FROM counter").fetchone() == (150,)
    database.close()


def test_every_function_runs_on_the_one_thread_of_the_connection(tmp_path: Path):
    async def use() -> None:
        thread = DatabaseThread(tmp_path / "a.sqlite", nothing)
        database = await thread.open()
        names = {await thread.call(lambda: threading.current_thread().name) for _ in range(3)}
        assert len(names) == 1
        assert threading.current_thread().name not in names
        with pytest.raises(sqlite3.ProgrammingError, match="thread"):
            database.execute("SELECT 1")
        await thread.close()

    asyncio.run(use())


def test_a_cancelled_caller_leaves_its_write_whole(tmp_path: Path):
    async def use() -> None:
        thread = DatabaseThread(tmp_path / "a.sqlite", nothing)
        database = await thread.open()
        started, go = threading.Event(), threading.Event()

        def write() -> None:
            with immediate(database):
                database.execute("INSERT INTO counter VALUES (1)")
                started.set()
                assert go.wait(timeout=30)
                database.execute("INSERT INTO counter VALUES (2)")

        caller = asyncio.create_task(thread.call(write))
        await asyncio.to_thread(started.wait, 30)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go.set()
        rows = await thread.call(lambda: database.execute("SELECT n FROM counter").fetchall())
        assert rows == [(1,), (2,)]
        await thread.close()

    asyncio.run(use())


def test_the_data_version_changes_when_another_connection_writes_and_only_then(tmp_path: Path):
    async def use() -> None:
        thread = DatabaseThread(tmp_path / "a.sqlite", nothing)
        mine = await thread.open()
        before = await thread.data_version()
        await thread.call(mine.execute, "INSERT INTO counter VALUES (1)")
        assert await thread.data_version() == before
        other = open_database(tmp_path / "a.sqlite")
        other.execute("INSERT INTO counter VALUES (2)")
        other.close()
        assert await thread.data_version() != before
        await thread.close()

    asyncio.run(use())


# --- a file that is damaged, gone, or newer ------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"no database" * 500, b"SQLite format 3\0" + bytes(4000)])
async def test_a_damaged_file_is_renamed_and_never_overwritten(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    threads = [DatabaseThread(path, nothing) for _ in range(3)]
    await asyncio.gather(*(thread.open() for thread in threads))
    for thread in threads:
        await thread.call(lambda: None)
        await thread.close()
    renamed = [one for one in tmp_path.iterdir() if ".damaged-" in one.name]
    assert [one.read_bytes() for one in renamed] == [content]
    assert "the database is damaged" in caplog.text


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
@pytest.mark.parametrize("comes", ["nothing", "another"])
async def test_a_file_that_is_deleted_or_replaced_while_it_is_open_is_noticed(
    tmp_path: Path, comes: str
) -> None:
    path = tmp_path / "a.sqlite"
    thread = DatabaseThread(path, nothing)
    await thread.open()
    path.rename(tmp_path / "kept.sqlite")
    if comes == "another":
        path.touch()
    with pytest.raises(StorageError, match="deleted or replaced"):
        await thread.call(lambda: None)
    # Put back, all goes on.
    (tmp_path / "kept.sqlite").rename(path)
    await thread.call(lambda: None)
    path.unlink()
    await thread.close()


@pytest.mark.anyio
async def test_a_file_that_a_newer_version_changed_is_refused_and_left_as_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.sqlite"
    steps = Migrations("jobs")
    steps(name="0001_jobs")(nothing)
    newer = Migrations("jobs")
    newer(name="0001_jobs")(nothing)
    newer(name="0002_of_next_year")(nothing)
    database = open_database(path)
    bring_up_to_date(database, newer)
    before = database.schema
    database.close()
    thread = DatabaseThread(path, lambda opened: bring_up_to_date(opened, steps))
    with pytest.raises(StorageError, match=r"newer version .*0002_of_next_year"):
        await thread.open()
    await thread.close()
    database = open_database(path)
    assert database.schema == before
    database.close()


def test_what_is_hidden_is_missing_for_this_thread_alone() -> None:
    name = "colorsys"
    sys.modules.pop(name, None)
    hidden = database_module._hidden_from_this_thread(name)
    with ThreadPoolExecutor(1) as other, hidden:
        with pytest.raises(ModuleNotFoundError, match=name):
            importlib.import_module(name)
        assert other.submit(importlib.import_module, name).result().__name__ == name
    assert not any(isinstance(one, database_module._NotFound) for one in sys.meta_path)
