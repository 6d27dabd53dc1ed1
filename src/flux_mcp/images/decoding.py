"""Images that come in: decoded, checked, encoded again as plain PNGs, stored by their hash.

Which formats are read and which limits hold is decided here. What comes out is a PNG without
metadata, named by its SHA-256.
"""

import hashlib
import io
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from flux_mcp.errors import PILLOW_ERRORS, InvalidImageError, StorageError
from flux_mcp.images.budget import DecodeBudget
from flux_mcp.images.changes import told_colour, told_rounding, told_transparency, told_turning
from flux_mcp.images.colours import lab_to_srgb, to_srgb
from flux_mcp.images.formats import FORMATS, INSTALL_HEIF, SUPPORTED, pillow_formats
from flux_mcp.requests.geometry import Size

MIN_SIDE_PX = 8
BYTES_PER_PIXEL = FORMATS["PNG"].bytes_per_pixel
"""At most while an `InputImage` is worked on."""


@dataclass(frozen=True)
class InputImage:
    """A checked image as a PNG without metadata: RGB, L for a mask, RGBA where that is kept."""

    png: bytes = field(repr=False)
    sha256: str
    """Of `png`."""
    width: int
    height: int
    notices: tuple[str, ...] = ()
    """What was changed or guessed when it was decoded."""


def load_image(
    data: bytes,
    *,
    max_bytes: int,
    max_pixels: int,
    mode: Literal["RGB", "L", "RGBA"],
    budget: DecodeBudget | None = None,
) -> InputImage:
    """Decode an image file (formats.py) wholly and encode it again as a plain PNG.

    Orientation from EXIF is applied; transparency is composited onto white (RGB) or refused (L,
    where it could mean either); 16 bits become 8; colours are converted to sRGB from the profile
    that is embedded, but not in L, where a level is a number and no colour; all other metadata are
    dropped. Of an animation the first frame counts, which is said, and of a camera's multi-picture
    JPEG the first image. The same bytes give the same PNG on one build of Pillow.

    Args:
        data: The file.
        max_bytes: Of the file.
        max_pixels: Of the image. Both limits are checked before anything is decoded.
        mode: What the PNG holds: RGB, or L for a mask. RGBA keeps transparency for later uses to
            decide about, and is RGB for an image that has none.
        budget: Waits here until there is memory for it; left out, it does not wait.

    Raises:
        InvalidImageError: another type, truncated, smaller than 8x8, over a limit, or of numbers
            none of which is known to be white.
    """
    size_bytes = _bytes_needed(data, max_bytes, max_pixels)
    with nullcontext() if budget is None else budget.taken(size_bytes):
        return _decoded(data, max_pixels, mode)


def _decoded(data: bytes, max_pixels: int, mode: Literal["RGB", "L", "RGBA"]) -> InputImage:
    with _refused(max_pixels), _open(data) as opened:
        image, notices, profile = _eight_bits_of(opened)
        if mode == "L":
            return encode_image(_as_grey(image), notices=notices + told_colour(image))
        image, notice = to_srgb(image, profile)
        transparency = told_transparency(image)
        keeps = mode == "RGBA" and bool(transparency)
        notices += (() if keeps else transparency) + (() if notice is None else (notice,))
        return encode_image(image.convert("RGBA") if keeps else _as_rgb(image), notices=notices)


def load_cutout(
    data: bytes, *, max_bytes: int, max_pixels: int, budget: DecodeBudget | None = None
) -> tuple[InputImage, InputImage]:
    """Decode an image whose transparency is its mask, as `load_image` does.

    Returns:
        The image in RGB: its own colours, in white what is wholly transparent. And the mask: 255
        where it is wholly transparent, 0 where it is not at all.

    Raises:
        InvalidImageError: as `load_image`, or no part of it is transparent.
    """
    size_bytes = _bytes_needed(data, max_bytes, max_pixels)
    with nullcontext() if budget is None else budget.taken(size_bytes):
        return _cut_out(data, max_pixels)


def _cut_out(data: bytes, max_pixels: int) -> tuple[InputImage, InputImage]:
    with _refused(max_pixels), _open(data) as opened:
        image, notices, profile = _eight_bits_of(opened)
        image, notice = to_srgb(image, profile)
        notices += () if notice is None else (notice,)
        alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
        if alpha is None or alpha.getextrema() == (255, 255):
            raise InvalidImageError(
                "The image has no transparent parts to be its mask.",
                "Give a box, a polygon, or an image as mask.",
            )
        colours = image.convert("RGB")
        colours.paste("white", mask=alpha.point(lambda value: 0 if value else 255))
        return encode_image(colours, notices=notices), encode_image(ImageOps.invert(alpha))


def _bytes_needed(data: bytes, max_bytes: int, max_pixels: int) -> int:
    """Return how much memory decoding a file takes, from its header.

    A function of its own: what it has read is gone before the image is decoded.

    Raises:
        InvalidImageError: the file is over a limit, or Pillow cannot read it.
    """
    check_bytes(len(data), max_bytes)
    with _refused(max_pixels), _open(data) as header:
        _check_header(header, max_pixels)
        # Pillow calls a camera's JPEG with previews MPO.
        row = FORMATS.get(header.format or "", FORMATS["JPEG"])
        return row.bytes_per_pixel * header.width * header.height


def _open(data: bytes) -> ImageFile:
    """Open a file by its header.

    Raises:
        InvalidImageError: it is HEIC, which is not read here.
        Exception: whatever Pillow raises.
    """
    formats = pillow_formats(data)
    if not formats:
        raise InvalidImageError(
            "The image is HEIC, which this installation does not read.",
            f"{INSTALL_HEIF}, or save the image as JPEG.",
        )
    return Image.open(io.BytesIO(data), formats=formats)


def _eight_bits_of(opened: Image.Image) -> tuple[Image.Image, tuple[str, ...], bytes | None]:
    """Load an image: turned, in 8 bits, with what is said about that and its colour profile."""
    stored = _stored_mode(opened)
    # Before it is loaded: Pillow turns a TIFF then, and a HEIC where its header is read.
    orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    opened.load()
    several = FORMATS[opened.format].several if opened.format in FORMATS else None
    notices = told_rounding(opened.size, stored)
    if several is not None and getattr(opened, "is_animated", False):
        notices += (several,)
    # In place, here and below: a copy of the largest image takes 200 MB.
    ImageOps.exif_transpose(opened, in_place=True)
    notices += told_turning(opened.size, orientation)
    image = _eight_bits(opened, stored)
    # Empty, not `None`, where Pillow found a profile that it could not unpack.
    profile = (opened.info["icc_profile"] or b"") if "icc_profile" in opened.info else None
    return image, notices, profile


@contextmanager
def _refused(max_pixels: int) -> Iterator[None]:
    """Turn what Pillow raises at a file into our error.

    Raises:
        InvalidImageError: Pillow cannot read it.
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(
            "The image has too many pixels to decode.",
            f"Scale it down to at most {max_pixels:,} first.",
        ) from error
    except UnidentifiedImageError as error:
        raise InvalidImageError("This is no image of a format that is read.", SUPPORTED) from error
    except PILLOW_ERRORS as error:
        raise InvalidImageError(
            f"The image cannot be decoded: {error}.", "Save it again, or send it whole."
        ) from error


def check_bytes(size: int, max_bytes: int) -> None:
    """Refuse a file that is too large.

    Raises:
        InvalidImageError: it has more than `max_bytes`.
    """
    if size > max_bytes:
        raise InvalidImageError(
            f"The image file is larger than {max_bytes:,} bytes.", "Send a smaller one."
        )


def encode_image(image: Image.Image, *, notices: tuple[str, ...] = ()) -> InputImage:
    """Return a decoded image as an `InputImage`, without whatever metadata it carries."""
    buffer = io.BytesIO()
    # Run-length coding costs a third of the default on photographs, is as small there, and is never
    # large on flat masks (benchmark: 1024x1024, 77 against 231 ms, 1.66 MB both). Of the metadata,
    # Pillow writes these two by itself.
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE, icc_profile=None, transparency=None)
    png = buffer.getvalue()
    return InputImage(png, hashlib.sha256(png).hexdigest(), image.width, image.height, notices)


def open_image(image: InputImage) -> Image.Image:
    """Return the pixels of an `InputImage`: RGB, or L for a mask."""
    return open_png(image.png)


def open_png(png: bytes) -> Image.Image:
    """Return the pixels of a PNG that `encode_image` made."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        opened.load()
        return opened


def png_size(png: bytes) -> Size:
    """Return the size of a PNG that `encode_image` made, from its header."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        return Size(*opened.size)


def _check_header(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise InvalidImageError(
            f"The image of {image.width}x{image.height} has more than {max_pixels:,} pixels.",
            "Scale it down first.",
        )
    if min(image.size) < MIN_SIDE_PX:
        raise InvalidImageError(
            f"The image of {image.width}x{image.height} is too small to use.",
            f"Each side needs at least {MIN_SIDE_PX} px.",
        )
    if image.mode in ("F", "I") and not _is_sixteen_bit(image):
        raise InvalidImageError(
            "The image has 32 bits or signed numbers a channel: which is white is not known.",
            "Save it with 8 or 16 bits a channel.",
        )


# --- modes -------------------------------------------------------------------------------------


def _as_rgb(image: Image.Image) -> Image.Image:
    match image.mode:
        case "RGB":
            return image
        case "LA":
            white = Image.new("L", image.size, "white")
            white.paste(image.getchannel("L"), mask=image.getchannel("A"))
            return white.convert("RGB")
        case "RGBA":
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image)
            return white
        case _:
            return image.convert("RGB")


def _as_grey(image: Image.Image) -> Image.Image:
    has_alpha = image.mode in ("LA", "RGBA")
    if has_alpha and image.getchannel("A").getextrema() != (255, 255):
        raise InvalidImageError(
            "The mask has transparent parts, which could mean either.",
            "Use white for what is generated again and black for what is kept.",
        )
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return image if image.mode == "L" else image.convert("L")


_LEVELS_APART = {"L;2": 255 // 3, "L;4": 255 // 15}
"""What Pillow multiplies grey levels of two and four bits by, but not the one that is transparent
(13.0, libImaging/Unpack.c and `PngStream.chunk_tRNS`)."""


def _stored_mode(image: Image.Image) -> str:
    """Return in which mode the pixels lie in the file, such as `RGB;16B`; before they are loaded.

    Raises:
        InvalidImageError: one of 16-bit colours is transparent: of 8 bits, it is many.
    """
    stored = _raw_mode(image)
    if image.format == "PNG" and "transparency" in image.info:
        if stored == "RGB;16B":
            raise InvalidImageError(
                "The image has 16 bits a channel and one transparent colour, which 8 bits cannot "
                "tell from others.",
                "Save it with an alpha channel, or with 8 bits a channel.",
            )
        if stored in _LEVELS_APART:
            image.info["transparency"] *= _LEVELS_APART[stored]
    return stored


def _raw_mode(image: Image.Image) -> str:
    """Return in which mode the pixels lie in a file that is not loaded yet; empty if unknown."""
    tiles = getattr(image, "tile", None)
    stored = tiles[0].args if tiles else ""
    if isinstance(stored, tuple) and stored:
        stored = stored[0]
    return stored if isinstance(stored, str) else ""


_SIXTEEN_BITS = {
    "I": 0xFFFF,
    "I;12": 0xFFF,
    "I;16": 0xFFFF,
    "I;16B": 0xFFFF,
    "I;16L": 0xFFFF,
    "I;16N": 0xFFFF,
    "I;16R": 0xFFFF,
    "I;16BR": 0xFFFF,
}
"""White in the grey modes of unsigned numbers of more than 8 bits, as they lie in a file; `I` is a
PNG's in older releases of Pillow."""


def _is_sixteen_bit(image: Image.Image) -> bool:
    stored = _raw_mode(image)
    return stored in _SIXTEEN_BITS and (stored != "I" or image.format == "PNG")


def _eight_bits(image: Image.Image, stored: str) -> Image.Image:
    """Return a loaded image as L, LA, RGB, RGBA or CMYK; transparency is in its alpha channel."""
    if image.mode.startswith("I"):
        return _from_sixteen_bit_grey(image, _SIXTEEN_BITS.get(stored, 0xFFFF))
    if image.mode in ("LA", "RGBA", "CMYK"):
        return image
    if image.mode == "LAB":
        return lab_to_srgb(image)
    if "transparency" in image.info or image.mode == "PA":
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_sixteen_bit_grey(image: Image.Image, white: int) -> Image.Image:
    # Pillow 13 clips at 255 when converting: nearly everything would turn white.
    wide = image.convert("I")
    levels = range(1 << 16)
    grey = wide.point([min(255, (level * 255 + white // 2) // white) for level in levels], "L")
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    # Compared with all 16 bits: of 8, a shade would be as transparent as its neighbours.
    alpha = wide.point([0 if level == transparent else 255 for level in levels], "L")
    del wide
    return Image.merge("LA", (grey, alpha))


# --- storing -----------------------------------------------------------------------------------


def store_image(uploads_dir: Path, image: InputImage) -> Path:
    """Return `uploads_dir/<sha256>.png`, written if it is not there yet, wholly or not at all.

    Raises:
        StorageError: the disk refused.
    """
    target = uploads_dir / f"{image.sha256}.png"
    part = uploads_dir / f".{image.sha256}.{secrets.token_hex(4)}.part"
    try:
        # The length guards against the empty file a power cut can leave behind a rename.
        if target.is_file() and target.stat().st_size == len(image.png):
            return target
        try:
            part.write_bytes(image.png)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"The image could not be stored: {error.strerror}.", "Free disk space or permissions."
        ) from error
    return target
