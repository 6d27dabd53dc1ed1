"""Masks: from shapes and images to an L image, where 255 is generated again and 0 is kept.

The parts of a mask are united, then grown, inverted and softened, in this order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from flux_mcp.errors import InvalidImageError, InvalidRequestError
from flux_mcp.images.decoding import InputImage, encode_image
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.mask_arguments import (
    Area,
    Box,
    Ellipse,
    are_ambiguous,
    are_fractions,
    whole_mask,
)
from flux_mcp.requests.plan import GENERATED_FROM

SOFT_PART, MOST_SOFT_PX = 16, 32
"""The edge of a shape is softened by this part of its shorter side, and by no more than this: an
image drawn into it differs from the rest along a sharp line, which is seen."""
_INVERT = "White is generated again and black is kept; invert swaps them"


# --- from an image -------------------------------------------------------------------------------


def scaled_mask(mask: Image.Image, image_size: Size) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a mask (L) in the size of its image, and what is to be said about that.

    Raises:
        InvalidImageError: it has another shape than the image, by more than the rounding of a
            side to whole pixels.
    """
    width, height = mask.size
    size = Size(width, height)
    if size == image_size:
        return mask, ()
    off = (
        abs(width - image_size.width * height / image_size.height),
        abs(height - image_size.height * width / image_size.width),
    )
    if min(off) >= 1:
        half = whole_mask(0, 0, image_size.width // 2, image_size.height // 2)
        raise InvalidImageError(
            f"The mask is {size} and the image is {image_size}: they have different shapes.",
            f"Send a mask of {image_size}, or scaled down with its shape kept, or a box: {half}.",
        )
    scaled = mask.resize((image_size.width, image_size.height), Image.Resampling.BILINEAR)
    return scaled, (f"The mask of {size} was scaled to the image's {image_size}.",)


# --- from shapes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnShape:
    """A shape as a mask."""

    mask: Image.Image
    """L, of the image's size: 255 inside, 0 outside."""
    box: Rectangle
    """What it touches."""
    notices: tuple[str, ...] = ()


def draw_shapes(area: Area, image_size: Size) -> Iterator[DrawnShape]:
    """Yield each shape of an area (box, ellipse, polygon) as a mask of an image's size.

    Raises:
        InvalidRequestError: one reaches outside the image, or holds no pixel.
    """
    if area.box is not None:
        yield _draw_box(area.box, image_size)
    if area.ellipse is not None:
        yield _draw_ellipse(area.ellipse, image_size)
    if area.polygon is not None:
        yield _draw_polygon(area.polygon, image_size)


def _draw_box(box: Box, image_size: Size) -> DrawnShape:
    place = _in_pixels(box, image_size)
    mask = Image.new("L", (image_size.width, image_size.height), 0)
    mask.paste(255, place.edges)
    return DrawnShape(mask, place, _told_unit(box.named, box.corners))


def _draw_ellipse(ellipse: Ellipse, image_size: Size) -> DrawnShape:
    place = _in_pixels(ellipse, image_size)
    left, top, right, bottom = place.edges
    mask = Image.new("L", (image_size.width, image_size.height), 0)
    # Pillow's ellipse includes its last column and row.
    ImageDraw.Draw(mask).ellipse((left, top, right - 1, bottom - 1), fill=255)
    return DrawnShape(mask, place, _told_unit(ellipse.named, ellipse.corners))


def _in_pixels(box: Box, image_size: Size) -> Rectangle:
    """Return where a box lies in an image, its fractions rounded to whole pixels.

    Raises:
        InvalidRequestError: it reaches outside, or is smaller than a pixel.
    """
    across, down = (image_size.width, image_size.height) if box.is_fraction else (1, 1)
    x0, y0, x1, y1 = box.corners
    left, top, right, bottom = map(round, (x0 * across, y0 * down, x1 * across, y1 * down))
    if right > image_size.width or bottom > image_size.height:
        inside = _inside(Rectangle(left, top, right - left, bottom - top), image_size, box.named)
        raise InvalidRequestError(
            f"The {box.named} reaches to ({right}, {bottom}), outside the image.",
            f"The image is {image_size}; what of the {box.named} lies in it is {inside}.",
        )
    if right <= left or bottom <= top:
        raise InvalidRequestError(
            f"The {box.named} is smaller than a pixel of the image of {image_size}.",
            "Give a larger one.",
        )
    return Rectangle(left, top, right - left, bottom - top)


def _inside(box: Rectangle, image_size: Size, named: str) -> str:
    width = min(box.x + box.width, image_size.width) - box.x
    height = min(box.y + box.height, image_size.height) - box.y
    is_outside = width < 1 or height < 1
    return "nothing" if is_outside else whole_mask(box.x, box.y, width, height, named=named)


def _told_unit(named: str, numbers: Iterable[float]) -> tuple[str, ...]:
    """Return how numbers that are all 0 or 1 were read."""
    numbers = tuple(numbers)
    if not are_fractions(numbers) or not are_ambiguous(numbers):
        return ()
    return (f"The numbers of the {named} were read as fractions of the image: 1 is a whole side.",)


def _draw_polygon(points: list[tuple[float, float]], image_size: Size) -> DrawnShape:
    """Draw a polygon: a pixel is inside if its middle is, by the even-odd rule.

    Corners lie between pixels, so that a rectangle is the box of the same corners. Each edge swaps
    inside and outside for all that lies right of it.
    """
    import numpy as np  # noqa: PLC0415 - few requests have a polygon

    numbers = [number for point in points for number in point]
    scale = (image_size.width, image_size.height) if are_fractions(numbers) else (1, 1)
    corners = [(x * scale[0], y * scale[1]) for x, y in points]
    for x, y in corners:
        if x > image_size.width or y > image_size.height:
            raise InvalidRequestError(
                f"The polygon reaches to ({x:g}, {y:g}), outside the image.",
                f"The image is {image_size}; give corners inside it.",
            )
    swaps = np.zeros((image_size.height, image_size.width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        (x0, y0), (x1, y1) = sorted(((x0, y0), (x1, y1)), key=lambda corner: corner[1])  # noqa: PLW2901
        rows = np.arange(np.ceil(y0 - 0.5), np.ceil(y1 - 0.5)).astype(np.intp)
        if rows.size:
            at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            swaps[rows, np.ceil(at - 0.5).astype(np.intp)] ^= 1
    np.bitwise_xor.accumulate(swaps, axis=1, out=swaps)
    swaps *= 255
    mask = Image.fromarray(np.ascontiguousarray(swaps[:, :-1]))
    box = mask.getbbox()
    if box is None:
        raise InvalidRequestError("The polygon holds no pixel of the image.", "Give a larger one.")
    left, top, right, bottom = box
    place = Rectangle(left, top, right - left, bottom - top)
    return DrawnShape(mask, place, _told_unit("polygon", numbers))


# --- all together --------------------------------------------------------------------------------


def united(one: Image.Image, other: Image.Image) -> Image.Image:
    """Return the mask of all that at least one of two masks of one size changes."""
    return ImageChops.lighter(one, other)


def default_feather_px(shapes: Iterable[Rectangle]) -> int:
    """Return by how much the edge of a mask is softened where nothing is asked.

    Args:
        shapes: What its shapes touch. A mask with an image in it is not softened: it is taken as
            it was painted.
    """
    shorter = (min(shape.width, shape.height) // SOFT_PART for shape in shapes)
    return min(MOST_SOFT_PX, min(shorter, default=0))


def soft_edge_notice(feather_px: int) -> str:
    """Return what a caller who did not ask for it is told."""
    return (
        f"The edge of the mask is softened by {feather_px} px on each side, so that no seam is "
        "seen; feather_px=0 keeps it sharp."
    )


@dataclass(frozen=True)
class FinishedMask:
    """A mask as it is used."""

    image: InputImage
    touched: Rectangle
    """Where it is not 0: whatever else changes, all outside stays."""
    changed: Rectangle
    """Where it is generated again."""
    share: float
    """Of the image's pixels that are generated again."""

    @property
    def notice(self) -> str:
        """Where it lies and how much it covers, in words."""
        left, top, right, bottom = self.changed.edges
        percent = 100 * self.share
        shown = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"  # noqa: PLR2004
        return (
            f"Mask: from ({left}, {top}) to ({right}, {bottom}), {shown} % of the image of "
            f"{self.image.width}x{self.image.height}."
        )


def finish_mask(
    mask: Image.Image,
    *,
    grow_px: int = 0,
    invert: bool = False,
    feather_px: int = 0,
) -> FinishedMask:
    """Return a mask (L) grown, inverted and softened as asked.

    Args:
        mask: All its parts.
        grow_px: By how far it grows on all sides, or shrinks below 0.
        invert: Whether white and black are swapped.
        feather_px: How far from its edge, on each side, the mask may fade; beyond that it is as it
            was (a Gaussian of a third of it, which Pillow makes of three boxes and so ends there).

    Raises:
        InvalidRequestError: no pixel is left to generate.
    """
    if grow_px:
        mask = grown(mask, grow_px)
    if invert:
        mask = ImageOps.invert(mask)
    if feather_px:
        mask = mask.filter(ImageFilter.GaussianBlur(feather_px / 3))
    hard = mask.point(lambda value: 255 if value >= GENERATED_FROM else 0)
    touched, changed = mask.getbbox(), hard.getbbox()
    if touched is None or changed is None:
        raise InvalidRequestError(
            "The mask leaves nothing to generate: none of it is white.",
            f"{_INVERT}, a smaller feather_px or a larger grow_px keeps small shapes.",
        )
    share = hard.histogram()[255] / (mask.width * mask.height)
    image = encode_image(mask)
    return FinishedMask(image, _rectangle(touched), _rectangle(changed), share)


def _rectangle(edges: tuple[int, int, int, int]) -> Rectangle:
    left, top, right, bottom = edges
    return Rectangle(left, top, right - left, bottom - top)


# --- growing -------------------------------------------------------------------------------------

_ROWS_AT_ONCE = 64
"""Rows that are grown at once: memory is then a small part of the image's."""


def grown(mask: Image.Image, by_px: int) -> Image.Image:
    """Return a mask (L) whose white, from half up, reaches `by_px` further; below 0, less far.

    What is nearer to a white pixel than that becomes white, in a straight line between the middles
    of pixels; all else black. The border of the image is no edge: a mask does not shrink from it.
    """
    hard = mask.point(lambda value: 255 if value >= GENERATED_FROM else 0)
    if by_px < 0:
        return ImageOps.invert(_dilated(ImageOps.invert(hard), -by_px))
    return _dilated(hard, by_px)


def _dilated(hard: Image.Image, by_px: int) -> Image.Image:
    """Return what lies within a radius of 255, in two passes whose work does not depend on it.

    First the distance to white along each column. Then a pixel whose column has white at distance d
    makes white what lies within sqrt(r^2 - d^2) of it in its row: +1 where that begins, -1 after it
    ends, and white where the sum is above 0.
    """
    import numpy as np  # noqa: PLC0415 - few requests grow a mask

    box = hard.getbbox()
    if box is None:
        return hard
    left, top, right, bottom = box
    edges = (
        max(0, left - by_px),
        max(0, top - by_px),
        min(hard.width, right + by_px),
        min(hard.height, bottom + by_px),
    )
    white = np.asarray(hard.crop(edges)) > 0
    height, width = white.shape
    far = by_px + 1
    down = np.full((height, width), far, np.uint16)
    nearest = np.full(width, far, np.uint16)
    for rows in (range(height), range(height - 1, -1, -1)):
        nearest[:] = far
        for row in rows:
            np.minimum(nearest + np.uint16(1), np.uint16(far), out=nearest)
            nearest[white[row]] = 0
            np.minimum(down[row], nearest, out=down[row])
    distances = np.arange(far)
    reach = np.floor(np.sqrt(by_px**2 - distances**2)).astype(np.int64)
    result = np.zeros((height, width), np.uint8)
    for first in range(0, height, _ROWS_AT_ONCE):
        part = down[first : first + _ROWS_AT_ONCE]
        rows_of, columns = np.nonzero(part <= by_px)
        across = reach[part[rows_of, columns]]
        begins = rows_of * (width + 1) + np.maximum(columns - across, 0)
        ends = rows_of * (width + 1) + np.minimum(columns + across + 1, width)
        count = len(part) * (width + 1)
        swaps = np.bincount(begins, minlength=count) - np.bincount(ends, minlength=count)
        inside = np.cumsum(swaps.reshape(len(part), width + 1), axis=1)[:, :-1] > 0
        result[first : first + _ROWS_AT_ONCE][inside] = 255
    whole = Image.new("L", hard.size, 0)
    whole.paste(Image.fromarray(result), edges[:2])
    return whole
