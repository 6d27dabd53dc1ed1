"""GalleryReader: find finished images and uploads, and read their files."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flux_mcp.gallery.files import read_file
from flux_mcp.gallery.search import SearchFilter
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.gallery.uploads import UploadRecord, is_upload_id
from flux_mcp.principals import only
from flux_mcp.service.answers import SearchAnswer
from flux_mcp.service.runtime import Runtime
from flux_mcp.service.views import image_answer

if TYPE_CHECKING:
    from flux_mcp.requests.lookups import SearchRequest
    from flux_mcp.service.inputs import InputReader


@dataclass(frozen=True)
class ImageFile:
    """The file of an image that its caller may see, made here or brought in."""

    id: str
    sha256: str
    """Of the PNG."""
    path: Path


class GalleryReader:
    """Reads the gallery for the principal that asks: rows on the database thread, files off it.

    Args:
        runtime: Has the database and the files.
        inputs: Returns what makes uploads smaller.
    """

    def __init__(self, runtime: Runtime, inputs: "Callable[[], InputReader]") -> None:
        self._runtime = runtime
        self._inputs = inputs

    async def search(self, request: "SearchRequest") -> SearchAnswer:
        """Return a page of finished images, newest first.

        Raises:
            InvalidCursorError: the cursor is not from this gallery, or from another search.
            InvalidRequestError: a date cannot be read.
        """
        await self._runtime.open()
        wanted = SearchFilter(principal=only(), **request.model_dump(exclude={"preview"}))
        page = await self._runtime.database.call(self._runtime.rooms.gallery.search, wanted)
        return SearchAnswer(
            images=tuple(image_answer(record, self._runtime.files) for record in page.images),
            next_cursor=page.next_cursor,
        )

    async def find_image(self, image_id: str) -> ImageRecord:
        """Return one gallery row.

        Raises:
            UnknownImageError: there is none with that id.
        """
        await self._runtime.open()
        return await self._runtime.database.call(self._runtime.rooms.gallery.find, image_id, only())

    async def image_path(self, image_id: str) -> Path:
        """Return the PNG file of a gallery image.

        Raises:
            UnknownImageError: there is none with that id.
        """
        return self._runtime.files.path_of((await self.find_image(image_id)).file)

    async def find_stored(self, image_id: str) -> ImageFile:
        """Return the file of a gallery image or an upload.

        Raises:
            UnknownImageError: there is none with that id.
        """
        await self._runtime.open()
        rooms, files = self._runtime.rooms, self._runtime.files
        principal = only()

        def find() -> ImageRecord | UploadRecord:
            if is_upload_id(image_id):
                return rooms.uploads.find(image_id, principal)
            return rooms.gallery.find(image_id, principal)

        row = await self._runtime.database.call(find)
        return ImageFile(row.id, row.sha256, files.path_of(row.file))

    async def read_image(self, image_id: str) -> bytes:
        """Return the PNG of a gallery image or an upload.

        Raises:
            UnknownImageError: there is none with that id.
            StorageError: its file is gone.
        """
        return await asyncio.to_thread(read_file, (await self.find_stored(image_id)).path)

    async def read_thumbnail(self, image_id: str) -> bytes:
        """Return the WebP thumbnail of a gallery image or an upload; of an upload it is made now.

        Raises:
            UnknownImageError: there is none with that id.
            StorageError: its file is gone.
        """
        if is_upload_id(image_id):
            png = await self.read_image(image_id)
            return await asyncio.to_thread(self._inputs().thumbnail, png)
        record = await self.find_image(image_id)
        return await asyncio.to_thread(self._runtime.files.read, record.thumbnail)
