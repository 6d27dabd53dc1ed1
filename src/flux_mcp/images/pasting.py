"""Pasting: what was drawn is put back into the image it was drawn from.

A worker draws at the plan's width and height, whatever the size of the image. Here that becomes the
finished image: pixels that the mask keeps are those of the image, bit for bit. The server saves it;
a worker needs it where it is to be upscaled.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from flux_mcp.errors import InternalError, StorageError
from flux_mcp.requests.geometry import Rectangle
from flux_mcp.requests.render_plan import PlanInput, RenderPlan

Finish = Callable[[bytes], Image.Image]
"""From the pixels a worker drew (RGB, 8 bits, row by row) to the finished image, in RGB. It may be
the same object each time, so it is to be saved before the next call."""
FindInput = Callable[[PlanInput], Path | BinaryIO]
"""Returns the PNG of an input."""


def in_folder(uploads_dir: Path) -> FindInput:
    """Return how inputs are found in the uploads folder."""
    return lambda item: uploads_dir / f"{item.sha256}.png"


def finisher(plan: RenderPlan, find: FindInput) -> Finish:
    """Return what makes the finished images of a plan from what is drawn for it.

    Args:
        plan: What is drawn.
        find: Returns its inputs.

    Raises:
        StorageError: an input is no longer there, or cannot be read.
    """
    size = (plan.width, plan.height)

    def as_drawn(pixels: bytes) -> Image.Image:
        if len(pixels) != 3 * plan.width * plan.height:
            raise InternalError(f"{len(pixels)} bytes are no RGB of {plan.width}x{plan.height}.")
        return Image.frombytes("RGB", size, pixels)

    if plan.region is None and plan.kind != "fill":
        return as_drawn
    image = _open(plan.inputs[0], find)
    mask = next((_open(one, find) for one in plan.inputs if one.role == "mask"), None)
    region = plan.region
    if region is None:
        # Stored before there were regions: the whole image was cut to the plan's size.
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        mask = mask and ImageOps.fit(mask, size, Image.Resampling.BILINEAR)
        region = Rectangle(0, 0, *size)
    canvas = Canvas(image, mask, region)
    return lambda pixels: canvas.paste(as_drawn(pixels))


class Canvas:
    """An image and the part of it that is drawn again, held once however often that is.

    Args:
        image: RGB; belongs to the canvas from now on.
        mask: L, of the same size: 255 takes what was drawn, 0 keeps the image, values between
            blend. `None` takes all that was drawn.
        region: The part.
    """

    def __init__(self, image: Image.Image, mask: Image.Image | None, region: Rectangle) -> None:
        self._image = image
        self._region = region
        self._before = image.crop(region.edges)
        self._mask = None if mask is None else mask.crop(region.edges)

    def paste(self, drawn: Image.Image) -> Image.Image:
        """Return the image with what was drawn in its place; the next call changes it again.

        Args:
            drawn: The region in RGB, in any size: it is scaled to the region's.
        """
        size = (self._region.width, self._region.height)
        if drawn.size != size:
            drawn = drawn.resize(size, Image.Resampling.LANCZOS)
        if self._mask is not None:
            drawn = Image.composite(drawn, self._before, self._mask)
        self._image.paste(drawn, (self._region.x, self._region.y))
        return self._image


def _open(item: PlanInput, find: FindInput) -> Image.Image:
    try:
        with Image.open(find(item), formats=("PNG",)) as image:
            image.load()
            mode = "L" if item.role == "mask" else "RGB"
            return image if image.mode == mode else image.convert(mode)
    except (OSError, ValueError, SyntaxError) as error:
        raise StorageError(
            f"The {item.role} image to paste into cannot be read: {error}.",
            "Submit the request again.",
        ) from error
