"""Image sizes: aspect ratios, legal multiples, limits of pixels. A size is refused, not rounded.

And regions: which part of a large image is drawn at which size, to be pasted back.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flux_mcp.errors import InvalidSizeError
from flux_mcp.models.registry import ModelSpec
from flux_mcp.settings.settings import EditFit

AspectRatio = Literal[
    "1:1", "5:4", "4:5", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16", "21:9", "9:21"
]


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        """`1024x768`."""
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True)
class Rectangle:
    """A part of an image, in pixels from its top left corner."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        """`1024x768 at (400, 300)`."""
        return f"{self.size} at ({self.x}, {self.y})"

    @property
    def size(self) -> Size:
        """Width and height."""
        return Size(self.width, self.height)

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, as Pillow takes a box: the last two lie just outside."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def holds(self, other: "Rectangle") -> bool:
        """Whether all of the other lies inside."""
        left, top, right, bottom = self.edges
        x, y, end_x, end_y = other.edges
        return left <= x and top <= y and end_x <= right and end_y <= bottom


def tile_starts(side_px: int, tile_px: int, overlap_px: int) -> tuple[int, ...]:
    """Return where along a side tiles begin that overlap; the last may be shorter."""
    return tuple(range(0, max(1, side_px - overlap_px), tile_px - overlap_px))


def tiles_of(size: Size, tile_px: int, overlap_px: int) -> tuple[Rectangle, ...]:
    """Return the tiles of an image, row by row; a small image is one.

    Args:
        size: Of the image.
        tile_px: Side of a tile.
        overlap_px: How far one reaches into the next.
    """
    return tuple(
        Rectangle(x, y, min(tile_px, size.width - x), min(tile_px, size.height - y))
        for y in tile_starts(size.height, tile_px, overlap_px)
        for x in tile_starts(size.width, tile_px, overlap_px)
    )


def check_size(size: Size, spec: ModelSpec) -> None:
    """Refuse a size the model cannot draw.

    Raises:
        InvalidSizeError: the hint names the nearest legal size.
    """
    problem = _problem(size, spec)
    if problem is not None:
        nearest = nearest_legal(size, spec)
        raise InvalidSizeError(
            f"{size} cannot be drawn by {spec.id}: {problem}.", f"Ask for {nearest}."
        )


def _problem(size: Size, spec: ModelSpec) -> str | None:
    multiple = spec.size_multiple
    if size.width % multiple or size.height % multiple:
        return f"width and height must be multiples of {multiple}"
    if min(size.width, size.height) < spec.min_side_px:
        return f"the shorter side must be at least {spec.min_side_px} px"
    if max(size.width, size.height) > spec.max_side_px:
        return f"the longer side may be at most {spec.max_side_px} px"
    if size.pixels > spec.max_pixels:
        return f"it has {size.pixels:,} pixels and may have at most {spec.max_pixels:,}"
    return None


def nearest_legal(size: Size, spec: ModelSpec) -> Size:
    """Return the legal size nearest to `size`, with its shape kept as far as the limits allow."""
    # Callers may send any whole number; beyond this one the answer no longer changes.
    most = 1000 * spec.max_side_px
    width, height = (min(most, max(1, side)) for side in (size.width, size.height))
    shrink = min(
        1.0, math.sqrt(spec.max_pixels / (width * height)), spec.max_side_px / max(width, height)
    )
    legal = Size(_legal_side(width * shrink, spec), _legal_side(height * shrink, spec))
    while legal.pixels > spec.max_pixels:
        # Rounding up, or a side at its minimum, exceeded the limit: shorten the longer side.
        if legal.width >= legal.height:
            legal = Size(legal.width - spec.size_multiple, legal.height)
        else:
            legal = Size(legal.width, legal.height - spec.size_multiple)
    return legal


def _legal_side(side: float, spec: ModelSpec) -> int:
    multiple = spec.size_multiple
    low = math.ceil(spec.min_side_px / multiple)
    high = spec.max_side_px // multiple
    return min(high, max(low, round(side / multiple))) * multiple


def size_for_ratio(ratio: AspectRatio, spec: ModelSpec) -> Size:
    """Return the legal size of this aspect ratio with about `spec.default_pixels` pixels."""
    across, down = (int(part) for part in ratio.split(":"))
    height = math.sqrt(spec.default_pixels * down / across)
    return nearest_legal(Size(round(height * across / down), round(height)), spec)


def size_for_image(image: Size, spec: ModelSpec) -> Size:
    """Return the size to draw at when the caller gave an image and no size.

    The image's own size where that is legal, else the nearest legal one of its shape with about
    `spec.default_pixels` pixels.
    """
    if _problem(image, spec) is None and image.pixels <= spec.default_pixels:
        return image
    shrink = min(1.0, math.sqrt(spec.default_pixels / image.pixels))
    return nearest_legal(Size(round(image.width * shrink), round(image.height * shrink)), spec)


# --- regions -------------------------------------------------------------------------------------

CONTEXT_FACTOR = 1.2
"""Sides of the least that a model sees of a mask's surroundings, against those of the mask's box.
The default of ComfyUI-Inpaint-CropAndStitch (`context_from_mask_extend_factor`). A mask that is
small against what the model draws gets much more."""
MAX_STRETCH = 1.3
"""Most that a region may be scaled more along one side than along the other. Sides of a multiple of
16 need up to 1.2 where they are shortest (72 px drawn at 80, beside 88 px drawn at 80); what needs
more is too narrow to be drawn."""


RESAMPLING_COST: Mapping[EditFit, float] = {"pad": 0.15, "crop": 0.06}
"""Share of an image's pixels that may be added, or left out, for drawing the rest pixel for pixel.
Edits by micro keep more where up to 14 % was added than where the image was scaled twice
(docs/decisions/0034). What is left out is seen: 0.06 allows 15 px of a side of 512 px."""


@dataclass(frozen=True)
class DrawnRegion:
    """A part of an image, and the size it is drawn at before it is pasted back."""

    region: Rectangle
    size: Size

    @property
    def stretch(self) -> float:
        """How much more one side is scaled than the other; 1 for a shape that is kept."""
        across, down = self._scales
        return max(across / down, down / across)

    @property
    def scale(self) -> float:
        """Drawn pixels for each pixel of the image, along a side; below 1 detail is lost."""
        across, down = self._scales
        return math.sqrt(across * down)

    @property
    def _scales(self) -> tuple[float, float]:
        return self.size.width / self.region.width, self.size.height / self.region.height


def choose_region(image: Size, box: Rectangle, spec: ModelSpec) -> DrawnRegion:
    """Return the part of an image to draw, so that what `box` holds can be drawn again.

    It holds the box with some of what lies around it, and has about as many pixels as the model
    likes best (`spec.default_pixels`, never more). Where the box allows it the part is drawn at the
    image's own scale, with as much around the box as fits. Else it is scaled down; scaled up only
    if the image has a side that is shorter than any the model can draw.

    Args:
        image: Size of the whole image.
        box: Where it will change; inside the image.
        spec: The row that draws.

    Raises:
        InvalidSizeError: the part is too narrow to be drawn with its shape kept.
    """
    wanted = _with_context(image, box)
    size = _unscaled_size(image, box.size, wanted.size, spec)
    if size is not None:
        return DrawnRegion(_around(box, wanted, size, image), size)
    scale = _scale_to_draw(image, wanted.size, spec)
    return _not_narrow(_scaled_region(image, wanted, spec, scale), wanted.size, spec)


def _not_narrow(drawn: DrawnRegion, wanted: Size, spec: ModelSpec) -> DrawnRegion:
    if drawn.stretch > MAX_STRETCH:
        raise _too_narrow(wanted, spec)
    return drawn


def _too_narrow(size: Size, spec: ModelSpec) -> InvalidSizeError:
    return InvalidSizeError(
        f"{spec.id} cannot draw {size} of the image: it is too narrow.",
        f"Its sides are {spec.min_side_px} to {spec.max_side_px} px. Cut the image into "
        "shorter pieces, or mask a smaller part.",
    )


def whole_region(image: Size, spec: ModelSpec) -> DrawnRegion:
    """Return the size to draw a whole image at.

    Raises:
        InvalidSizeError: it is too narrow.
    """
    return choose_region(image, Rectangle(0, 0, image.width, image.height), spec)


def fitted_region(image: Size, spec: ModelSpec, fit: EditFit) -> DrawnRegion:
    """Return how a whole image is edited, whatever its size, with its shape kept.

    Where it is not scaled it is drawn pixel for pixel. One that is smaller than the family draws
    well is enlarged (`edit_least_pixels`).

    Args:
        image: Size of the image.
        spec: The row that draws.
        fit: `pad` returns a region that reaches beyond the image, or is the image; `crop` one that
            lies in it; `scale` the image itself, stretched a little when it is drawn.

    Raises:
        InvalidSizeError: it is too narrow.
    """
    is_small = image.pixels < spec.family_spec.edit_least_pixels
    if fit == "scale" and not is_small:
        return whole_region(image, spec)
    scale = _scale_to_draw(image, image, spec)
    if is_small:
        enlarged = math.sqrt(spec.default_pixels / image.pixels)
        scale = min(enlarged, spec.max_side_px / max(image.width, image.height))
    if fit == "scale":
        whole = Rectangle(0, 0, image.width, image.height)
        return _not_narrow(_scaled_region(image, whole, spec, scale), image, spec)
    unscaled = (scale,) if scale == 1 else ()
    drawn = min(
        (_centred(image, size, unscaled, fit) for size in _sizes_near(image, scale, spec)),
        key=lambda one: (
            round(_change(one.region.size, image), 3)
            + (0 if one.size == one.region.size else RESAMPLING_COST[fit]),
            -one.size.pixels,
        ),
    )
    if _change(drawn.region.size, image) > MAX_STRETCH:
        raise _too_narrow(image, spec)
    return drawn


def _centred(image: Size, size: Size, unscaled: tuple[float, ...], fit: EditFit) -> DrawnRegion:
    """Return the region with the image's middle in its middle that is drawn at a size.

    Where `unscaled` is 1, at no other scale if that is possible.
    """
    scales = (size.width / image.width, size.height / image.height, *unscaled)
    scale, limit = (min(scales), max) if fit == "pad" else (max(scales), min)
    width = limit(image.width, round(size.width / scale))
    height = limit(image.height, round(size.height / scale))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return DrawnRegion(Rectangle(left, top, width, height), size)


def _change(size: Size, image: Size) -> float:
    """Return how many times as many pixels one of two sizes has, at least 1."""
    return max(size.pixels / image.pixels, image.pixels / size.pixels)


def _with_context(image: Size, box: Rectangle) -> Rectangle:
    across, down = (math.ceil(side * (CONTEXT_FACTOR - 1) / 2) for side in (box.width, box.height))
    left, top, right, bottom = box.edges
    left, top = max(0, left - across), max(0, top - down)
    right, bottom = min(image.width, right + across), min(image.height, bottom + down)
    return Rectangle(left, top, right - left, bottom - top)


def _around(box: Rectangle, wanted: Rectangle, size: Size, image: Size) -> Rectangle:
    """Return a rectangle of this size with `wanted` in its middle; it holds the box.

    It lies in the image, and its sides are not shorter than those of the box.
    """
    x, y = (
        min(max(0, end - side, start + (least - side) // 2), begin, whole - side)
        for begin, end, start, least, side, whole in (
            (box.x, box.x + box.width, wanted.x, wanted.width, size.width, image.width),
            (box.y, box.y + box.height, wanted.y, wanted.height, size.height, image.height),
        )
    )
    return Rectangle(x, y, size.width, size.height)


def _unscaled_size(image: Size, box: Size, wanted: Size, spec: ModelSpec) -> Size | None:
    """Return the size of a region that is drawn pixel for pixel; `None` where there is none.

    The context gives way where the image's sides are no multiples, never the box.
    """
    multiple = spec.size_multiple
    lowest = math.ceil(spec.min_side_px / multiple) * multiple
    highest = [
        min(side, spec.max_side_px) // multiple * multiple for side in (image.width, image.height)
    ]
    sides = [
        min(most, max(lowest, math.ceil(side / multiple) * multiple))
        for side, most in zip((wanted.width, wanted.height), highest, strict=True)
    ]
    size = Size(*sides)
    is_legal = min(highest) >= lowest and size.pixels <= spec.default_pixels
    if not is_legal or size.width < box.width or size.height < box.height:
        return None
    # As much around it as the model likes best, in a shape near a square.
    for side in range(multiple, max(highest) + 1, multiple):
        wider = Size(*(min(most, max(now, side)) for now, most in zip(sides, highest, strict=True)))
        if wider.pixels > spec.default_pixels:
            break
        size = wider
    return size


def _scaled_region(image: Size, wanted: Rectangle, spec: ModelSpec, scale: float) -> DrawnRegion:
    sizes = _sizes_near(wanted.size, scale, spec)
    regions = [_extended(image, wanted, size, scale) for size in sizes]
    return min(regions, key=lambda one: (round(one.stretch, 2), -one.size.pixels))


def _scale_to_draw(image: Size, wanted: Size, spec: ModelSpec) -> float:
    """Return the scale to draw a part of an image at: 1, unless it is too small or too large."""
    return min(
        max(1.0, spec.min_side_px / min(image.width, image.height)),
        math.sqrt(spec.default_pixels / wanted.pixels),
        spec.max_side_px / max(wanted.width, wanted.height),
    )


def _sizes_near(wanted: Size, scale: float, spec: ModelSpec) -> list[Size]:
    """Return the legal sizes around a scaled one."""
    half = spec.size_multiple / 2
    sides = (
        {_legal_side(side * scale + step, spec) for step in (-half, 0, half)}
        for side in (wanted.width, wanted.height)
    )
    sizes = [Size(*both) for both in itertools.product(*sides)]
    # A side held at its minimum may leave none within the pixels: then it is too narrow as well.
    return [size for size in sizes if size.pixels <= spec.default_pixels] or sizes


def _extended(image: Size, wanted: Rectangle, size: Size, scale: float) -> DrawnRegion:
    """Return what is drawn at a size: `wanted`, and more of the image until the shapes agree.

    Where the size is more than the scale needs there is room for more, too.
    """
    scale = min(size.width / wanted.width, size.height / wanted.height, scale)
    extended = Size(
        *(
            min(whole, max(least, round(side / scale)))
            for whole, least, side in (
                (image.width, wanted.width, size.width),
                (image.height, wanted.height, size.height),
            )
        )
    )
    return DrawnRegion(_around(wanted, wanted, extended, image), size)


# --- other images --------------------------------------------------------------------------------

REFERENCE_MULTIPLE_PX = 16
"""VAE factor 8 times packing 2: what pipelines cut a reference's sides to (diffusers 0.42.1)."""


def reference_size(image: Size, max_pixels: int) -> Size:
    """Return the size a reference is encoded at.

    Its shape in multiples of 16, within `max_pixels`. Never enlarged beyond the rounding: a small
    reference has no more to tell than its pixels.
    """
    shrink = min(1.0, math.sqrt(max_pixels / image.pixels))
    multiple = REFERENCE_MULTIPLE_PX
    sides = [max(1, round(side * shrink / multiple)) for side in (image.width, image.height)]
    while sides[0] * sides[1] * multiple**2 > max_pixels and max(sides) > 1:
        sides[sides.index(max(sides))] -= 1
    return Size(sides[0] * multiple, sides[1] * multiple)


def joined_sizes(images: Sequence[Size]) -> list[Size]:
    """Return the size of each of several images that are joined side by side.

    All are as high as the first. ComfyUI's ImageStitch joins them so (`match_image_size`).
    """
    height = images[0].height
    return [Size(max(1, round(one.width * height / one.height)), height) for one in images]


def cut_to_shape(image: Size, shape: Size) -> Size:
    """Return what is left of an image whose middle is cut out in another shape.

    What `PIL.ImageOps.fit` keeps before it scales, to the nearest pixel.
    """
    if image.width * shape.height > shape.width * image.height:
        return Size(round(image.height * shape.width / shape.height), image.height)
    return Size(image.width, round(image.width * shape.height / shape.width))
