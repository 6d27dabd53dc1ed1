"""Images that come in: decoded, checked, encoded again as plain PNGs, stored by their hash.

Which formats are read and which limits hold is decided here. What comes out is a PNG without
metadata, named by its SHA-256.
"""

import hashlib
import io
import secrets
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from flux_mcp.errors import InvalidImageError, StorageError

FORMATS = ("PNG", "JPEG", "WEBP")
MEDIA_TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp")
MIN_SIDE_PX = 8
SUPPORTED = "Use a PNG, JPEG or WebP file."

_PILLOW_COMPLAINTS = (
    # What Pillow's readers raise on hostile or broken bytes.
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class InputImage:
    """A checked image as a PNG without metadata: RGB, or L for a mask."""

    png: bytes = field(repr=False)
    sha256: str
    """Of `png`."""
    width: int
    height: int


def load_image(
    data: bytes, *, max_bytes: int, max_pixels: int, mode: Literal["RGB", "L"]
) -> InputImage:
    """Decode a PNG, JPEG or WebP wholly and encode it again as a plain PNG.

    Orientation from EXIF is applied; transparency is composited onto white (RGB) or refused (L,
    where it could mean either); 16 bits become 8; colour profiles and all other metadata are
    dropped. The first image of a camera's multi-picture JPEG counts. The same bytes give the same
    PNG on one build of Pillow.

    The limits are checked before anything is decoded, `max_pixels` against the header. `mode` is
    what the PNG holds: RGB, or L for a mask.

    Raises:
        InvalidImageError: another type, truncated, animated, smaller than 8x8, or over a limit.
    """
    check_bytes(len(data), max_bytes)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_header(opened, max_pixels)
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            image = _as_rgb(upright) if mode == "RGB" else _as_grey(upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(
            "The image has too many pixels to decode.",
            f"Scale it down to at most {max_pixels:,} first.",
        ) from error
    except UnidentifiedImageError as error:
        raise InvalidImageError("This is not a PNG, JPEG or WebP image.", SUPPORTED) from error
    except _PILLOW_COMPLAINTS as error:
        raise InvalidImageError(
            f"The image cannot be decoded: {error}.", "Save it again, or send it whole."
        ) from error
    return encode_image(image)


def check_bytes(size: int, max_bytes: int) -> None:
    """Refuse a file that is too large.

    Raises:
        InvalidImageError: it has more than `max_bytes`.
    """
    if size > max_bytes:
        raise InvalidImageError(
            f"The image file is larger than {max_bytes:,} bytes.", "Send a smaller one."
        )


def encode_image(image: Image.Image) -> InputImage:
    """Return a decoded image as an `InputImage`, without whatever metadata it carries."""
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    # Run-length coding costs a third of the default on photographs, is as small there, and is never
    # large on flat masks (benchmark: 1024x1024, 77 against 231 ms, 1.66 MB both).
    bare.save(buffer, "PNG", compress_type=zlib.Z_RLE)
    png = buffer.getvalue()
    return InputImage(png, hashlib.sha256(png).hexdigest(), bare.width, bare.height)


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
    # MPO is a camera's JPEG with previews behind the image itself, not an animation.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise InvalidImageError("The image is animated.", "Send one frame of it.")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return _eight_bits(image).convert("RGB")


def _as_grey(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            raise InvalidImageError(
                "The mask has transparent parts, which could mean either.",
                "Use white for what is generated again and black for what is kept.",
            )
        return layer.convert("RGB").convert("L")
    return _eight_bits(image).convert("L")


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow 13 clips 16-bit grey at 255 when converting: nearly everything would turn white.
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value * (1 / 256) + 0)
    return image


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
