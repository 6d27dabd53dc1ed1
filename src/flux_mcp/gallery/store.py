"""The rows of the gallery: added once, found by id or job, searched newest first.

Every method is synchronous and belongs on the one database thread. Knows no files: a row names them
by their place below the data folder.
"""

import base64
import hashlib
import hmac
import json
import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import Field
from sqlite_utils import Database

from flux_mcp.database import immediate
from flux_mcp.errors import (
    InternalError,
    InvalidCursorError,
    InvalidRequestError,
    UnknownImageError,
)
from flux_mcp.gallery.provenance import MAX_INTEGER, ImageProvenance

MIN_PREFIX_CHARACTERS = 3
"""A word that ends in * finds longer words from here on; shorter beginnings have too many."""
_PER_MICROSECOND = 256
_FACETS = ("kind", "model", "session")
_JSON_COLUMNS = ("composed", "loras", "plan", "parents", "environment")
_MAC_BYTES = 12
_RELATIVE_PATH = r"^[A-Za-z0-9_-][A-Za-z0-9_./-]*$"


class ImageRecord(ImageProvenance):
    """One row: a finished picture, where its files are, and what the user thinks of it."""

    file: str = Field(pattern=_RELATIVE_PATH)
    """The PNG, as a posix path below the data folder; so is `thumbnail` (WebP)."""
    thumbnail: str = Field(pattern=_RELATIVE_PATH)
    sha256: str
    """Of the PNG file."""
    pixels_sha256: str
    """Of the raw RGB pixels: the same picture has the same one, however it was compressed."""
    size_bytes: int
    rating: int | None = Field(None, ge=1, le=5)


@dataclass(frozen=True, kw_only=True)
class SearchFilter:
    """Which pictures to look for; everything that is given must hold."""

    query: str | None = None
    """Words of the prompt, in any order and English inflection; all must occur. `pain*` finds what
    begins so. Nothing else is an operator."""
    kind: str | None = None
    model: str | None = None
    session: str | None = None
    seed: int | None = None
    created_after: str | None = None
    """ISO 8601 date or time, UTC unless it says otherwise, inclusive."""
    created_before: str | None = None
    """The same, exclusive."""
    limit: int = 20
    cursor: str | None = None
    """`next_cursor` of the page before."""


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

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: ImageRecord) -> ImageRecord:
        """Keep a row, and return what is kept for its (job_id, index).

        A late duplicate changes nothing: the row that was first is returned.

        Raises:
            InternalError: the id is taken by a picture of another job.
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
        first = _microseconds(datetime.fromisoformat(created_at)) * _PER_MICROSECOND
        (last,) = self._database.execute(
            "SELECT max(n) FROM images WHERE n >= ? AND n < ?", [first, first + _PER_MICROSECOND]
        ).fetchone()
        n = first if last is None else int(last) + 1
        if n >= first + _PER_MICROSECOND:
            raise InternalError(f"More than {_PER_MICROSECOND} images were made at {created_at}.")
        return n

    def find(self, image_id: str) -> ImageRecord:
        """Return the row of an image.

        Raises:
            UnknownImageError: there is none.
        """
        record = self._one("id = ?", image_id) if _is_storable(image_id) else None
        if record is None:
            raise UnknownImageError(
                f"There is no image {image_id[:80]!r} in the gallery.",
                "Image ids come with results and from flux_search_gallery.",
            )
        return record

    def of_job(self, job_id: str) -> tuple[ImageRecord, ...]:
        """Return the pictures of a job in order; empty for a job that has none."""
        if not _is_storable(job_id):
            return ()
        return self._rows('SELECT * FROM images WHERE job_id = ? ORDER BY "index"', [job_id])

    def known_files(self) -> frozenset[str]:
        """Return every file and thumbnail that has a row, for `ImageFiles.sweep`."""
        rows = self._database.execute("SELECT file, thumbnail FROM images")
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
        statement = _statement(wanted)
        if wanted.cursor is not None:
            statement.below(self._read_cursor(wanted.cursor, statement.fingerprint))
        if statement.finds_nothing:
            return Page((), None)
        sql, values = statement.build(wanted.limit + 1)
        rows = list(self._database.query(sql, values))
        more = len(rows) > wanted.limit
        rows = rows[: wanted.limit]
        cursor = self._make_cursor(rows[-1]["n"], statement.fingerprint) if more else None
        return Page(tuple(_to_record(row) for row in rows), cursor)

    def _one(self, where: str, *values: object) -> ImageRecord | None:
        rows = self._rows(f"SELECT * FROM images WHERE {where}", values)  # noqa: S608 - our own text
        return rows[0] if rows else None

    def _rows(self, sql: str, values: Any) -> tuple[ImageRecord, ...]:
        return tuple(_to_record(row) for row in self._database.query(sql, values))

    # --- cursors: where a page ended, signed together with the filters it belongs to ---

    def _make_cursor(self, n: int, fingerprint: bytes) -> str:
        place = struct.pack(">q", n)
        return base64.urlsafe_b64encode(place + self._sign(place, fingerprint)).decode()

    def _read_cursor(self, cursor: str, fingerprint: bytes) -> int:
        try:
            packed = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError:
            packed = b""
        place, mac = packed[:8], packed[8:]
        if not hmac.compare_digest(mac, self._sign(place, fingerprint)):
            raise InvalidCursorError(
                "The cursor does not belong to this search.",
                "Use next_cursor unchanged, with the same query and filters; or leave it out.",
            )
        return int(struct.unpack(">q", place)[0])

    def _sign(self, place: bytes, fingerprint: bytes) -> bytes:
        (key,) = self._database.execute(
            "SELECT value FROM gallery_facts WHERE name = 'cursor_key'"
        ).fetchone()
        mac = hmac.new(bytes.fromhex(key), place + fingerprint, hashlib.sha256)
        return mac.digest()[:_MAC_BYTES]


# --- a search as SQL ---------------------------------------------------------------------------


@dataclass
class _Statement:
    """One search: equal columns, a range of `n`, and words."""

    equal: dict[str, object]
    at_least: int
    less_than: int
    match: str | None
    finds_nothing: bool
    fingerprint: bytes

    def below(self, n: int) -> None:
        self.less_than = min(self.less_than, n)

    def build(self, limit: int) -> tuple[str, dict[str, object]]:
        values = {
            **self.equal,
            "at_least": self.at_least,
            "less_than": self.less_than,
            "limit": limit,
        }
        conditions = [f"images.{name} = :{name}" for name in self.equal]
        source, key = f"images {self._index()}", "images.n"
        if self.match is not None:
            conditions.append("images_fts MATCH :match")
            values["match"] = self._match_with_facets(self.match)
            # CROSS JOIN keeps the order: the few rows of a seed, or else the words, come first.
            if "seed" in self.equal:
                source += " CROSS JOIN images_fts ON images_fts.rowid = images.n"
            else:
                source = "images_fts CROSS JOIN images ON images.n = images_fts.rowid"
                key = "images_fts.rowid"
        conditions += [f"{key} >= :at_least", f"{key} < :less_than"]
        where = " AND ".join(conditions)
        sql = f"SELECT images.* FROM {source} WHERE {where} ORDER BY {key} DESC LIMIT :limit"  # noqa: S608 - our own names
        return sql, values

    def _match_with_facets(self, match: str) -> str:
        # A common word in a rare session: the index intersects both, and reads no row in vain.
        facets = [_facet(name, self.equal[name]) for name in _FACETS if name in self.equal]
        return " AND ".join([f"prompt : ({match})", *(f"facets : {facet}" for facet in facets)])

    def _index(self) -> str:
        # Named, because SQLite without statistics cannot know that a seed is rarer than a kind.
        if {"kind", "model"} <= self.equal.keys() and not {"seed", "session"} & self.equal.keys():
            return "INDEXED BY images_kind_model"
        for name in ("seed", "session", "model", "kind"):
            if name in self.equal:
                return f"INDEXED BY images_{name}"
        return ""


def _statement(wanted: SearchFilter) -> _Statement:
    given = {
        name: getattr(wanted, name)
        for name in ("kind", "model", "session", "seed")
        if getattr(wanted, name) is not None
    }
    after = _parse_time("created_after", wanted.created_after)
    before = _parse_time("created_before", wanted.created_before)
    match = None if wanted.query is None else _match_expression(wanted.query)
    text = json.dumps([sorted(given.items()), match, after, before])
    return _Statement(
        equal=given,
        at_least=_clamp(-MAX_INTEGER if after is None else after * _PER_MICROSECOND),
        less_than=_clamp(MAX_INTEGER if before is None else before * _PER_MICROSECOND),
        match=match,
        finds_nothing=match == "" or not all(_is_storable(value) for value in given.values()),
        fingerprint=hashlib.sha256(text.encode()).digest(),
    )


def _match_expression(query: str) -> str | None:
    """Return an FTS5 expression in which every word is quoted, so none of them is an operator.

    `None` for a query of spaces: no words to ask for. Empty for words that are only punctuation,
    which the index does not hold.
    """
    # The index holds neither NUL, which ends FTS5's parsing, nor halves of surrogate pairs.
    clean = "".join(" " if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in query)
    if not clean.split():
        return None
    return " AND ".join(_quote(word) for word in clean.split() if any(c.isalnum() for c in word))


def _quote(word: str) -> str:
    stem = word.removesuffix("*")
    is_prefix = stem != word and stem[-1:].isalnum() and len(stem) >= MIN_PREFIX_CHARACTERS
    return '"' + stem.replace('"', '""') + '"' + ("*" if is_prefix else "")


def _facet(name: str, value: object) -> str:
    """Return a made-up word that stands for `name = value` in the full-text index.

    Two values may share one: the column itself is compared as well.
    """
    return f"{name}{hashlib.sha256(str(value).encode()).hexdigest()[:12]}x"


def _parse_time(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return _microseconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(
            f"{name}: {text[:40]!r} is not an ISO 8601 date or time.",
            "Write 2026-01-31 or 2026-01-31T18:00:00Z.",
        ) from error


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _clamp(n: int) -> int:
    return max(-MAX_INTEGER, min(MAX_INTEGER, n))


def _is_storable(value: object) -> bool:
    """Whether SQLite can hold it at all; what it cannot hold, no row has."""
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return not any("\ud800" <= character <= "\udfff" for character in str(value))


# --- records and rows --------------------------------------------------------------------------


def _to_row(record: ImageRecord) -> dict[str, Any]:
    row = record.model_dump(mode="json")
    for name in _JSON_COLUMNS:
        if row[name] is not None:
            row[name] = json.dumps(row[name], ensure_ascii=False)
    row["facets"] = " ".join(_facet(name, row[name]) for name in _FACETS if row[name] is not None)
    return row


def _to_record(row: dict[str, Any]) -> ImageRecord:
    values = {
        name: json.loads(value) if name in _JSON_COLUMNS and value is not None else value
        for name, value in row.items()
        if name in ImageRecord.model_fields
    }
    return ImageRecord.model_validate(values)
