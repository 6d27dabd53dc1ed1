"""What finished jobs took on this machine: figures that plans and the order of jobs learn from.

Owns the `measurements` table: `Measurements` alone reads and writes it, on the database's thread.
"""

from typing import TYPE_CHECKING

from flux_mcp.jobs.scheduler import Costs, TimedJob, costs_of
from flux_mcp.models.planning.speed import Figure
from flux_mcp.storage.database import bring_up_to_date, immediate

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

KEPT = 20
"""Newest figures of each way to hold a model, of jobs that loaded it and of others; older ones make
room. Loads are rare: among the others they would be gone before the next."""


def migrate(database: "Database") -> None:
    """Bring the table up to date; several processes may do so at the same time."""
    bring_up_to_date(database, _steps())


def _steps() -> "Migrations":
    from sqlite_utils.migrations import Migrations

    steps = Migrations("measurements")

    @steps()
    def create_measurements(database: "Database") -> None:
        database.execute(
            """
            CREATE TABLE measurements (
                n INTEGER PRIMARY KEY AUTOINCREMENT,
                device TEXT NOT NULL,
                model TEXT NOT NULL,
                kind TEXT NOT NULL,
                precision TEXT NOT NULL,
                placement TEXT NOT NULL,
                megapixels REAL NOT NULL,
                seconds_per_step REAL NOT NULL,
                load_s REAL,
                peak_gib REAL
            ) STRICT
            """
        )
        database.execute(
            """
            CREATE INDEX measurements_by_way
            ON measurements (device, model, kind, precision, placement)
            """
        )

    @steps()
    def tell_loads_apart(database: "Database") -> None:
        # Until now `load_s` was also kept for jobs that loaded nothing: those rows name no level.
        database.execute("ALTER TABLE measurements ADD COLUMN draw_s REAL")
        database.execute("ALTER TABLE measurements ADD COLUMN load_level TEXT")

    return steps


class Measurements:
    """The figures of this data folder."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def add(self, device: str, figure: Figure, timed: TimedJob) -> None:
        """Keep a figure, and the newest of its kind beside it.

        Args:
            device: The name of the GPU, as torch and the driver tell it.
            figure: What a job took.
            timed: The same job, for the order of later ones.
        """
        way = (device, figure.model, figure.kind, figure.precision, figure.placement)
        with immediate(self._database):
            self._database.execute(
                """
                INSERT INTO measurements (device, model, kind, precision, placement,
                                          megapixels, seconds_per_step, peak_gib,
                                          draw_s, load_level, load_s)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (
                    *way,
                    figure.megapixels,
                    figure.seconds_per_step,
                    figure.peak_gib,
                    timed.draw_s,
                    timed.load,
                    timed.load_s,
                ),
            )
            self._database.execute(
                """
                DELETE FROM measurements
                WHERE (device, model, kind, precision, placement) = (?, ?, ?, ?, ?)
                AND load_level IS ? AND n NOT IN (
                    SELECT n FROM measurements
                    WHERE (device, model, kind, precision, placement) = (?, ?, ?, ?, ?)
                    AND load_level IS ? ORDER BY n DESC LIMIT ?
                )
                """,
                (*way, timed.load, *way, timed.load, KEPT),
            )

    def of_device(self, device: str) -> tuple[Figure, ...]:
        """Return every figure of a GPU, newest first."""
        rows = self._database.execute(
            """
            SELECT model, kind, precision, placement, megapixels, seconds_per_step, peak_gib
            FROM measurements WHERE device = ? ORDER BY n DESC
            """,
            (device,),
        ).fetchall()
        return tuple(Figure(*row) for row in rows)

    def costs(self, device: str | None) -> Costs:
        """Return what switches and jobs took on a GPU.

        Args:
            device: `None` before a worker has said what it draws on: then the GPU of the newest
                figure, which is the same one in all but the machines whose GPU was changed.
        """
        rows = self._database.execute(
            """
            SELECT kind || '/' || model, draw_s, load_level, load_s FROM measurements
            WHERE draw_s IS NOT NULL
            AND device = ifnull(?, (SELECT device FROM measurements ORDER BY n DESC LIMIT 1))
            """,
            (device,),
        ).fetchall()
        return costs_of(TimedJob(*row) for row in rows)
