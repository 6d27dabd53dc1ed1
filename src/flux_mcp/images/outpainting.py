"""Outpainting: a larger canvas with the image in it, whose new part is generated.

From here on the canvas is the image: a mask that holds the margin, and whatever else is masked,
has its size, and so has the result.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from flux_mcp.errors import InvalidImageError, InvalidRequestError
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.mask_arguments import Outpaint, are_fractions

LEAST_ADDED_PX = 16
"""An image that was generated in a shape is off it by the rounding of its sides to multiples."""
_EXAMPLE = '"mask": {"outpaint": {"left": 128}}'


@dataclass(frozen=True)
class LargerCanvas:
    """A canvas and where in it the image stands."""

    size: Size
    place: Rectangle

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, in pixels."""
        left, top, right, bottom = self.place.edges
        return left, top, self.size.width - right, self.size.height - bottom

    @property
    def strips(self) -> Iterator[Rectangle]:
        """What is new along each side; corners belong to two of them."""
        left, top, right, bottom = self.margins
        width, height = self.size.width, self.size.height
        for x, y, across, down in (
            (0, 0, left, height),
            (0, 0, width, top),
            (width - right, 0, right, height),
            (0, height - bottom, width, bottom),
        ):
            if across and down:
                yield Rectangle(x, y, across, down)

    @property
    def notice(self) -> str:
        """What becomes of the image, in words."""
        sides = ("left", "top", "right", "bottom")
        added = [f"{px} px {side}" for side, px in zip(sides, self.margins, strict=True) if px]
        return (
            f"The image of {self.place.size} becomes {self.size}: {', '.join(added)} are generated."
        )


def larger_canvas(asked: Outpaint, image: Size, max_pixels: int) -> LargerCanvas:
    """Return the canvas that is asked for.

    Args:
        asked: Margins in pixels or as fractions of the side, or the shape of the smallest canvas
            that holds the image.
        image: Size of the image.
        max_pixels: Most that a canvas may have.

    Raises:
        InvalidRequestError: the canvas is no larger than the image, or the image cannot stand
            where it is asked for.
        InvalidImageError: the canvas has too many pixels.
    """
    if asked.aspect_ratio is not None:
        canvas = _of_ratio(asked, asked.aspect_ratio, image)
    else:
        left, top, right, bottom = _margins_px(asked, image)
        size = Size(left + image.width + right, top + image.height + bottom)
        canvas = LargerCanvas(size, Rectangle(left, top, image.width, image.height))
    if canvas.size == image:
        raise InvalidRequestError(
            f"The margins are smaller than a pixel of the image of {image}.", f"Give {_EXAMPLE}."
        )
    if canvas.size.pixels > max_pixels:
        raise InvalidImageError(
            f"The canvas of {canvas.size} has more than {max_pixels:,} pixels.",
            "Give smaller margins, or a smaller image.",
        )
    return canvas


def _margins_px(asked: Outpaint, image: Size) -> tuple[int, int, int, int]:
    left, top, right, bottom = asked.margins
    across, down = (image.width, image.height) if are_fractions(asked.margins) else (1, 1)
    return round(left * across), round(top * down), round(right * across), round(bottom * down)


def _of_ratio(asked: Outpaint, ratio: str, image: Size) -> LargerCanvas:
    across, down = (int(part) for part in ratio.split(":"))
    width = max(image.width, math.ceil(image.height * across / down))
    height = max(image.height, math.ceil(image.width * down / across))
    is_wider = width - image.width >= height - image.height
    size = Size(width, image.height) if is_wider else Size(image.width, height)
    added = width - image.width if is_wider else height - image.height
    if added < LEAST_ADDED_PX:
        raise InvalidRequestError(
            f"The image of {image} is {ratio} already"
            + (f", but for {added} px." if added else ": there is nothing to add."),
            f"Give margins instead: {_EXAMPLE}.",
        )
    before, after = ("left", "right") if is_wider else ("top", "bottom")
    if asked.anchor not in ("center", before, after):
        raise InvalidRequestError(
            f"A canvas of {ratio} is only {'wider' if is_wider else 'higher'} than the image of "
            f"{image}: the image cannot stand at its {asked.anchor} alone.",
            f"anchor is then {before}, center or {after}.",
        )
    start = {before: 0, "center": added // 2, after: added}[asked.anchor]
    x, y = (start, 0) if is_wider else (0, start)
    return LargerCanvas(size, Rectangle(x, y, image.width, image.height))


def extended(image: Image.Image, canvas: LargerCanvas) -> Image.Image:
    """Return the image (RGB) in its canvas, with its outermost pixels repeated in the margin.

    That is what is blended with what is drawn in the feather, and what an editing model sees: of
    all fillings it steps least from the image.
    """
    width, height = canvas.size.width, canvas.size.height
    left, top, right, bottom = canvas.place.edges
    whole = Image.new("RGB", (width, height))
    whole.paste(image, (left, top))
    # First the rows beside the image, then whole rows above and below: so corners are filled too.
    for x, margin, at in ((0, left, 0), (right, width - right, image.width - 1)):
        if margin:
            column = image.crop((at, 0, at + 1, image.height))
            whole.paste(column.resize((margin, image.height), Image.Resampling.NEAREST), (x, top))
    for y, margin, at in ((0, top, top), (bottom, height - bottom, bottom - 1)):
        if margin:
            row = whole.crop((0, at, width, at + 1))
            whole.paste(row.resize((width, margin), Image.Resampling.NEAREST), (0, y))
    return whole


def placed(mask: Image.Image, canvas: LargerCanvas) -> Image.Image:
    """Return the mask (L) of an image as that of its canvas: the margin is generated as well."""
    whole = Image.new("L", (canvas.size.width, canvas.size.height), 255)
    whole.paste(mask, canvas.place.edges)
    return whole
