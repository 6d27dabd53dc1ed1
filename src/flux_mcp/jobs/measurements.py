"""Measurements: what finished jobs took on this machine, for plans and for the order of jobs.

The only module that reads and writes the `measurements` table; runs on the database thread.
"""

from typing import TYPE_CHECKING

from flux_mcp.jobs.scheduler import Costs, TimedJob, costs_of
from flux_mcp.models.planning.speed import Figure
from flux_mcp.storage.database import bring_up_to_date, immediate, is_from_before_squash

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

KEPT = 20
"""Rows kept for each model, kind, precision and placement on a device: so many of jobs that loaded
it and so many of others. Loads are rare: counted with the others they would soon be gone."""


def migrate(database: "Database") -> None:
    """Bring the table up to date; several processes may do so at the same time."""
    bring_up_to_date(database, measurement_migrations())


def measurement_migrations() -> "Migrations":
    """Return the steps that make the measurements table; append, never change."""
    from sqlite_utils.migrations import Migrations

    steps = Migrations("measurements")

    @steps(name="0001_measurements")
    def _measurements(database: "Database") -> None:
        if is_from_before_squash(database, "measurements", {"draw_s", "load_level"}):
            return
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
                peak_gib REAL,
                draw_s REAL,
                load_level TEXT
            ) STRICT
            """
        )
        database.execute(
            """
            CREATE INDEX measurements_by_way
            ON measurements (device, model, kind, precision, placement)
            """
        )

    return steps


class Measurements:
    """The figures of this data folder."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def add(self, device: str, figure: Figure, timed: TimedJob) -> None:
        """Store a figure; the oldest beyond `KEPT` of the same way are removed.

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

    def by_device(self) -> dict[str, tuple[Figure, ...]]:
        """Return every figure of every GPU by the GPU's name, newest first."""
        devices = self._database.execute("SELECT DISTINCT device FROM measurements").fetchall()
        return {device: self.of_device(device) for (device,) in devices}

    def costs(self, device: str | None) -> Costs:
        """Return what loads and jobs took on a GPU.

        Args:
            device: `None` before a worker has said what it draws on: then the GPU of the newest
                figure. It is another one only where the GPU of the machine was changed.
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
