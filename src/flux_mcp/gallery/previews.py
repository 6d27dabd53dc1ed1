"""Images made to be looked at: previews, thumbnails, contact sheets and strips.

A preview is a WebP that fits into a number of bytes. A contact sheet is a JPEG: it is encoded in a
fifth of the time, and shows small images only. A stored thumbnail is a WebP with a smaller JPEG of
itself inside, its tile, for the cells of sheets: a WebP cannot be decoded at a reduced size.
`Sheets` keeps what sheets are made of.
"""

import io
import math
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from flux_mcp.errors import InternalError, StorageError
from flux_mcp.gallery.pngs import UNREADABLE

MAX_PREVIEW_BYTES = 300_000
"""Blueprint section 6: three previews and their base64 stay below 1 MB."""
THUMBNAIL_PX = 512
"""Longest side of a stored thumbnail."""
TILE_PX = THUMBNAIL_PX // 2
"""Longest side of the tile in a thumbnail: that of a cell on a sheet of 20."""
_QUALITIES = {"WEBP": (88, 70, 45, 25), "JPEG": (80, 60, 40, 20)}
_Format = Literal["WEBP", "JPEG"]
_HOPELESS = 4
"""So many times too large at one quality, no lower one will do: the image has to shrink."""
_THUMBNAIL_QUALITY = 80
_TILE_QUALITY = 80


# --- previews and thumbnails -------------------------------------------------------------------


def preview_webp(
    source: Path | bytes, longest_px: int, max_bytes: int = MAX_PREVIEW_BYTES
) -> bytes:
    """Return an image of ours as a WebP with sides up to `longest_px` and at most `max_bytes`.

    Quality gives way first, then size, until it fits. Never enlarged.

    Raises:
        StorageError: the image cannot be read.
        InternalError: not even one pixel fits into `max_bytes`.
    """
    return _fitted(_shrunk(_open(source), longest_px), "WEBP", max_bytes)


def fitted_webp(image: Image.Image, max_bytes: int = MAX_PREVIEW_BYTES) -> bytes:
    """Return a decoded image as a WebP: quality gives way first, then size, until it fits.

    Raises:
        InternalError: not even one pixel fits into `max_bytes`.
    """
    return _fitted(image, "WEBP", max_bytes)


def thumbnail_webp(image: Image.Image) -> bytes:
    """Return a decoded image as a WebP with sides up to `THUMBNAIL_PX`, with its tile inside.

    Never enlarged. One that is no larger than a tile has none.
    """
    small = _shrunk(image, THUMBNAIL_PX)
    if max(small.size) <= TILE_PX:
        return _encoded(small, "WEBP", _THUMBNAIL_QUALITY)
    tile = _encoded(_shrunk(small, TILE_PX), "JPEG", _TILE_QUALITY)
    return _encoded(small, "WEBP", _THUMBNAIL_QUALITY, exif=_tile_exif(tile))


def small_preview_webp(path: Path, longest_px: int, max_bytes: int = MAX_PREVIEW_BYTES) -> bytes:
    """Return the stored thumbnail of a gallery image, as it is where it fits.

    Args:
        path: The PNG; its thumbnail stands beside it.
        longest_px: Sides of what is made where there is no thumbnail, or it is too large.
        max_bytes: Of what is returned.

    Raises:
        StorageError: neither can be read.
    """
    try:
        thumbnail = path.with_suffix(".webp").read_bytes()
    except OSError:
        return preview_webp(path, longest_px, max_bytes)
    return thumbnail if len(thumbnail) <= max_bytes else preview_webp(path, longest_px, max_bytes)


# --- contact sheets ----------------------------------------------------------------------------

_CELL_PX = (96, 320)
"""Of a contact sheet: smaller shows nothing, larger is no sheet any more."""
_NEAR = 0.17
"""A cell may be so much larger or smaller than there is room for, as a share."""
MAX_KEPT_SHEETS = 16
MAX_TILE_BYTES = 16 * 1024 * 1024
"""Of decoded tiles: 90 in the size that 20 images to a sheet have."""

_File = tuple[Path, int, int]
"""A file as it is: path, time of its last change in nanoseconds, size."""
_Tile = tuple[_File, int]
"""Which file, in cells of how many pixels."""


class Sheets:
    """Makes contact sheets, and keeps the newest ones and the tiles they are made of.

    Clients look at the same images again and again, with some new ones before them: decoding is
    most of the work. A file that changes, or is gone, is another file here. For any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sheets: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._tiles: OrderedDict[_Tile, Image.Image] = OrderedDict()
        self._tile_bytes = 0

    def sheet_jpeg(
        self,
        paths: Sequence[Path],
        labels: Sequence[str],
        sheet_px: int = 1280,
        max_bytes: int = MAX_PREVIEW_BYTES,
    ) -> bytes:
        """Return a JPEG grid of images, numbered from 1, each over its label, within `max_bytes`.

        It is about `sheet_px` wide, wider where cells would be too small to see anything. An image
        that cannot be read leaves an empty, numbered place.

        Raises:
            InternalError: no images, or not one label for each.
        """
        if not paths or len(paths) != len(labels):
            raise InternalError(f"{len(paths)} images and {len(labels)} labels make no sheet.")
        files = [_file(path) for path in paths]
        key = (*files, *labels, sheet_px, max_bytes)
        with self._lock:
            sheet = self._sheets.get(key)
            if sheet is not None:
                self._sheets.move_to_end(key)
                return sheet
        columns = math.ceil(math.sqrt(len(paths)))
        cell_px = _cell_px(sheet_px // columns - GAP_PX)
        tiles = [None if file is None else self._tile(file, cell_px) for file in files]
        cells = [
            Cell(tile, str(number), label)
            for number, (tile, label) in enumerate(zip(tiles, labels, strict=True), start=1)
        ]
        font_px = max(10, cell_px // 18)
        drawn = draw_sheet(cells, columns=columns, cell_px=cell_px, font_px=font_px)
        sheet = _fitted(drawn, "JPEG", max_bytes)
        if None not in tiles:
            self._keep(key, sheet)
        return sheet

    def _keep(self, key: tuple[object, ...], sheet: bytes) -> None:
        with self._lock:
            self._sheets[key] = sheet
            while len(self._sheets) > MAX_KEPT_SHEETS:
                self._sheets.popitem(last=False)

    def _tile(self, file: _File, cell_px: int) -> Image.Image | None:
        """Return an image that fits into a cell, `None` if it cannot be read."""
        key = (file, cell_px)
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                return tile
        try:
            tile = _open_small(file[0], cell_px)
        except StorageError:
            return None
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile
                self._tile_bytes += _decoded_bytes(tile)
            while self._tile_bytes > MAX_TILE_BYTES:
                _, oldest = self._tiles.popitem(last=False)
                self._tile_bytes -= _decoded_bytes(oldest)
        return tile


def _cell_px(room_px: int) -> int:
    """Return the side of a cell: what there is room for, or near it that of a tile or half of it.

    Those are decoded as they are needed; any other side is resampled.
    """
    low, high = _CELL_PX
    wanted = max(low, min(high, room_px))
    near = min((TILE_PX, TILE_PX // 2), key=lambda px: abs(px - wanted))
    return near if abs(near - wanted) <= _NEAR * wanted else wanted


def _file(path: Path) -> _File | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return path, found.st_mtime_ns, found.st_size


def _decoded_bytes(image: Image.Image) -> int:
    return 4 * image.width * image.height  # Pillow keeps RGB in four bytes


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


# --- cells and their captions ------------------------------------------------------------------

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
        _write(draw, (x, y), cell.head, _HEAD_INK, font_px)
        words = " ".join(cell.words.split())[:_MOST_CHARACTERS]
        if lines_of_words == 0:
            beside = _width_px(f"{cell.head}  ", font_px)
            _write(draw, (x + beside, y), _cut(words, font_px, room - beside), _INK, font_px)
        for n, text in enumerate(_wrapped(words, font_px, room, lines_of_words), start=1):
            _write(draw, (x, y + n * line), text, _INK, font_px)
    return sheet


def _paste_centred(
    sheet: Image.Image, image: Image.Image | None, place: tuple[int, int, int]
) -> None:
    left, top, cell_px = place
    if image is None:
        sheet.paste(_EMPTY, (left, top, left + cell_px, top + cell_px))
        return
    across, down = (cell_px - image.width) // 2, (cell_px - image.height) // 2
    sheet.paste(image, (left + across, top + down))


def _wrapped(text: str, font_px: int, room_px: int, most: int) -> list[str]:
    """Break text between words into at most `most` lines; the last takes the rest, cut."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        taken = 1
        while taken < len(words) and (_width_px(" ".join(words[: taken + 1]), font_px) <= room_px):
            taken += 1
        if len(lines) == most - 1:
            taken = len(words)
        lines.append(_cut(" ".join(words[:taken]), font_px, room_px))
        words = words[taken:]
    return lines


def _cut(text: str, font_px: int, room_px: int) -> str:
    if _width_px(text, font_px) <= room_px:
        return text
    while text and _width_px(f"{text}...", font_px) > room_px:
        text = text[:-1]
    return f"{text.rstrip()}..." if text else ""


def _width_px(text: str, font_px: int) -> int:
    return sum(_glyph(character, font_px).advance_px for character in text)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    ink: tuple[int, int, int],
    font_px: int,
) -> None:
    x, y = place
    for character in text:
        glyph = _glyph(character, font_px)
        draw.bitmap((x - _GLYPH_MARGIN_PX, y), glyph.mask, ink)
        x += glyph.advance_px


@dataclass(frozen=True)
class _Glyph:
    mask: Image.Image
    advance_px: int


_GLYPH_MARGIN_PX = 4
"""Beside a glyph in its mask: some reach beyond their advance."""


_font = lru_cache(maxsize=16)(ImageFont.load_default)


@lru_cache(maxsize=2048)
def _glyph(character: str, font_px: int) -> _Glyph:
    """Return a rasterized character.

    The ids on a sheet of 20 are 400 characters: Pillow keeps none of them, and takes as long for
    the text as for decoding the images.
    """
    font = _font(font_px)
    advance_px = round(font.getlength(character))
    mask = Image.new("L", (advance_px + 2 * _GLYPH_MARGIN_PX, 2 * font_px))
    ImageDraw.Draw(mask).text((_GLYPH_MARGIN_PX, 0), character, 255, font=font)
    return _Glyph(mask, advance_px)


# --- decoding, resizing, encoding --------------------------------------------------------------


def _unreadable(error: Exception) -> StorageError:
    return StorageError(f"An image of the gallery cannot be read: {error}.", "Restore the file.")


def _open(source: Path | bytes) -> Image.Image:
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        # A JPEG is a sheet that has to become smaller.
        with Image.open(file, formats=("PNG", "WEBP", "JPEG")) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except UNREADABLE as error:
        raise _unreadable(error) from error


def _open_small(path: Path, longest_px: int) -> Image.Image:
    """Return an image of ours with sides up to `longest_px`, from its tile if that is large enough.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(error) from error
    if longest_px <= TILE_PX and (jpeg := _tile_jpeg(data)):
        with suppress(*UNREADABLE), Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as tile:
            return _reduced(tile, longest_px)  # decoded at a reduced size, where that is enough
    return _reduced(_open(data).copy(), longest_px)  # the opened one would keep its decoder


def _reduced(image: Image.Image, longest_px: int) -> Image.Image:
    """Shrink an image in place: by a whole number first, then the rest of the way, if any."""
    image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS, reducing_gap=1.0)
    image.load()
    return image


_EXIF = struct.Struct("<2sHI HI H HHII HHII HHII I")
"""What stands before the thumbnail in Exif data: two directories, the first of them empty."""


def _tile_exif(jpeg: bytes) -> bytes:
    """Return Exif data with a JPEG as its thumbnail, where cameras put theirs."""
    head = _EXIF.pack(
        *(b"II", 42, 8),  # little-endian TIFF, the first directory at byte 8
        *(0, 14),  # no entries, the next directory at byte 14
        3,
        *(0x0103, 3, 1, 6),  # Compression: JPEG
        *(0x0201, 4, 1, _EXIF.size),  # JPEGInterchangeFormat: where it begins
        *(0x0202, 4, 1, len(jpeg)),  # JPEGInterchangeFormatLength
        0,  # no further directory
    )
    return head + jpeg


def _tile_jpeg(webp: bytes) -> bytes:
    """Return the tile in a thumbnail; empty where there is none, as in older files and PNGs.

    The chunks of the file are walked here: Pillow would set up a decoder first, which costs as much
    as decoding the tile.
    """
    at = 12
    while webp[:4] == b"RIFF" and at + 8 <= len(webp):
        name, size = struct.unpack_from("<4sI", webp, at)
        if name == b"EXIF":
            return webp[at + 8 + _EXIF.size : at + 8 + size]
        at += 8 + size + size % 2
    return b""


def _shrunk(image: Image.Image, longest_px: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return small


def _filling(image: Image.Image, longest_px: int) -> Image.Image:
    """Return an image whose longer side is `longest_px`, enlarged too."""
    scale = longest_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _fitted(image: Image.Image, file_format: _Format, max_bytes: int) -> bytes:
    while True:
        for quality in _QUALITIES[file_format]:
            data = _encoded(image, file_format, quality)
            if len(data) <= max_bytes:
                return data
            if len(data) > _HOPELESS * max_bytes:
                break
        if image.size == (1, 1):
            raise InternalError(f"No image fits into {max_bytes} bytes.")
        image = _shrunk(image, max(1, max(image.size) * 3 // 4))


def _encoded(image: Image.Image, file_format: _Format, quality: int, *, exif: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    # The method is WebP's alone.
    image.save(buffer, file_format, quality=quality, method=2, exif=exif)
    return buffer.getvalue()
