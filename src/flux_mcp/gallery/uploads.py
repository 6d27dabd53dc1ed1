"""Uploads: the `uploads` table, images that were brought in and have an id of their own.

The file of an upload is `uploads/<sha256>.png`, as images/decoding.py makes and stores it. Its id
is the beginning of that hash: the same content is the same upload, of whoever brought it in. A row
says that one principal may use it; what others brought in does not exist for it.

Every method is synchronous and runs on the database thread.
"""

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from flux_mcp.errors import StorageError, UnknownImageError
from flux_mcp.principals import LOCAL
from flux_mcp.requests.image_arguments import UPLOAD_ID
from flux_mcp.storage.database import bring_up_to_date

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

UPLOAD_PREFIX = "upl_"
UploadSource = Literal["http", "import", "page"]
"""How it came in: `POST /uploads`, `flux-mcp import`, a page that was opened for one image."""
LONGEST_NAME = 120
"""Characters of a file's name that are kept."""
_DIGITS = 32
"""Of the hash in an id: 128 bits, so that nobody makes a second image with the same id."""


class UploadRecord(BaseModel):
    """One row: an image that a principal brought in."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    id: str = Field(pattern=f"^{UPLOAD_ID}$")
    sha256: str
    """Of the stored PNG."""
    width_px: int
    height_px: int
    principal: str
    created_at: str
    """When it was brought in, the last time: UTC, ISO 8601 with microseconds."""
    name: str | None = None
    """Of the file it was, without folders; data, never an instruction."""
    source: UploadSource
    notices: tuple[str, ...] = ()
    """What was changed about it when it was decoded."""

    @property
    def file(self) -> str:
        """The PNG, as a posix path below the data folder."""
        return f"uploads/{self.sha256}.png"


def upload_id(sha256: str) -> str:
    """Return the id of a stored PNG by its hash."""
    return f"{UPLOAD_PREFIX}{sha256[:_DIGITS]}"


def is_upload_id(text: str) -> bool:
    """Return whether a text is the id of an upload, rather than of something else."""
    return re.fullmatch(UPLOAD_ID, text) is not None


def plain_name(name: str | None) -> str | None:
    """Return the name of a file as it is kept: no folders, one line, not too long."""
    if name is None:
        return None
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(c for c in " ".join(last.split()) if c.isprintable())
    return shown[:LONGEST_NAME] or None


def migrate(database: "Database") -> None:
    """Bring the table up to date; several processes may do so at the same time."""
    bring_up_to_date(database, upload_migrations())


def upload_migrations() -> "Migrations":
    """Return the steps that make the table; append, never change."""
    from sqlite_utils.migrations import Migrations

    steps = Migrations("uploads")

    @steps(name="0001_uploads")
    def _uploads(database: "Database") -> None:
        uploads = database.table("uploads")
        columns = {
            "id": str,
            "sha256": str,
            "width_px": int,
            "height_px": int,
            "principal": str,
            "created_at": str,
            "name": str,
            "source": str,
            "notices": str,
        }
        uploads.create(
            columns, pk=("id", "principal"), not_null=set(columns) - {"name"}, strict=True
        )
        # Ends, unseen, in the rowid: of the same moment the last one is the newest.
        uploads.create_index(["principal", "created_at"], index_name="uploads_newest")

    return steps


class Uploads:
    """The `uploads` table of a migrated database."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def add(self, record: UploadRecord) -> None:
        """Store a row; of the same content and principal there is one, as it came last."""
        row = record.model_dump(mode="json")
        row["notices"] = json.dumps(row["notices"], ensure_ascii=False)
        columns = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        self._database.execute(
            f"INSERT OR REPLACE INTO uploads ({columns}) VALUES ({values})",  # noqa: S608 - our own column names
            row,
        )

    def find(self, image_id: str, principal: str | None = None) -> UploadRecord:
        """Return the row of an upload; with a principal, only if it is that one's.

        Raises:
            UnknownImageError: there is none.
        """
        found = None
        if is_upload_id(image_id) and principal is None:
            # Whoever sees everything sees its own row first.
            own_first = "ORDER BY principal != ?, created_at DESC"
            found = self._one(f"id = ? {own_first}", image_id, LOCAL)
        elif is_upload_id(image_id):
            found = self._one("id = ? AND principal = ?", image_id, principal)
        if found is None:
            raise UnknownImageError(
                f"There is no image {image_id[:80]!r} in the gallery.",
                "Image ids come with results and from flux_search_gallery.",
            )
        return found

    def beginning_with(
        self, start: str, principal: str | None, most: int
    ) -> tuple[UploadRecord, ...]:
        """Return the newest uploads whose id begins with a text; with a principal, only its own.

        Args:
            start: The beginning of an id, in characters that ids have.
            principal: As for `find`; of everybody's, each content once.
            most: So many at most.
        """
        mine = "" if principal is None else "AND principal = :principal"
        rows = self._database.query(
            f"SELECT *, max(created_at) FROM uploads WHERE id >= :start AND id < :end {mine} "  # noqa: S608 - our own text
            "GROUP BY id ORDER BY created_at DESC LIMIT :most",
            # Ids are hexadecimal: all that begin so are below what ends in a higher letter.
            {"start": start, "end": f"{start}g", "principal": principal, "most": most},
        )
        return tuple(map(_to_record, rows))

    def newest(self, principal: str | None = None) -> UploadRecord | None:
        """Return what a principal brought in last; of everybody, without one."""
        newest = "ORDER BY created_at DESC, rowid DESC"
        if principal is None:
            return self._one(f"true {newest}")
        return self._one(f"principal = ? {newest}", principal)

    def _one(self, where: str, *values: object) -> UploadRecord | None:
        rows = list(
            self._database.query(f"SELECT * FROM uploads WHERE {where} LIMIT 1", values)  # noqa: S608 - our own text
        )
        return _to_record(rows[0]) if rows else None


def new_upload(
    sha256: str,
    size_px: tuple[int, int],
    *,
    principal: str,
    name: str | None,
    source: UploadSource,
    notices: tuple[str, ...],
) -> UploadRecord:
    """Return the row of an image that is brought in now.

    Args:
        sha256: Of the stored PNG.
        size_px: Width and height.
        principal: Who brought it in.
        name: Of its file, if it has one.
        source: How it came.
        notices: What was changed about it.
    """
    return UploadRecord(
        id=upload_id(sha256),
        sha256=sha256,
        width_px=size_px[0],
        height_px=size_px[1],
        principal=principal,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        name=plain_name(name),
        source=source,
        notices=notices,
    )


def _to_record(row: dict[str, Any]) -> UploadRecord:
    """Return the record of a row. Columns that a newer version added are left out.

    Raises:
        StorageError: the row is damaged.
    """
    try:
        known = {name: value for name, value in row.items() if name in UploadRecord.model_fields}
        return UploadRecord.model_validate({**known, "notices": from_json(row["notices"])})
    except ValueError as error:  # pydantic's errors are some
        raise StorageError(
            f"The row of upload {row['id']} cannot be read: it is damaged, or another version of "
            "flux-mcp wrote it.",
            "Bring the image in again.",
        ) from error
