"""Intake: images that are brought in without a path, each with an id of its own afterwards."""

import asyncio
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from flux_mcp.errors import StorageError
from flux_mcp.gallery.uploads import UploadSource, new_upload
from flux_mcp.principals import acting
from flux_mcp.service.answers import UploadAnswer
from flux_mcp.service.runtime import Runtime
from flux_mcp.service.views import image_uri

if TYPE_CHECKING:
    from flux_mcp.images.decoding import InputImage
    from flux_mcp.service.inputs import InputReader


class Intake:
    """Brings images in for the principal that acts.

    Args:
        runtime: Has the database.
        inputs: Returns what decodes and stores them.
    """

    def __init__(self, runtime: Runtime, inputs: "Callable[[], InputReader]") -> None:
        self._runtime = runtime
        self._inputs = inputs

    async def temporary_file(self) -> IO[bytes]:
        """Return a file on the disk of the data folder, which is gone when it is closed.

        Raises:
            StorageError: the disk refused.
        """
        await self._runtime.open()
        folder = self._runtime.settings.paths.uploads
        try:
            return await asyncio.to_thread(TemporaryFile, dir=folder)
        except OSError as error:
            raise StorageError(
                f"An upload cannot be written: {error.strerror}.", "Free disk space or permissions."
            ) from error

    async def bring_in(
        self, file: bytes | IO[bytes], *, name: str | None, source: UploadSource
    ) -> UploadAnswer:
        """Decode and store an image; what was brought in before has the id that it had.

        Args:
            file: The image, or an open file that is read when it is decoded.
            name: Of its file, if it has one.
            source: How it comes.

        Raises:
            InvalidImageError: it is no image, or over a limit.
            StorageError: it cannot be stored.
        """
        await self._runtime.open()
        image = await asyncio.to_thread(self._take_in, file)
        # After its file: there may be a file without a row, never a row without a file.
        record = new_upload(
            image.sha256,
            (image.width, image.height),
            principal=acting(),
            name=name,
            source=source,
            notices=image.notices,
        )
        await self._runtime.database.call(self._runtime.rooms.uploads.add, record)
        return UploadAnswer(
            id=record.id,
            uri=image_uri(record.id),
            name=record.name,
            width_px=record.width_px,
            height_px=record.height_px,
            notices=record.notices,
        )

    def _take_in(self, file: bytes | IO[bytes]) -> "InputImage":
        data = file if isinstance(file, bytes) else file.read()
        return self._inputs().take_in(data)
