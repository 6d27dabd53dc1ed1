"""Small pictures to look at: previews, thumbnails and contact sheets, as WebP within a budget.

Owns nothing. Knows neither where the pictures of the gallery lie nor their rows.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from flux_mcp.errors import InternalError, StorageError

MAX_PREVIEW_BYTES = 300_000
"""Blueprint section 6: three previews and their base64 stay below 1 MB."""

_QUALITIES = (88, 70, 45, 25)
_HOPELESS = 4
"""So many times too large at one quality, no lower one will do: the picture has to shrink."""
_THUMBNAIL_QUALITY = 80

# The contact sheet: neutral greys, so that no colour of the pictures is pushed either way.
_CELL_PX = (96, 320)
_GAP_PX = 12
_BACKGROUND = (38, 38, 40)
_EMPTY = (52, 52, 55)
_INK = (214, 214, 218)
_NUMBER_INK = (255, 255, 255)


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
    rows = math.ceil(len(paths) / columns)
    low, high = _CELL_PX
    cell = max(low, min(high, sheet_px // columns - _GAP_PX))
    font = ImageFont.load_default(max(10, cell // 18))
    caption = int(font.size) + 10 if isinstance(font, ImageFont.FreeTypeFont) else 20
    sheet = Image.new(
        "RGB",
        (columns * (cell + _GAP_PX) + _GAP_PX, rows * (cell + caption + _GAP_PX) + _GAP_PX),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for number, (path, label) in enumerate(zip(paths, labels, strict=True), start=1):
        row, column = divmod(number - 1, columns)
        left = _GAP_PX + column * (cell + _GAP_PX)
        top = _GAP_PX + row * (cell + caption + _GAP_PX)
        _paste_centred(sheet, path, (left, top, cell))
        head = f"{number}  "
        where = (left + 2, top + cell + 4)
        draw.text(where, head, fill=_NUMBER_INK, font=font)
        room = cell - 4 - draw.textlength(head, font=font)
        text = _cut(draw, " ".join(label.split()), font, room)
        draw.text((where[0] + draw.textlength(head, font=font), where[1]), text, _INK, font=font)
    return _fitted(sheet, max_bytes)


def _paste_centred(sheet: Image.Image, path: Path, place: tuple[int, int, int]) -> None:
    left, top, cell = place
    try:
        picture = _shrunk(_open(path), cell)
    except StorageError:
        sheet.paste(_EMPTY, (left, top, left + cell, top + cell))
        return
    across, down = (cell - picture.width) // 2, (cell - picture.height) // 2
    sheet.paste(picture, (left + across, top + down))


def _cut(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    room_px: float,
) -> str:
    text = text[:100]
    if draw.textlength(text, font=font) <= room_px:
        return text
    while text and draw.textlength(f"{text}...", font=font) > room_px:
        text = text[:-1]
    return f"{text.rstrip()}..." if text else ""


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
