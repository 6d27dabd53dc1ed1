"""What finished jobs took on this machine: a table of figures that plans learn from.

Owns the `measurements` table: `Measurements` alone reads and writes it, on the database's thread.
"""

from typing import TYPE_CHECKING

from flux_mcp.database import bring_up_to_date, immediate
from flux_mcp.models.figures import Figure

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

KEPT = 20
"""Newest figures of each way to hold a model; older ones make room."""


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

    return steps


class Measurements:
    """The figures of this data folder."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def add(self, device: str, figure: Figure, load_s: float | None = None) -> None:
        """Keep a figure, and the newest of its kind beside it.

        Args:
            device: The name of the card, as torch and the driver tell it.
            figure: What a job took.
            load_s: Seconds its weights took to load; `None` if they were loaded already.
        """
        way = (device, figure.model, figure.kind, figure.precision, figure.placement)
        with immediate(self._database):
            self._database.execute(
                """
                INSERT INTO measurements (device, model, kind, precision, placement,
                                          megapixels, seconds_per_step, load_s, peak_gib)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (*way, figure.megapixels, figure.seconds_per_step, load_s, figure.peak_gib),
            )
            self._database.execute(
                """
                DELETE FROM measurements
                WHERE (device, model, kind, precision, placement) = (?, ?, ?, ?, ?)
                AND n NOT IN (
                    SELECT n FROM measurements
                    WHERE (device, model, kind, precision, placement) = (?, ?, ?, ?, ?)
                    ORDER BY n DESC LIMIT ?
                )
                """,
                (*way, *way, KEPT),
            )

    def of_device(self, device: str) -> tuple[Figure, ...]:
        """Return every figure of a card, newest first."""
        rows = self._database.execute(
            """
            SELECT model, kind, precision, placement, megapixels, seconds_per_step, peak_gib
            FROM measurements WHERE device = ? ORDER BY n DESC
            """,
            (device,),
        ).fetchall()
        return tuple(Figure(*row) for row in rows)
