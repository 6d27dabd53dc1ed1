"""Images made to be looked at: previews, thumbnails and contact sheets.

Owns nothing. Knows neither where the images of the gallery lie nor their rows, nor how a sheet is
laid out (sheets.py).
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from flux_mcp.errors import InternalError, StorageError

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GAP_PX = 12
_MARGIN_PX = 4
_MOST_CHARACTERS = 300
"""Longer captions are cut before they are measured: a prompt may have thousands."""

# Neutral greys, so that no colour of the images is pushed either way.
_BACKGROUND = (38, 38, 40)
_EMPTY = (52, 52, 55)
_INK = (214, 214, 218)
_HEAD_INK = (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """An image and its caption."""

    image: Image.Image | None
    """No larger than a cell; `None` leaves an empty place."""
    head: str
    """Set in the brighter ink."""
    words: str
    """Cut where they do not fit."""


def draw_sheet(
    cells: Sequence[Cell], *, columns: int, cell_px: int, font_px: int, lines_of_words: int = 0
) -> Image.Image:
    """Return the cells in rows of `columns`.

    Args:
        cells: What to show, in reading order.
        columns: How many stand side by side.
        cell_px: Side of the square each image is centred in.
        font_px: Size of the captions.
        lines_of_words: Lines below the head that the words may take; 0 puts them beside the head.
    """
    rows = math.ceil(len(cells) / columns)
    font = ImageFont.load_default(font_px)
    line = font_px + _MARGIN_PX
    caption = (1 + lines_of_words) * line + 2 * _MARGIN_PX
    sheet = Image.new(
        "RGB",
        (columns * (cell_px + GAP_PX) + GAP_PX, rows * (cell_px + caption + GAP_PX) + GAP_PX),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        left = GAP_PX + column * (cell_px + GAP_PX)
        top = GAP_PX + row * (cell_px + caption + GAP_PX)
        _paste_centred(sheet, cell.image, (left, top, cell_px))
        x, y, room = left + 2, top + cell_px + _MARGIN_PX, cell_px - _MARGIN_PX
        draw.text((x, y), cell.head, _HEAD_INK, font=font)
        words = " ".join(cell.words.split())[:_MOST_CHARACTERS]
        if lines_of_words == 0:
            beside = draw.textlength(f"{cell.head}  ", font=font)
            draw.text((x + beside, y), _cut(draw, words, font, room - beside), _INK, font=font)
        for n, text in enumerate(_wrapped(draw, words, font, room, lines_of_words), start=1):
            draw.text((x, y + n * line), text, _INK, font=font)
    return sheet


def _paste_centred(
    sheet: Image.Image, picture: Image.Image | None, place: tuple[int, int, int]
) -> None:
    left, top, cell_px = place
    if picture is None:
        sheet.paste(_EMPTY, (left, top, left + cell_px, top + cell_px))
        return
    across, down = (cell_px - picture.width) // 2, (cell_px - picture.height) // 2
    sheet.paste(picture, (left + across, top + down))


def _wrapped(
    draw: ImageDraw.ImageDraw, text: str, font: Font, room_px: float, most: int
) -> list[str]:
    """Break text between words into at most `most` lines; the last takes the rest, cut."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        taken = 1
        while taken < len(words) and (
            draw.textlength(" ".join(words[: taken + 1]), font=font) <= room_px
        ):
            taken += 1
        if len(lines) == most - 1:
            taken = len(words)
        lines.append(_cut(draw, " ".join(words[:taken]), font, room_px))
        words = words[taken:]
    return lines


def _cut(draw: ImageDraw.ImageDraw, text: str, font: Font, room_px: float) -> str:
    if draw.textlength(text, font=font) <= room_px:
        return text
    while text and draw.textlength(f"{text}...", font=font) > room_px:
        text = text[:-1]
    return f"{text.rstrip()}..." if text else ""


MAX_PREVIEW_BYTES = 300_000
"""Blueprint section 6: three previews and their base64 stay below 1 MB."""

_QUALITIES = (88, 70, 45, 25)
_HOPELESS = 4
"""So many times too large at one quality, no lower one will do: the image has to shrink."""
_THUMBNAIL_QUALITY = 80

_CELL_PX = (96, 320)
"""Of a contact sheet: smaller shows nothing, larger is no sheet any more."""


def preview_webp(
    source: Path | bytes, longest_px: int, max_bytes: int = MAX_PREVIEW_BYTES
) -> bytes:
    """Return an image of ours as a WebP with sides up to `longest_px` and at most `max_bytes`.

    Quality gives way first, then size, until it fits. Never enlarged.

    Raises:
        StorageError: the image cannot be read.
        InternalError: not even a dot fits into `max_bytes`.
    """
    return _fitted(_shrunk(_open(source), longest_px), max_bytes)


def thumbnail_webp(image: Image.Image, longest_px: int) -> bytes:
    """Return a decoded image as a WebP with sides up to `longest_px`. Never enlarged."""
    return _encode_webp(_shrunk(image, longest_px), _THUMBNAIL_QUALITY)


def contact_sheet(
    paths: Sequence[Path],
    labels: Sequence[str],
    max_bytes: int = MAX_PREVIEW_BYTES,
    sheet_px: int = 1280,
) -> bytes:
    """Return a WebP grid of images, numbered from 1, each over its label, within `max_bytes`.

    It is about `sheet_px` wide, wider where cells would be too small to see anything. An image
    that cannot be read leaves an empty, numbered place.

    Raises:
        InternalError: no images, or not one label for each.
    """
    if not paths or len(paths) != len(labels):
        raise InternalError(f"{len(paths)} images and {len(labels)} labels make no sheet.")
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
    """Return a PNG of images side by side, each as large as its cell, over a head and its words.

    Raises:
        StorageError: an image cannot be read.
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
    """Return an image whose longer side is `longest_px`, enlarged too."""
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
            f"An image of the gallery cannot be read: {error}.", "Restore the file."
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
            raise InternalError(f"No image fits into {max_bytes} bytes.")
        image = _shrunk(image, max(1, max(image.size) * 3 // 4))


def _encode_webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()
