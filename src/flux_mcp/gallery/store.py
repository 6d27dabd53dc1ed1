"""Gallery: the `images` table. Rows are added once, found by id or job, searched newest first.

`ImageRecord` is the row: a model of its own beside the metadata in the file (provenance.py);
`record_of` makes an image's row from those. A row names its files by their place below the data
folder (files.py); how a search becomes SQL is in search.py.

Every method is synchronous and runs on the database thread.
"""

import json
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from flux_mcp.errors import (
    InternalError,
    InvalidRequestError,
    StorageError,
    UnknownImageError,
)
from flux_mcp.gallery.files import SavedImage
from flux_mcp.gallery.provenance import (
    CREATED_AT,
    IMAGE_ID,
    MAX_INTEGER,
    ImageProvenance,
    Text,
    stored_plan,
)
from flux_mcp.gallery.search import (
    NEAR,
    PER_MICROSECOND,
    SearchFilter,
    facets_of,
    is_storable,
    make_cursor,
    microseconds,
    read_cursor,
    statement_for,
)
from flux_mcp.models.registry import Kind
from flux_mcp.principals import LOCAL
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.storage.database import bring_up_to_date, immediate, is_from_before_squash

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

logger = logging.getLogger(__name__)

ID_PREFIX = "img_"
_JSON_COLUMNS = ("composed", "loras", "plan", "parents", "environment")
_LAST_BEHIND_ITS_TIME = "last_behind_its_time"
"""In `gallery_facts`: the `n` up to which a search for times before a date has to look."""
_RELATIVE_PATH = r"^[A-Za-z0-9_-][A-Za-z0-9_./-]*$"


# --- the row -----------------------------------------------------------------------------------


class ImageRecord(BaseModel):
    """One row: a finished image, where its files are, and what the user thinks of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    id: str = Field(pattern=IMAGE_ID)
    job_id: str
    index: int = Field(ge=0)
    """Which image of the job, from 0."""
    kind: Kind
    prompt: Text
    composed: dict[str, Any] | None = None
    """What a pack made the prompt of: pack, version, choices, and each block with its source."""
    negative_prompt: Text | None = None
    model: str
    revision: str | None = None
    weights_sha256: str
    precision: str
    loras: list[dict[str, Any]] = Field(default_factory=list)
    """Name, SHA-256 and weight of each, as in the plan."""
    seed: int = Field(ge=0, le=MAX_INTEGER)
    plan: dict[str, Any]
    """The job's `RenderPlan` as JSON; its `seeds` are those of every image of the job."""
    width: int
    height: int
    parents: tuple[str, ...] = ()
    """Gallery images it was drawn from."""
    session: Text | None = None
    stage: Text | None = None
    licence: str
    environment: dict[str, Any]
    """Torch, diffusers, device and the like, as they were."""
    seconds: float
    """From the start of its pass to its pixels."""
    created_at: str = Field(pattern=CREATED_AT)
    """UTC, ISO 8601 with microseconds."""
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

    def render_plan(self) -> RenderPlan:
        """Return the plan to draw it again with.

        Raises:
            InvalidImageError: the plan is of another version of flux-mcp.
        """
        return stored_plan(self.id, self.plan)


_COLUMNS = frozenset(ImageRecord.model_fields)


def record_of(provenance: ImageProvenance, saved: SavedImage, principal: str) -> ImageRecord:
    """Return the row of an image that was just saved.

    Args:
        provenance: The facts its file holds.
        saved: Where its files are.
        principal: Who asked for it.
    """
    return ImageRecord(
        id=provenance.id,
        job_id=provenance.job_id,
        index=provenance.index,
        kind=provenance.kind,
        prompt=provenance.prompt,
        composed=provenance.composed,
        negative_prompt=provenance.negative_prompt,
        model=provenance.model,
        revision=provenance.revision,
        weights_sha256=provenance.weights_sha256,
        precision=provenance.precision,
        loras=provenance.loras,
        seed=provenance.seed,
        plan=provenance.plan,
        width=provenance.width,
        height=provenance.height,
        parents=provenance.parents,
        session=provenance.session,
        stage=provenance.stage,
        licence=provenance.licence,
        environment=provenance.environment,
        seconds=provenance.seconds,
        created_at=provenance.created_at,
        file=saved.file,
        thumbnail=saved.thumbnail,
        sha256=saved.sha256,
        pixels_sha256=saved.pixels_sha256,
        size_bytes=saved.size_bytes,
        principal=principal,
    )


def _to_row(record: ImageRecord) -> dict[str, Any]:
    row = record.model_dump(mode="json")
    for name in _JSON_COLUMNS:
        if row[name] is not None:
            row[name] = json.dumps(row[name], ensure_ascii=False)
    row["facets"] = facets_of(row)
    return row


def _to_record(row: dict[str, Any]) -> ImageRecord:
    """Return the record of a row. Columns that a newer version added are left out.

    Raises:
        StorageError: the row is damaged, or another version wrote it otherwise.
    """
    try:
        values = {
            name: from_json(value) if name in _JSON_COLUMNS and value is not None else value
            for name, value in row.items()
            if name in _COLUMNS
        }
        return ImageRecord.model_validate(values)
    except ValueError as error:  # pydantic's errors are some
        raise StorageError(
            f"The row of image {row['id']} cannot be read: it is damaged, or another version of "
            "flux-mcp wrote it.",
            "The image itself is below the folder 'images' of the data folder.",
        ) from error


def _readable(rows: Iterable[dict[str, Any]]) -> tuple[ImageRecord, ...]:
    """Return the records of a list: a row that cannot be read does not take the others along."""
    records = []
    for row in rows:
        try:
            records.append(_to_record(row))
        except StorageError as error:
            logger.warning("an image is left out of a list: %s", error)
    return tuple(records)


# --- the tables --------------------------------------------------------------------------------


def migrate(database: "Database") -> None:
    """Bring the gallery's tables up to date; several processes may do so at the same time."""
    bring_up_to_date(database, gallery_migrations())


def gallery_migrations() -> "Migrations":
    """Return the steps that make the gallery's tables; append, never change."""
    from sqlite_utils.migrations import Migrations

    steps = Migrations("gallery")

    # Not `0001_images`: files from before the steps were squashed have that name recorded.
    @steps(name="0001_gallery")
    def _gallery(database: "Database") -> None:
        if is_from_before_squash(database, "images", {"principal"}):
            return
        images = database.table("images")
        images.create(
            {
                # The order of the gallery: microseconds of created_at since 1970, times 256, plus
                # a counter; more where the clock was put back. Newest first, pages and date ranges
                # are all walks along this key.
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
                "principal": str,
            },
            pk="n",
            not_null={
                "id",
                "job_id",
                "index",
                "kind",
                "prompt",
                "model",
                "seed",
                "plan",
                "file",
                "principal",
            },
            defaults={"principal": LOCAL},
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
        images.create_index(["principal"], index_name="images_principal")
        # Stemmed (cat finds cats): a prefix search, the other way to it, reads every longer word.
        images.enable_fts(
            ["prompt", "facets"],
            create_triggers=True,
            tokenize="porter unicode61 remove_diacritics 2",
        )
        # Signs the cursors of this gallery, so that one from elsewhere is known for what it is.
        database.table("gallery_facts").create({"name": str, "value": str}, pk="name", strict=True)
        database.execute(
            "INSERT INTO gallery_facts (name, value) VALUES ('cursor_key', ?)",
            [secrets.token_hex(32)],
        )

    return steps


# --- the gallery -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Some hits, newest first, and where the next ones begin (`None`: there are no more)."""

    images: tuple[ImageRecord, ...]
    next_cursor: str | None


def new_image_id() -> str:
    """Return an unguessable id, 96 bits."""
    return f"{ID_PREFIX}{secrets.token_urlsafe(12)}"


def is_image_id(text: str) -> bool:
    """Return whether a text is the id of an image, rather than of something else."""
    return text.startswith(ID_PREFIX)


class Gallery:
    """The `images` table of a migrated database."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def add(self, record: ImageRecord, *, is_new: bool = False) -> ImageRecord:
        """Store a row, and return what is stored for its (job_id, index).

        A late duplicate changes nothing: the row that was first is returned.

        Args:
            record: The row.
            is_new: Whether the image was made just now. It becomes the first of the gallery, also
                where the clock was put back since the one before; else its time gives its place.

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
            row["n"] = self._next_n(record.created_at, is_new=is_new)
            columns = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(f":{name}" for name in row)
            self._database.execute(f"INSERT INTO images ({columns}) VALUES ({values})", row)  # noqa: S608 - our own column names
        return record

    def _next_n(self, created_at: str, *, is_new: bool) -> int:
        first = microseconds(datetime.fromisoformat(created_at)) * PER_MICROSECOND
        end = MAX_INTEGER if is_new else first + PER_MICROSECOND
        (last,) = self._database.execute(
            "SELECT max(n) FROM images WHERE n >= ? AND n < ?", [first, end]
        ).fetchone()
        n = first if last is None else int(last) + 1
        if n >= end:
            raise InternalError(f"More than {PER_MICROSECOND} images were made at {created_at}.")
        if n >= first + NEAR:
            self._database.execute(
                "INSERT OR REPLACE INTO gallery_facts (name, value) VALUES (?, ?)",
                [_LAST_BEHIND_ITS_TIME, str(n)],
            )
        return n

    def _last_behind_its_time(self) -> int:
        """Return the `n` of the last row that stands further than `NEAR` behind its time."""
        found = self._database.execute(
            "SELECT value FROM gallery_facts WHERE name = ?", [_LAST_BEHIND_ITS_TIME]
        ).fetchone()
        return -MAX_INTEGER if found is None else int(found[0])

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

    def beginning_with(
        self, beginning: str, principal: str | None, limit: int
    ) -> tuple[ImageRecord, ...]:
        """Return images by the first characters of their ids; with a principal, only its own."""
        if not is_storable(beginning):
            return ()
        # A range of the index: LIKE would take `_` for any character, and any case.
        end = f"{beginning}\x7f"
        return self._rows(
            "SELECT * FROM images WHERE id >= ? AND id < ? AND principal = ifnull(?, principal) "
            "ORDER BY id LIMIT ?",
            [beginning, end, principal, limit],
        )

    def newest(
        self, principal: str, session: str | None = None, before: ImageRecord | None = None
    ) -> ImageRecord | None:
        """Return the newest image of a principal; `None` if it has none.

        Args:
            principal: Whose.
            session: Only of this session.
            before: Only images that come after this one in the gallery, newest first.
        """
        if session is not None and not is_storable(session):
            return None
        # One index finds it without sorting: that of the session where there is one.
        where, values = "principal = ?", [principal]
        if session is not None:
            where, values = "session = ? AND +principal = ?", [session, principal]
        if before is not None:
            where += " AND n < (SELECT n FROM images WHERE id = ?)"
            values.append(before.id)
        return self._one(f"{where} ORDER BY n DESC LIMIT 1", *values)

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
        since, until = (microseconds(moment) * PER_MICROSECOND for moment in (start, end))
        rows = self._database.execute(
            "SELECT file, thumbnail FROM images WHERE n >= ? AND n < ? AND created_at LIKE ?",
            [since, max(until + NEAR, self._last_behind_its_time() + 1), f"{start:%Y-%m}-%"],
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
        statement.reach(self._last_behind_its_time())
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
        return Page(_readable(rows), cursor)

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
