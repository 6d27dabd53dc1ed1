"""Pictures made to be looked at: previews, thumbnails and contact sheets.

Owns nothing. Knows neither where the pictures of the gallery lie nor their rows, nor how a sheet is
laid out (sheets.py).
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from flux_mcp.errors import InternalError, StorageError
from flux_mcp.gallery.sheets import GAP_PX, Cell, draw_sheet

MAX_PREVIEW_BYTES = 300_000
"""Blueprint section 6: three previews and their base64 stay below 1 MB."""

_QUALITIES = (88, 70, 45, 25)
_HOPELESS = 4
"""So many times too large at one quality, no lower one will do: the picture has to shrink."""
_THUMBNAIL_QUALITY = 80

_CELL_PX = (96, 320)
"""Of a contact sheet: smaller shows nothing, larger is no sheet any more."""


def preview_webp(
    source: Path | bytes, longest_px: int, max_bytes: int = MAX_PREVIEW_BYTES
) -> bytes:
    """Return a picture of ours as a WebP with sides up to `longest_px` and at most `max_bytes`.

    Quality gives way first, then size, until it fits. Never enlarged.

    Raises:
        StorageError: the picture cannot be read.
        InternalError: not even a dot fits into `max_bytes`.
    """
    return _fitted(_shrunk(_open(source), longest_px), max_bytes)


def thumbnail_webp(image: Image.Image, longest_px: int) -> bytes:
    """Return a decoded picture as a WebP with sides up to `longest_px`. Never enlarged."""
    return _encode_webp(_shrunk(image, longest_px), _THUMBNAIL_QUALITY)


def contact_sheet(
    paths: Sequence[Path],
    labels: Sequence[str],
    max_bytes: int = MAX_PREVIEW_BYTES,
    sheet_px: int = 1280,
) -> bytes:
    """Return a WebP grid of pictures, numbered from 1, each over its label, within `max_bytes`.

    It is about `sheet_px` wide, wider where cells would be too small to see anything. A picture
    that cannot be read leaves an empty, numbered place.

    Raises:
        InternalError: no pictures, or not one label for each.
    """
    if not paths or len(paths) != len(labels):
        raise InternalError(f"{len(paths)} pictures and {len(labels)} labels make no sheet.")
    columns = math.ceil(math.sqrt(len(paths)))
    low, high = _CELL_PX
    cell_px = max(low, min(high, sheet_px // columns - GAP_PX))
    cells = [
        Cell(_shrunk_or_none(path, cell_px), str(number), label)
        for number, (path, label) in enumerate(zip(paths, labels, strict=True), start=1)
    ]
    font_px = max(10, cell_px // 18)
    sheet = draw_sheet(cells, columns=columns, cell_px=cell_px, font_px=font_px)
    return _fitted(sheet, max_bytes)


def strip_png(paths: Sequence[Path], captions: Sequence[tuple[str, str]], cell_px: int) -> bytes:
    """Return a PNG of pictures side by side, each as large as its cell, over a head and its words.

    Raises:
        StorageError: a picture cannot be read.
    """
    cells = [
        Cell(_filling(_open(path), cell_px), head, words)
        for path, (head, words) in zip(paths, captions, strict=True)
    ]
    sheet = draw_sheet(
        cells, columns=len(cells), cell_px=cell_px, font_px=cell_px // 13, lines_of_words=2
    )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shrunk_or_none(path: Path, longest_px: int) -> Image.Image | None:
    try:
        return _shrunk(_open(path), longest_px)
    except StorageError:
        return None


def _filling(image: Image.Image, longest_px: int) -> Image.Image:
    """Return a picture whose longer side is `longest_px`, enlarged too."""
    scale = longest_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _open(source: Path | bytes) -> Image.Image:
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=("PNG", "WEBP")) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise StorageError(
            f"A picture of the gallery cannot be read: {error}.", "Restore the file."
        ) from error


def _shrunk(image: Image.Image, longest_px: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return small


def _fitted(image: Image.Image, max_bytes: int) -> bytes:
    while True:
        for quality in _QUALITIES:
            data = _encode_webp(image, quality)
            if len(data) <= max_bytes:
                return data
            if len(data) > _HOPELESS * max_bytes:
                break
        if image.size == (1, 1):
            raise InternalError(f"No picture fits into {max_bytes} bytes.")
        image = _shrunk(image, max(1, max(image.size) * 3 // 4))


def _encode_webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()
