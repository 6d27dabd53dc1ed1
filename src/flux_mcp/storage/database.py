"""The SQLite file: how it is opened, and the one thread that uses the connection.

`DatabaseThread` owns the connection. Everything else hands it functions, so a slow query never
stops the event loop and no connection is ever shared between threads.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
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
    # One lock around the look and the leap: `apply` looks again, and finds nothing if another
    # process was first. Its own transactions nest inside as savepoints.
    with immediate(database):
        steps.apply(database)


class DatabaseThread:
    """Runs functions on the one thread that may use the connection.

    Args:
        prepare: Called once on the thread with the open database: migrations, for instance.
    """

    def __init__(self, path: Path, prepare: Callable[["Database"], None]) -> None:
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
        self._prepare(self._database)
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
