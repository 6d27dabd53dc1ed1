"""The rows of the gallery: added once, found by id or job, searched newest first.

Every method is synchronous and belongs on the one database thread. Knows no files: a row names them
by their place below the data folder. Knows not how a search becomes SQL (search.py).
"""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import Field

from flux_mcp.errors import (
    InternalError,
    InvalidRequestError,
    UnknownImageError,
)
from flux_mcp.gallery.provenance import ImageProvenance, Text
from flux_mcp.gallery.search import (
    PER_MICROSECOND,
    SearchFilter,
    facets_of,
    is_storable,
    make_cursor,
    microseconds,
    read_cursor,
    statement_for,
)
from flux_mcp.principals import LOCAL
from flux_mcp.storage.database import bring_up_to_date, immediate

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

_JSON_COLUMNS = ("composed", "loras", "plan", "parents", "environment")
_RELATIVE_PATH = r"^[A-Za-z0-9_-][A-Za-z0-9_./-]*$"


class ImageRecord(ImageProvenance):
    """One row: a finished image, where its files are, and what the user thinks of it."""

    file: str = Field(pattern=_RELATIVE_PATH)
    """The PNG, as a posix path below the data folder; so is `thumbnail` (WebP)."""
    thumbnail: str = Field(pattern=_RELATIVE_PATH)
    sha256: str
    """Of the PNG file."""
    pixels_sha256: str
    """Of the raw RGB pixels: the same image has the same one, however it was compressed."""
    size_bytes: int
    rating: int | None = Field(None, ge=1, le=5)
    principal: Text = LOCAL
    """Who asked for it. Not in the file: whoever is given the file need not know."""


@dataclass(frozen=True)
class Page:
    """Some hits, newest first, and where the next ones begin (`None`: there are no more)."""

    images: tuple[ImageRecord, ...]
    next_cursor: str | None


def new_image_id() -> str:
    """Return an unguessable id, 96 bits."""
    return f"img_{secrets.token_urlsafe(12)}"


class Gallery:
    """The `images` table of a migrated database."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def add(self, record: ImageRecord) -> ImageRecord:
        """Keep a row, and return what is kept for its (job_id, index).

        A late duplicate changes nothing: the row that was first is returned.

        Raises:
            InternalError: the id is taken by an image of another job.
        """
        row = _to_row(record)
        with immediate(self._database):
            there = self._one('job_id = ? AND "index" = ?', record.job_id, record.index)
            if there is not None:
                return there
            if self._one("id = ?", record.id) is not None:
                raise InternalError(f"Image id {record.id} is used twice.")
            row["n"] = self._next_n(record.created_at)
            columns = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(f":{name}" for name in row)
            self._database.execute(f"INSERT INTO images ({columns}) VALUES ({values})", row)  # noqa: S608 - our own column names
        return record

    def _next_n(self, created_at: str) -> int:
        first = microseconds(datetime.fromisoformat(created_at)) * PER_MICROSECOND
        (last,) = self._database.execute(
            "SELECT max(n) FROM images WHERE n >= ? AND n < ?", [first, first + PER_MICROSECOND]
        ).fetchone()
        n = first if last is None else int(last) + 1
        if n >= first + PER_MICROSECOND:
            raise InternalError(f"More than {PER_MICROSECOND} images were made at {created_at}.")
        return n

    def find(self, image_id: str, principal: str | None = None) -> ImageRecord:
        """Return the row of an image; with a principal, only if it is that one's.

        Raises:
            UnknownImageError: there is none.
        """
        record = self._one("id = ?", image_id) if is_storable(image_id) else None
        if record is None or principal not in (None, record.principal):
            raise UnknownImageError(
                f"There is no image {image_id[:80]!r} in the gallery.",
                "Image ids come with results and from flux_search_gallery.",
            )
        return record

    def of_job(self, job_id: str) -> tuple[ImageRecord, ...]:
        """Return the images of a job in order; empty for a job that has none."""
        if not is_storable(job_id):
            return ()
        return self._rows('SELECT * FROM images WHERE job_id = ? ORDER BY "index"', [job_id])

    def known_files(self, month: str) -> frozenset[str]:
        """Return every file and thumbnail of a month (`YYYY/MM`) that has a row.

        A month at a time: the sweep of a million images must not hold up everybody else.
        """
        start = datetime.strptime(month, "%Y/%m").replace(tzinfo=UTC)
        end = (start + timedelta(days=31)).replace(day=1)
        rows = self._database.execute(
            "SELECT file, thumbnail FROM images WHERE n >= ? AND n < ?",
            [microseconds(moment) * PER_MICROSECOND for moment in (start, end)],
        )
        return frozenset(name for row in rows for name in row)

    def search(self, wanted: SearchFilter) -> Page:
        """Return the newest hits, and a cursor to the next ones.

        The cost depends on `limit`, not on how many there are: no counting, no offset, no ranking.

        Raises:
            InvalidRequestError: a date cannot be read, or `limit` is below 1.
            InvalidCursorError: the cursor is not of this gallery, or of a search with other words
                or filters.
        """
        if wanted.limit < 1:
            raise InvalidRequestError("limit: must be at least 1.", "Ask for 20.")
        statement = statement_for(wanted)
        if wanted.cursor is not None:
            statement.below(read_cursor(wanted.cursor, statement.fingerprint, self._cursor_key()))
        if statement.finds_nothing:
            return Page((), None)
        sql, values = statement.build(wanted.limit + 1)
        rows = list(self._database.query(sql, values))
        more = len(rows) > wanted.limit
        rows = rows[: wanted.limit]
        cursor = None
        if more:
            cursor = make_cursor(rows[-1]["n"], statement.fingerprint, self._cursor_key())
        return Page(tuple(_to_record(row) for row in rows), cursor)

    def _one(self, where: str, *values: object) -> ImageRecord | None:
        rows = self._rows(f"SELECT * FROM images WHERE {where}", values)  # noqa: S608 - our own text
        return rows[0] if rows else None

    def _rows(self, sql: str, values: Any) -> tuple[ImageRecord, ...]:
        return tuple(_to_record(row) for row in self._database.query(sql, values))

    def _cursor_key(self) -> bytes:
        (key,) = self._database.execute(
            "SELECT value FROM gallery_facts WHERE name = 'cursor_key'"
        ).fetchone()
        return bytes.fromhex(key)


# --- records and rows --------------------------------------------------------------------------


def _to_row(record: ImageRecord) -> dict[str, Any]:
    row = record.model_dump(mode="json")
    for name in _JSON_COLUMNS:
        if row[name] is not None:
            row[name] = json.dumps(row[name], ensure_ascii=False)
    row["facets"] = facets_of(row)
    return row


def _to_record(row: dict[str, Any]) -> ImageRecord:
    values = {
        name: json.loads(value) if name in _JSON_COLUMNS and value is not None else value
        for name, value in row.items()
        if name in ImageRecord.model_fields
    }
    return ImageRecord.model_validate(values)


def migrate(database: "Database") -> None:
    """Bring the gallery's tables up to date; several processes may do so at the same time."""
    bring_up_to_date(database, _steps())


def _steps() -> "Migrations":
    from sqlite_utils.migrations import Migrations

    steps = Migrations("gallery")

    @steps(name="0001_images")
    def _images(database: "Database") -> None:
        images = database.table("images")
        images.create(
            {
                # The order of the gallery: microseconds of created_at since 1970, times 256, plus
                # a counter. Newest first, pages and date ranges are all walks along this key.
                "n": int,
                "id": str,
                "job_id": str,
                "index": int,
                "kind": str,
                "prompt": str,
                "composed": str,
                "negative_prompt": str,
                "model": str,
                "revision": str,
                "weights_sha256": str,
                "precision": str,
                "loras": str,
                "seed": int,
                "plan": str,
                "width": int,
                "height": int,
                "file": str,
                "thumbnail": str,
                "sha256": str,
                "pixels_sha256": str,
                "size_bytes": int,
                "parents": str,
                "session": str,
                "stage": str,
                "rating": int,
                "licence": str,
                "environment": str,
                "seconds": float,
                "created_at": str,
                # Kind, model and session as made-up words, for full-text search to intersect with.
                "facets": str,
            },
            pk="n",
            not_null={"id", "job_id", "index", "kind", "prompt", "model", "seed", "plan", "file"},
            strict=True,
        )
        images.create_index(["id"], index_name="images_id", unique=True)
        images.create_index(["job_id", "index"], index_name="images_job", unique=True)
        # Each ends, unseen, in `n`: rows of one value come out newest first without sorting.
        images.create_index(["kind"], index_name="images_kind")
        images.create_index(["model"], index_name="images_model")
        images.create_index(["kind", "model"], index_name="images_kind_model")
        images.create_index(["session"], index_name="images_session")
        images.create_index(["seed"], index_name="images_seed")
        # Stemmed (cat finds cats): a prefix search, the other way to it, reads every longer word.
        images.enable_fts(
            ["prompt", "facets"],
            create_triggers=True,
            tokenize="porter unicode61 remove_diacritics 2",
        )

    @steps(name="0002_cursor_key")
    def _cursor_key(database: "Database") -> None:
        # Signs the cursors of this gallery, so that one from elsewhere is known for what it is.
        database.table("gallery_facts").create({"name": str, "value": str}, pk="name", strict=True)
        database.execute(
            "INSERT INTO gallery_facts (name, value) VALUES ('cursor_key', ?)",
            [secrets.token_hex(32)],
        )

    @steps(name="0003_principal")
    def _principal(database: "Database") -> None:
        database.execute("ALTER TABLE images ADD COLUMN principal TEXT NOT NULL DEFAULT 'local'")
        database.table("images").create_index(["principal"], index_name="images_principal")

    return steps
