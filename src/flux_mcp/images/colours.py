"""Colours: from the profile that an image embeds to sRGB, which is what models know."""

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

if TYPE_CHECKING:
    from PIL import ImageCms

CONVERTED = "An image's colours were converted from its colour profile to sRGB."
UNUSABLE = "An image has a colour profile that cannot be used: its colours were taken as sRGB."
NOT_TOLD = (
    "An image says that its colours are not sRGB, but has no profile: they were taken as sRGB."
)
NO_PROFILE = "An image is CMYK without a colour profile: its colours are approximate."

_NO_DIFFERENCE = 2
"""Grey levels, of 255, by which a profile may be off sRGB and still be sRGB: each maker rounds the
standard's numbers in its own way."""
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode for each colour space of a profile; images have no others."""
_SRGB_GAMMA = 1 / 2.2
"""What a PNG in sRGB has as gAMA (w3.org/TR/png, 11.3.2.2)."""
_EXIF_IFD, _COLOUR_SPACE, _UNCALIBRATED = 0x8769, 0xA001, 0xFFFF
"""Where a camera says that its colours are not sRGB, as for Adobe RGB (Exif 3.0, 4.6.6.2)."""


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Return an image in sRGB, and what is to be said about that.

    Args:
        image: L, LA, RGB, RGBA or CMYK, 8 bits; it may be changed in place.
        profile: The ICC profile it embeds; empty for one that was broken, `None` for none.

    Returns:
        An image in any of these modes but CMYK, and a notice where its colours were changed or
        guessed.
    """
    if profile is None:
        if image.mode == "CMYK":
            return image.convert("RGB"), NO_PROFILE
        return image, NOT_TOLD if _says_it_is_another(image) else None
    from PIL import ImageCms  # noqa: PLC0415 - few images have a profile

    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = embedded.profile.xcolor_space.strip()
        fitting = _fitting(image, space)
        if fitting is None:
            return _unusable(image)
        if _is_srgb(embedded, _MODES[space]):
            return fitting, None
        return _converted(fitting, embedded), CONVERTED
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _unusable(image)


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Return an image in CIELAB (a TIFF's), whose numbers are colours by themselves, in sRGB."""
    from PIL import ImageCms  # noqa: PLC0415 - few images are in CIELAB

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    image.info.pop("icc_profile", None)
    return transform.apply(image)


def _says_it_is_another(image: Image.Image) -> bool:
    gamma = image.info.get("gamma")
    if gamma is not None and "srgb" not in image.info:
        return bool(abs(gamma - _SRGB_GAMMA) > 0.02)  # noqa: PLR2004 - 1/2.2 to 1/2.3
    return bool(image.getexif().get_ifd(_EXIF_IFD).get(_COLOUR_SPACE) == _UNCALIBRATED)


def _unusable(image: Image.Image) -> tuple[Image.Image, str]:
    return (image.convert("RGB") if image.mode == "CMYK" else image), UNUSABLE


def _fitting(image: Image.Image, space: str) -> Image.Image | None:
    """Return the image in a mode that the profile is of; `None` where it is of another kind.

    Grey images often carry the profile of the colours they were made from.
    """
    is_grey, is_cmyk = image.mode in ("L", "LA"), image.mode == "CMYK"
    match space:
        case "RGB" if is_grey:
            return image.convert("RGBA" if image.mode == "LA" else "RGB")
        case "RGB" if not is_cmyk:
            return image
        case "GRAY" if is_grey:
            return image
        case "CMYK" if is_cmyk:
            return image
        case _:
            return None


def _converted(image: Image.Image, profile: "ImageCms.ImageCmsProfile") -> Image.Image:
    if image.mode == "LA":
        grey, alpha = image.split()
        colours = _applied(grey, profile)
        colours.putalpha(alpha)
        return colours
    return _applied(image, profile)


def _applied(image: Image.Image, profile: "ImageCms.ImageCmsProfile") -> Image.Image:
    from PIL import ImageCms  # noqa: PLC0415 - few images have a profile

    target = image.mode if image.mode in ("RGB", "RGBA") else "RGB"
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, target)
    if target != image.mode:
        return transform.apply(image)
    return transform.apply_in_place(image)


def _is_srgb(profile: "ImageCms.ImageCmsProfile", mode: str) -> bool:
    """Whether converting from a profile changes nothing that can be seen."""
    if mode == "CMYK":
        return False
    before = _samples().convert(mode)
    after = _applied(before.copy(), profile)
    extremes = ImageChops.difference(before.convert("RGB"), after).getextrema()
    return all(band[1] <= _NO_DIFFERENCE for band in extremes if isinstance(band, tuple))


def _samples() -> Image.Image:
    """Return 512 colours: every combination of eight levels."""
    levels = [round(255 * n / 7) for n in range(8)]
    colours = bytes(part for r in levels for g in levels for b in levels for part in (r, g, b))
    return Image.frombytes("RGB", (32, 16), colours)
