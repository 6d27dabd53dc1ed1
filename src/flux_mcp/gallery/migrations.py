"""The gallery's tables, as steps that are only ever appended to."""

import secrets
from typing import TYPE_CHECKING

from flux_mcp.database import bring_up_to_date

if TYPE_CHECKING:
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations


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
