"""What reading an image changes about it, in words: nothing is changed without a notice."""

from PIL import Image, ImageChops

_TURNED = range(2, 9)
"""EXIF orientations that turn or mirror; 1 is upright, others mean nothing (Exif 3.0, 4.6.5.1)."""
_SWAPPED = range(5, 9)
"""Those that swap width and height."""
_GREY_IN_JPEG = 16
"""From here on channels differ by more than JPEG makes of grey, some levels of 255."""
_SIXTEEN_BITS = ("16B", "16L", "16N", "I;16", "I;12")
"""In Pillow's names of how pixels are stored."""


def told_turning(upright: tuple[int, int], orientation: object) -> tuple[str, ...]:
    """Return how an image was turned.

    Args:
        upright: Its size now.
        orientation: What its EXIF data said.
    """
    if orientation not in _TURNED:
        return ()
    width, height = upright
    stored = (height, width) if orientation in _SWAPPED else upright
    notice = (
        f"An image was turned as its EXIF data say, from {stored[0]}x{stored[1]} to "
        f"{width}x{height}; boxes and masks count in the upright image."
    )
    return (notice,)


def told_rounding(size: tuple[int, int], stored: str) -> tuple[str, ...]:
    """Return what is lost to 8 bits a channel.

    Args:
        size: Of the image.
        stored: How its pixels lie in the file, in Pillow's names, such as `RGB;16B`.
    """
    if any(name in stored for name in _SIXTEEN_BITS):
        many = f"An image of {_size(size)} has more than 8 bits a channel"
        return (f"{many}: they were rounded to 8.",)
    return ()


def told_transparency(image: Image.Image) -> tuple[str, ...]:
    """Return what becomes of transparent parts of an image of 8 bits that is to be RGB."""
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() != (255, 255):
        return (f"An image of {_size(image.size)} has transparent parts: they became white.",)
    return ()


def told_colour(mask: Image.Image) -> tuple[str, ...]:
    """Return what becomes of the colours of a mask of 8 bits."""
    if mask.mode in ("L", "LA"):
        return ()
    red, green, blue = mask.convert("RGB").split()
    apart = (ImageChops.difference(red, green), ImageChops.difference(green, blue))
    if not any(sum(one.histogram()[_GREY_IN_JPEG:]) for one in apart):
        return ()
    notice = (
        f"The mask of {_size(mask.size)} is in colour: only its brightness counts, and what is at "
        "least half as bright as white is generated again."
    )
    return (notice,)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
