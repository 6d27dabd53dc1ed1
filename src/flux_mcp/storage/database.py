"""The SQLite file: how it is opened and migrated, and the one thread that uses the connection.

`DatabaseThread` owns the connection. Everything else hands it functions: a slow query never stops
the event loop, and no connection is shared between threads.

Which version a file has is recorded in it, in the table `_sqlite_migrations` of sqlite-utils: one
row for each step that was applied. Every room that owns tables has its own set of steps, the first
of which (`0001_...`) makes them. Files of before the first release have other, older names there;
`is_from_before_squash` recognises their tables.
"""

import asyncio
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from filelock import FileLock

from flux_mcp.errors import DatabaseUnavailableError, StorageError

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 15_000
_WAL_AGAIN_S = 0.01
_DAMAGED = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
    }
)
"""What may be over in a while."""
_AGAIN_S, _MAX_AGAIN_S = 0.5, 5.0
_TELL_EVERY_S = 60.0
_BESIDE = ("-wal", "-shm")
"""What SQLite keeps beside a file."""
FORMER_STEPS = frozenset(
    {
        "create_jobs",
        "keep_what_prompts_are_composed_of",
        "bind_jobs_to_principals",
        "keep_the_preview_a_caller_wants",
        "create_downloads",
        "0001_images",
        "0002_cursor_key",
        "0003_principal",
        "create_measurements",
        "tell_loads_apart",
    }
)
"""Names of steps of before the first release, which were squashed."""

logger = logging.getLogger(__name__)


def open_database(path: Path) -> "Database":
    """Open `path` for this thread: write-ahead log, patient with other processes.

    `synchronous = NORMAL` under WAL: a killed process loses nothing, a power cut may lose the last
    commits but never the file (sqlite.org/wal.html, "Performance Considerations").
    """
    # Imported when a database is opened, after the first client was answered.
    with _hidden_from_this_thread("numpy", "pandas"):
        from sqlite_utils import Database

    database = Database(path)
    try:
        database.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _enable_wal(database)
        database.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _hidden_from_this_thread(*packages: str) -> Iterator[None]:
    """Have packages not found that are optional for what is imported meanwhile.

    sqlite_utils imports numpy and pandas where they are installed, to store columns of their types.
    We store none, and numpy takes longer to import than the rest of sqlite_utils.
    """
    finder = _NotFound(frozenset(packages), threading.get_ident())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _NotFound(MetaPathFinder):
    def __init__(self, packages: frozenset[str], thread: int) -> None:
        self._packages = packages
        self._thread = thread

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:  # noqa: ARG002 - the import system calls it
        """Raise for the packages, in the thread that hides them; else leave it to other finders."""
        if fullname in self._packages and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


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
    """Apply the steps that are missing; several processes may do so at the same time.

    Raises:
        StorageError: a newer version has applied steps that are not known here.
    """
    refuse_newer(database, steps)
    if not steps.pending(database):
        return
    # The lock is held while `apply` looks again: it finds nothing if another process was first.
    # Its own transactions nest inside as savepoints.
    with immediate(database):
        steps.apply(database)


def refuse_newer(database: "Database", steps: "Migrations") -> None:
    """Refuse a file to which a newer version has applied steps that are not known here.

    Raises:
        StorageError: it has; nothing was changed.
    """
    from sqlite_utils import Database

    applied = [step.name for step in steps.applied(database)]
    if not applied:
        return
    nothing = Database(memory=True)
    known = FORMER_STEPS | {step.name for step in steps.pending(nothing)}
    nothing.close()
    unknown = [name for name in applied if name not in known]
    if unknown:
        raise StorageError(
            f"The database was changed by a newer version of flux-mcp (step {unknown[0]} of "
            f"{steps.name}), and this one cannot read it.",
            "Update flux-mcp, or use another data folder with --data-dir or FLUX_MCP_DATA_DIR.",
        )


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
        self._file: tuple[int, int] | None = None
        """Device and inode of the open file."""

    async def open(self) -> "Database":
        """Open the file, bring its tables up to date, and return it for this thread's use.

        A file that is no SQLite database, or a damaged one, is renamed and a new one made: nothing
        of it is overwritten.

        Raises:
            StorageError: it cannot be opened, or was changed by a newer version.
        """
        return await self.call(self._open)

    def _open(self) -> "Database":
        try:
            self._database = self._prepared()
        except sqlite3.DatabaseError as error:
            if not _is_damaged(error):
                raise
            # Another process may be doing the same.
            with FileLock(self._path.with_name(f"{self._path.name}.lock")):
                self._database = self._prepared_again()
        self._file = _identity(self._path)
        return self._database

    def _prepared_again(self) -> "Database":
        """Open the file once more; if it is still damaged, rename it and make a new one."""
        try:
            return self._prepared()
        except sqlite3.DatabaseError as error:
            if not _is_damaged(error):
                raise
            aside = _rename(self._path)
            logger.error(  # noqa: TRY400 - the error is told; its traceback says nothing more
                "the database is damaged (%s): it was renamed and a new one made; images are taken "
                "back from their files, jobs and ratings are lost",
                error,
                extra={"database": str(self._path), "renamed": str(aside)},
            )
            return self._prepared()

    def _prepared(self) -> "Database":
        database = open_database(self._path)
        try:
            for step in self._prepare:
                step(database)
        except BaseException:
            database.close()
            raise
        return database

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on the database thread.

        A cancelled caller stops waiting; the function itself always runs to its end, so a write is
        never half done.

        Raises:
            StorageError: SQLite refused: the disk is full, the file is damaged, stays locked, or
                is no longer there.
        """

        def run() -> T:
            self._require_same_file()
            return function(*args, **kwargs)

        return await self._run(run)

    async def insist(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` as `call` does; while the database does not answer, try again and again.

        For what must not be lost: the function must be one that may be run twice.

        Raises:
            StorageError: the file is damaged.
        """
        wait_s, told_s = _AGAIN_S, float("-inf")
        while True:
            try:
                return await self.call(function, *args, **kwargs)
            except DatabaseUnavailableError as error:
                if time.monotonic() - told_s >= _TELL_EVERY_S:
                    told_s = time.monotonic()
                    logger.error("the database does not answer; it is tried again: %s", error)  # noqa: TRY400
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_AGAIN_S)

    async def _run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.shield(loop.run_in_executor(self._thread, work))
        except sqlite3.Error as error:
            message = f"The database {self._path} refused: {error}."
            if _is_damaged(error):
                raise StorageError(
                    message,
                    "End every flux-mcp process and move the file away: the next start makes a new "
                    "one and takes the images back from their files.",
                ) from error
            hint = "Check the disk's free space and the folder's permissions ('flux-mcp doctor')."
            kind = DatabaseUnavailableError if _primary(error) in _PASSING else StorageError
            raise kind(message, hint) from error

    def _require_same_file(self) -> None:
        """Refuse to write into a file that was deleted or replaced: nobody would read it."""
        if self._file is not None and _identity(self._path) != self._file:
            raise DatabaseUnavailableError(
                f"The database {self._path} was deleted or replaced while flux-mcp runs.",
                "End every flux-mcp process and put it back; without it, the next start makes a "
                "new one and takes the images back from their files.",
            )

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

        await self._run(shut)
        self._thread.shutdown(wait=False)


def _is_damaged(error: sqlite3.Error) -> bool:
    return _primary(error) in _DAMAGED


def _primary(error: sqlite3.Error) -> int:
    # Errors of the module sqlite3 itself, such as a closed connection, have no code.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _rename(path: Path) -> Path:
    """Rename a database, and what SQLite keeps beside it; return its new place."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    for beside in ("", *_BESIDE):
        with suppress(FileNotFoundError):
            path.with_name(path.name + beside).rename(aside.with_name(aside.name + beside))
    return aside
