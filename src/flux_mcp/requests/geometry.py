"""Image sizes: aspect ratios, legal multiples, limits of pixels. A size is refused, not rounded."""

import math
from dataclasses import dataclass
from typing import Literal

from flux_mcp.errors import InvalidSizeError
from flux_mcp.models.registry import ModelSpec

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
