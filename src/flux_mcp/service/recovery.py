"""Recovery: what processes that were killed, or a lost database, left in the data folder.

A finished PNG without a row is taken back into the gallery: its metadata hold every fact of the
row. One that cannot be is moved aside, never removed. Only files that nobody can miss go:
half-written ones, thumbnails of images that are not there, previews of jobs that have ended.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flux_mcp.errors import InvalidImageError, StorageError, UnknownJobError
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.provenance import from_png
from flux_mcp.gallery.store import Gallery, record_of
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.principals import LOCAL
from flux_mcp.storage.database import DatabaseThread

logger = logging.getLogger(__name__)

IMAGE_AGE_S = 60.0
"""PNGs without a row are looked at once they are this old: younger ones may get theirs just now."""
FILE_AGE_S = 3600.0
"""Everything else is removed once it is this old."""


@dataclass
class Recovered:
    """What was done."""

    taken_back: int = 0
    """Images that have a row again."""
    set_aside: list[Path] = field(default_factory=list)
    """Where images are now that cannot have one."""
    removed: int = 0
    """Files that nobody can miss."""


@dataclass(frozen=True)
class Recovery:
    """Puts the files of a data folder in order; several processes may do so at the same time."""

    files: ImageFiles
    gallery: Gallery
    queue: JobQueue
    database: DatabaseThread

    async def run(
        self, image_age_s: float = IMAGE_AGE_S, file_age_s: float = FILE_AGE_S
    ) -> Recovered:
        """Look through the folder once, month by month, and log what was done.

        Args:
            image_age_s: PNGs that were written later are left for the next time.
            file_age_s: So are other files.

        Raises:
            StorageError: the database refused. What was done until then stays done.
        """
        done = Recovered()
        for month in await asyncio.to_thread(self.files.months):
            await self._month(month, image_age_s, file_age_s, done)
        await self._beside(file_age_s, done)
        if done.taken_back:
            logger.warning(
                "images without a row were taken back into the gallery",
                extra={"images": done.taken_back},
            )
        if done.removed:
            logger.info(
                "half-written and left over files were removed", extra={"files": done.removed}
            )
        return done

    async def _month(
        self, month: str, image_age_s: float, file_age_s: float, done: Recovered
    ) -> None:
        known = await self.database.call(self.gallery.known_files, month)
        found = await asyncio.to_thread(self.files.without_row, month, known, image_age_s)
        for path in found.images:
            await self._take_back(path, done)
        found = await asyncio.to_thread(self.files.without_row, month, known, file_age_s)
        done.removed += await asyncio.to_thread(_remove, found.rest)

    async def _beside(self, file_age_s: float, done: Recovered) -> None:
        unfinished = await asyncio.to_thread(self.files.unfinished, file_age_s)
        previews = await asyncio.to_thread(self.files.old_previews, file_age_s)
        ended = [
            path
            for job_id, path in previews.items()
            if await self.database.call(self._has_ended, job_id)
        ]
        done.removed += await asyncio.to_thread(_remove, (*unfinished, *ended))

    async def _take_back(self, path: Path, done: Recovered) -> None:
        """Give an image its row again, or move it aside."""
        try:
            try:
                done.taken_back += await self._add_row(path)
            except InvalidImageError as error:
                target = await asyncio.to_thread(self.files.set_aside, path)
                done.set_aside.append(target)
                logger.warning(
                    "an image without a row was moved aside",
                    extra={"file": str(target), "reason": error.message},
                )
        except StorageError as error:
            logger.warning("an image without a row stays where it is: %s", error)

    async def _add_row(self, path: Path) -> bool:
        """Add the row of an image; False if it has one by now.

        Raises:
            InvalidImageError: it cannot have one.
        """
        provenance = await asyncio.to_thread(from_png, path)
        if provenance.id != path.stem:
            raise InvalidImageError(f"Its metadata are those of {provenance.id}.")
        size_px = (provenance.width, provenance.height)
        saved = await asyncio.to_thread(self.files.examine, path, size_px)
        principal = await self.database.call(self._principal_of, provenance.job_id)
        record = record_of(provenance, saved, principal)
        stored = await self.database.call(self.gallery.add, record)
        if stored.file == record.file:
            return stored.id == record.id
        raise InvalidImageError(f"It was drawn twice: the gallery has it as {stored.id}.")

    # --- on the database thread ----------------------------------------------------------------

    def _principal_of(self, job_id: str) -> str:
        # Not in the file on purpose. Without its job, an image is the machine's owner's.
        try:
            return self.queue.find(job_id).principal
        except UnknownJobError:
            return LOCAL

    def _has_ended(self, job_id: str) -> bool:
        try:
            return self.queue.find(job_id).is_final
        except UnknownJobError:
            return True


def _remove(paths: Iterable[Path]) -> int:
    removed = 0
    for path in paths:
        with suppress(OSError):
            path.unlink()
            removed += 1
    return removed
