"""Sheets: many pictures as one, in rows, each over its caption. Pure: pictures in, a picture out.

Knows neither files nor formats; previews.py reads the pictures and makes files of the sheets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GAP_PX = 12
_MARGIN_PX = 4
_MOST_CHARACTERS = 300
"""Longer captions are cut before they are measured: a prompt may have thousands."""

# Neutral greys, so that no colour of the pictures is pushed either way.
_BACKGROUND = (38, 38, 40)
_EMPTY = (52, 52, 55)
_INK = (214, 214, 218)
_HEAD_INK = (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """A picture and its caption."""

    picture: Image.Image | None
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
        cell_px: Side of the square each picture is centred in.
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
        _paste_centred(sheet, cell.picture, (left, top, cell_px))
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
