"""Images where `--output` wants them, and in the desktop's viewer with `--open`."""

import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from PIL import Image

from flux_mcp.errors import InvalidRequestError, StorageError
from flux_mcp.service.answers import ImageAnswer

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
USUAL_QUALITY = 90
_MOST_QUALITY = 100


@dataclass(frozen=True)
class OutputFlags:
    """Where finished images go besides the gallery.

    Attributes:
        file: `None` for nowhere.
        quality: Of a JPEG or WebP; `None`: as usual.
        force: Whether a file may be replaced.
        open: Whether the desktop's viewer opens them.
        show: Whether the terminal shows them; `None`: where it is known to have pixels.
    """

    file: Path | None
    quality: int | None
    force: bool = False
    open: bool = False
    show: bool | None = None

    def check(self, count: int) -> None:
        """Refuse before anything is generated what could not be written afterwards.

        Raises:
            InvalidRequestError: no such format or folder, or a file is there.
        """
        if self.file is None:
            if self.quality is not None or self.force:
                raise InvalidRequestError(
                    "--output-quality and --force go with --output.", "Give the file too."
                )
            return
        suffix = self.file.suffix.lower()
        if suffix not in FORMATS:
            raise InvalidRequestError(
                f"--output: '{suffix}' is no format of images.", f"Use {', '.join(FORMATS)}."
            )
        if self.quality is not None:
            if FORMATS[suffix] == "PNG":
                raise InvalidRequestError(
                    "A PNG has no quality: it keeps every pixel.", "Leave --output-quality out."
                )
            if not 1 <= self.quality <= _MOST_QUALITY:
                raise InvalidRequestError("--output-quality is from 1 to 100.", "Usual is 90.")
        if not self.file.parent.is_dir():
            raise InvalidRequestError(
                f"--output: there is no folder {self.file.parent}.", "Make it first."
            )
        for path in self.paths(count):
            if path.is_dir() or (not self.force and os.path.lexists(path)):
                raise InvalidRequestError(
                    f"--output: {path} is there.", "Give another name, or --force to replace it."
                )

    def paths(self, count: int) -> list[Path]:
        """Return the file of each image: `fox.png`, or `fox-1.png`, `fox-2.png` of several."""
        if self.file is None:
            return []
        if count == 1:
            return [self.file]
        return [self.file.with_stem(f"{self.file.stem}-{n}") for n in range(1, count + 1)]

    def deliver(self, images: Sequence[ImageAnswer]) -> list[Path]:
        """Write the images, open them where that is asked, and return the files.

        Raises:
            StorageError: one cannot be written.
            InvalidRequestError: one has been put there meanwhile.
        """
        written = self.paths(len(images))
        for image, path in zip(images, written, strict=bool(written)):
            self._write(Path(image.path), path)
        if self.open:
            for shown in written or [Path(image.path) for image in images]:
                typer.launch(str(shown))
        return written

    def _write(self, source: Path, path: Path) -> None:
        try:
            self._put(_encoded(source, FORMATS[path.suffix.lower()], self.quality), path)
        except FileExistsError as error:
            raise InvalidRequestError(
                f"--output: {path} is there.", f"The image is in the gallery: {source}"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error.strerror or error}.",
                f"The image is in the gallery: {source}",
            ) from error

    def _put(self, data: bytes, path: Path) -> None:
        """Write a file as a whole or not at all."""
        if not self.force:
            with path.open("xb") as file:
                file.write(data)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(data)
                file.close()
                if path.exists():
                    shutil.copymode(path, file.name)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


def _encoded(source: Path, image_format: str, quality: int | None) -> bytes:
    if image_format == "PNG":
        return source.read_bytes()
    with Image.open(source) as image, io.BytesIO() as out:
        image.convert("RGB").save(out, image_format, quality=quality or USUAL_QUALITY)
        return out.getvalue()
