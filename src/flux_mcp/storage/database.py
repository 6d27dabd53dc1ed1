"""The SQLite file: how it is opened and migrated, and the one thread that uses the connection.

`DatabaseThread` owns the connection. Everything else hands it functions: a slow query never stops
the event loop, and no connection is shared between threads.

Which version a file has is recorded in it, in the table `_sqlite_migrations` of sqlite-utils: one
row for each step that was applied. Every room that owns tables has its own set of steps, the first
of which (`0001_...`) makes them. Files of before the first release have other, older names there;
`is_from_before_squash` recognises their tables.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from flux_mcp.errors import StorageError

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 15_000
_WAL_AGAIN_S = 0.01


def open_database(path: Path) -> "Database":
    """Open `path` for this thread: write-ahead log, patient with other processes.

    `synchronous = NORMAL` under WAL: a killed process loses nothing, a power cut may lose the last
    commits but never the file (sqlite.org/wal.html, "Performance Considerations").
    """
    # Imported when a database is opened, after the first client was answered: with the numpy it
    # takes along, sqlite_utils is a sixth of a server's start.
    from sqlite_utils import Database

    database = Database(path)
    database.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _enable_wal(database)
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def _enable_wal(database: "Database") -> None:
    """Turn the write-ahead log on, waiting for other processes that open the same fresh file.

    SQLite's own patience does not help: where another connection holds a write lock, this one
    statement fails at once, whatever the timeout.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            database.enable_wal()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_AGAIN_S)
        else:
            return


@contextmanager
def immediate(database: "Database") -> Iterator["Database"]:
    """One write transaction that takes its lock at once.

    A deferred transaction that reads before it writes fails with "database is locked" when another
    process wrote in between, whatever the timeout (sqlite.org/isolation.html); this one waits.
    """
    database.conn.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.conn.execute("COMMIT")
    except BaseException:
        database.rollback()  # nothing to undo where the error ended the transaction itself
        raise


def bring_up_to_date(database: "Database", steps: "Migrations") -> None:
    """Apply the steps that are missing; several processes may do so at the same time."""
    if not steps.pending(database):
        return
    # The lock is held while `apply` looks again: it finds nothing if another process was first.
    # Its own transactions nest inside as savepoints.
    with immediate(database):
        steps.apply(database)


def is_from_before_squash(database: "Database", table: str, expected: Collection[str]) -> bool:
    """Whether a table stands already that the steps of before the first release made.

    Those steps were squashed into the first one of today. A first step that finds its table there
    keeps it, with its rows, instead of making a new one.

    Args:
        database: Open, inside the first step.
        table: Name of a table that the first step makes.
        expected: Columns that the last of the former steps had left in it.

    Raises:
        StorageError: the table stands, but not all of those steps had been applied to it.
    """
    found = database.table(table)
    if not found.exists():
        return False
    missing = sorted(set(expected) - found.columns_dict.keys())
    if missing:
        raise StorageError(
            f"The table {table} was made by a development version of flux-mcp that is too old to "
            f"be read: it has no column {missing[0]}.",
            "Open the data folder with the version that wrote it, or use another data folder.",
        )
    return True


class DatabaseThread:
    """Runs functions on the one thread that may use the connection.

    Args:
        path: The file.
        prepare: Called in order, once, on the thread with the open database: migrations.
    """

    def __init__(self, path: Path, *prepare: Callable[["Database"], None]) -> None:
        self._path = path
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flux-mcp-database")
        self._database: Database | None = None

    async def open(self) -> "Database":
        """Open the file, bring its tables up to date, and return it for this thread's use.

        Raises:
            StorageError: it cannot be opened, or is not a database of ours.
        """
        return await self.call(self._open)

    def _open(self) -> "Database":
        self._database = open_database(self._path)
        for step in self._prepare:
            step(self._database)
        return self._database

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on the database thread.

        A cancelled caller stops waiting; the function itself always runs to its end, so a write is
        never half done.

        Raises:
            StorageError: SQLite refused: the disk is full, the file is damaged or stays locked.
        """
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(work)
        except sqlite3.Error as error:
            raise StorageError(
                f"The database {self._path} refused: {error}.",
                "Check the disk's free space and the folder's permissions ('flux-mcp doctor').",
            ) from error

    async def data_version(self) -> int:
        """Return a number that changes whenever *another* connection commits."""

        def read() -> int:
            if self._database is None:
                return 0
            return int(self._database.execute("PRAGMA data_version").fetchone()[0])

        return await self.call(read)

    async def close(self) -> None:
        """Close the connection and end the thread."""

        def shut() -> None:
            if self._database is not None:
                self._database.close()
                self._database = None

        await self.call(shut)
        self._thread.shutdown(wait=False)
