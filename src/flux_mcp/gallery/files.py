"""ImageFiles: the files below `images/` and `previews/`, written whole or not at all.

The caller writes an image's row (store.py) after its files: a crash may leave a file without a row,
never a row without a file. `without_row` finds such files; a finished PNG among them is never
removed, but taken back into the gallery or moved aside (service/recovery.py). How an image is made
small is in previews.py.
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flux_mcp.errors import InternalError, InvalidImageError, StorageError
from flux_mcp.settings.paths import Paths

if TYPE_CHECKING:
    from PIL.Image import Image

_OURS = re.compile(r"img_[A-Za-z0-9_-]+\.(?:png|webp)")
_JOB_ID = re.compile(r"job_[A-Za-z0-9_-]{1,64}")
_PART = re.compile(r"\.[A-Za-z0-9_-]+\.[0-9a-f]{8}\.part")


@dataclass(frozen=True)
class FilesWithoutRow:
    """Files of a month that no row names."""

    images: tuple[Path, ...]
    """Finished PNGs, each an image somebody waited for."""
    rest: tuple[Path, ...]
    """Half-written files, and thumbnails of images that are not there: nobody can miss them."""


@dataclass(frozen=True)
class SavedImage:
    """Where an image's files are (posix paths below the data folder), and what is in them."""

    file: str
    thumbnail: str
    sha256: str
    """Of the PNG file."""
    pixels_sha256: str
    """Of the raw RGB pixels."""
    size_bytes: int


class ImageFiles:
    """Files of finished images: `images/YYYY/MM/<id>.png`, each with its `.webp` thumbnail."""

    def __init__(self, paths: Paths) -> None:
        self._root = paths.root.absolute()
        self._images = self._root / paths.images.relative_to(paths.root)
        self._below_root = tuple(
            f"{folder.relative_to(paths.root).as_posix()}/"
            for folder in (paths.images, paths.uploads)
        )
        self._previews = paths.previews
        self._uploads = paths.uploads
        self._set_aside = paths.set_aside

    def save(
        self, image_id: str, created_at: str, image: "Image", metadata: Mapping[str, str]
    ) -> SavedImage:
        """Write an RGB image and its thumbnail; each appears whole, the thumbnail first.

        `metadata` becomes the PNG's iTXt chunks.

        Raises:
            StorageError: the disk refused; nothing is left behind but, at worst, a whole thumbnail.
            InternalError: the id is not one of ours, or the image is not RGB.
        """
        from flux_mcp.gallery.pngs import encode_png, pixels_sha256
        from flux_mcp.gallery.previews import thumbnail_webp

        if not _OURS.fullmatch(f"{image_id}.png") or image.mode != "RGB":
            raise InternalError(f"{image_id}: an image of {image.mode} is not saved under this id.")
        png = encode_png(image, metadata)
        folder = self._images / f"{datetime.fromisoformat(created_at):%Y/%m}"
        file, thumbnail = folder / f"{image_id}.png", folder / f"{image_id}.webp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(thumbnail, thumbnail_webp(image))
            write_whole(file, png)
        except OSError as error:
            raise StorageError(
                f"The image could not be saved: {error.strerror}.",
                f"Free disk space or permissions below {self._images}.",
            ) from error
        return SavedImage(
            file=self._relative(file),
            thumbnail=self._relative(thumbnail),
            sha256=hashlib.sha256(png).hexdigest(),
            pixels_sha256=pixels_sha256(image),
            size_bytes=len(png),
        )

    def upload_path(self, sha256: str) -> Path:
        """Return where an input of a plan is."""
        return self._uploads / f"{sha256}.png"

    def preview_path(self, job_id: str) -> Path:
        """Return where the preview of a running job is, if there is one.

        For what is no id of a job of ours, such as no id at all, nothing is ever there.
        """
        name = job_id if _JOB_ID.fullmatch(job_id) else "none"
        return self._previews / f"{name}.webp"

    def save_preview(self, job_id: str, preview: bytes) -> None:
        """Replace the preview of a running job; readers see the old one or the new one whole.

        Raises:
            StorageError: the disk refused.
            InternalError: the id is not one of ours.
        """
        if not _JOB_ID.fullmatch(job_id):
            raise InternalError(f"{job_id[:80]!r} is no id of a job.")
        try:
            write_whole(self.preview_path(job_id), preview, survives_power_cut=False)
        except OSError as error:
            raise StorageError(f"A preview cannot be written: {error.strerror}.") from error

    def drop_preview(self, job_id: str) -> None:
        """Remove the preview of a job that no longer runs."""
        self.preview_path(job_id).unlink(missing_ok=True)

    def path_of(self, relative: str) -> Path:
        """Return the absolute path of a row's `file` or `thumbnail`.

        Raises:
            InternalError: it does not lie below the folder of images or of uploads.
        """
        # As text: a search answers with twenty of them, and pathlib takes its time.
        if not relative.startswith(self._below_root) or ".." in relative.split("/"):
            raise InternalError(f"{relative!r} is not a file of the gallery.")
        return self._root / relative

    def read(self, relative: str) -> bytes:
        """Return the bytes of a row's `file` or `thumbnail`.

        Raises:
            StorageError: the file is gone or unreadable.
        """
        return read_file(self.path_of(relative))

    def months(self) -> tuple[str, ...]:
        """Return the folders images lie in, as `YYYY/MM`, oldest first."""
        found = self._images.glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]")
        return tuple(sorted(path.relative_to(self._images).as_posix() for path in found))

    def has_images(self) -> bool:
        """Return whether there is any finished PNG."""
        return any(
            _OURS.fullmatch(path.name)
            for month in self.months()
            for path in (self._images / month).glob("*.png")
        )

    def without_row(
        self, month: str, known_files: Collection[str], older_than_s: float
    ) -> FilesWithoutRow:
        """Return the files of a month that no row names and that are older than `older_than_s`.

        Younger ones may be on their way: another process is between file and row. Only names that
        this class gives are looked at.
        """
        found: list[Path] = []
        parts: list[Path] = []
        for path in _older(self._images / month, older_than_s):
            if _PART.fullmatch(path.name):
                parts.append(path)
            elif _OURS.fullmatch(path.name) and self._relative(path) not in known_files:
                found.append(path)
        images = tuple(sorted(path for path in found if path.suffix == ".png"))
        thumbnails = tuple(
            path
            for path in found
            if path.suffix == ".webp" and not path.with_suffix(".png").exists()
        )
        return FilesWithoutRow(images, (*parts, *thumbnails))

    def unfinished(self, older_than_s: float) -> tuple[Path, ...]:
        """Return half-written uploads and previews that are older than `older_than_s`."""
        return tuple(
            path
            for folder in (self._uploads, self._previews)
            for path in _older(folder, older_than_s)
            if _PART.fullmatch(path.name)
        )

    def old_previews(self, older_than_s: float) -> Mapping[str, Path]:
        """Return previews that are older than `older_than_s`, by the id of their job."""
        return {
            path.stem: path
            for path in _older(self._previews, older_than_s)
            if path.suffix == ".webp" and _JOB_ID.fullmatch(path.stem)
        }

    def examine(self, path: Path, size_px: tuple[int, int]) -> SavedImage:
        """Decode a finished PNG that has no row; make its thumbnail if that is missing.

        Args:
            path: The PNG.
            size_px: Width and height that its metadata tell.

        Raises:
            InvalidImageError: it is damaged, or its size is not the one its metadata tell.
            StorageError: it cannot be read, or its thumbnail cannot be written.
        """
        from flux_mcp.gallery.pngs import decode_png, pixels_sha256
        from flux_mcp.gallery.previews import thumbnail_webp

        try:
            png = path.read_bytes()
            image = decode_png(png)
            if image.size != size_px:
                raise InvalidImageError(f"Its size is {image.size}, its metadata say {size_px}.")
            thumbnail = path.with_suffix(".webp")
            if not thumbnail.exists():
                write_whole(thumbnail, thumbnail_webp(image))
        except OSError as error:
            raise StorageError(f"{path} cannot be taken back: {error.strerror}.") from error
        return SavedImage(
            file=self._relative(path),
            thumbnail=self._relative(thumbnail),
            sha256=hashlib.sha256(png).hexdigest(),
            pixels_sha256=pixels_sha256(image),
            size_bytes=len(png),
        )

    def set_aside(self, path: Path) -> Path:
        """Move a finished PNG out of the gallery's folders; return where it is now.

        Its thumbnail is removed. Nothing is overwritten.

        Raises:
            StorageError: the disk refused; it is where it was.
        """
        target = self._set_aside / path.name
        try:
            self._set_aside.mkdir(exist_ok=True)
            while target.exists():
                target = target.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")
            path.rename(target)
            path.with_suffix(".webp").unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{path} cannot be moved aside: {error.strerror}.") from error
        return target

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def read_file(path: Path) -> bytes:
    """Return the bytes of a stored image.

    Raises:
        StorageError: the file is gone or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}.", "Restore it, or draw the image again."
        ) from error


def _older(folder: Path, than_s: float) -> Iterator[Path]:
    before = time.time() - than_s
    try:
        names = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in names:
        with suppress(FileNotFoundError):  # another process removed it, or its rename came between
            if path.lstat().st_mtime < before:
                yield path


def write_whole(target: Path, data: bytes, *, survives_power_cut: bool = True) -> None:
    """Write a file aside and rename it: readers see the old one or the new one, never a part."""
    part = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            if survives_power_cut:
                file.flush()
                os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
