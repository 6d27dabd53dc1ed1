"""Masks: from an image or a box to an L image, where 255 is generated again and 0 is kept."""

import io
from dataclasses import replace

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from flux_mcp.errors import InvalidImageError, InvalidRequestError
from flux_mcp.images.decoding import InputImage, encode_image
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.image_arguments import Box, whole_mask
from flux_mcp.requests.plan import GENERATED_FROM

SOFT_PART, MOST_SOFT_PX = 16, 32
"""The edge of a box is softened by this part of its shorter side, and by no more than this: an
image drawn into it differs from the rest along a straight line, which is seen."""


def mask_from_image(mask: InputImage, image_size: Size) -> InputImage:
    """Return an image that was loaded as L, as the mask of an image of `image_size`.

    Raises:
        InvalidImageError: it has another size than the image.
    """
    size = Size(mask.width, mask.height)
    if size != image_size:
        raise InvalidImageError(
            f"The mask is {size} and the image is {image_size}.",
            f"Send a mask of {image_size}, or a box: "
            f"{whole_mask(0, 0, image_size.width // 2, image_size.height // 2)}.",
        )
    return mask


def mask_from_box(box: Box, image_size: Size) -> InputImage:
    """Return a mask that generates the pixels of `box` and keeps the rest.

    Raises:
        InvalidRequestError: the box reaches outside the image.
    """
    right, bottom = box.x + box.width, box.y + box.height
    if right > image_size.width or bottom > image_size.height:
        raise InvalidRequestError(
            f"The box reaches to ({right}, {bottom}), outside the image.",
            f"The image is {image_size}; what of the box lies in it is {_inside(box, image_size)}.",
        )
    mask = Image.new("L", (image_size.width, image_size.height), 0)
    # Pillow's rectangle includes its lower right corner.
    ImageDraw.Draw(mask).rectangle((box.x, box.y, right - 1, bottom - 1), fill=255)
    return encode_image(mask)


def _inside(box: Box, image_size: Size) -> str:
    width = min(box.x + box.width, image_size.width) - box.x
    height = min(box.y + box.height, image_size.height) - box.y
    is_outside = width < 1 or height < 1
    return "nothing" if is_outside else whole_mask(box.x, box.y, width, height)


def default_feather_px(box: Box | None) -> int:
    """Return by how much the edge of a mask is softened where nothing is asked.

    A mask that was painted is taken as it was painted.
    """
    return 0 if box is None else min(MOST_SOFT_PX, min(box.width, box.height) // SOFT_PART)


def soft_edge_notice(feather_px: int) -> str:
    """Return what a caller who did not ask for it is told."""
    return (
        f"The edge of the box is softened by {feather_px} px on each side, so that no seam is "
        "seen; feather_px=0 keeps it sharp."
    )


def finish_mask(mask: InputImage, *, invert: bool, feather_px: int) -> InputImage:
    """Return the mask inverted and softened as asked.

    `feather_px` is how far from its edge, on each side, the mask may fade; beyond that it is as it
    was (a Gaussian of a third of it, which Pillow makes of three boxes and so ends there).

    Raises:
        InvalidRequestError: no pixel is left to generate.
    """
    image = _decode(mask)
    if invert:
        image = ImageOps.invert(image)
    if feather_px:
        image = image.filter(ImageFilter.GaussianBlur(feather_px / 3))
    brightest = image.getextrema()[1]
    if not isinstance(brightest, int | float) or brightest < GENERATED_FROM:
        raise InvalidRequestError(
            "The mask leaves nothing to generate: none of it is white.",
            "White is generated again and black is kept; invert swaps them, a smaller feather_px "
            "keeps small shapes.",
        )
    if not invert and not feather_px:
        return mask
    return replace(encode_image(image), notices=mask.notices)


def covered(mask: InputImage) -> Rectangle:
    """Return the part of a mask that is not 0: whatever else changes, all outside it stays.

    Raises:
        InvalidRequestError: all of it is 0.
    """
    box = _decode(mask).getbbox()
    if box is None:
        raise InvalidRequestError("The mask is black: it changes nothing.", "Paint in white.")
    left, top, right, bottom = box
    return Rectangle(left, top, right - left, bottom - top)


def _decode(mask: InputImage) -> Image.Image:
    with Image.open(io.BytesIO(mask.png), formats=("PNG",)) as image:
        image.load()
        return image.convert("L")
