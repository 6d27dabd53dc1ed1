"""Which image files are read, one row for each format; with Pillow's names.

HEIC needs the extra package pillow-heif, which is imported when such a file comes.
"""

from dataclasses import dataclass
from importlib.util import find_spec

HEIF = "HEIF"
_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
"""Of a HEIF file, in its first box (ISO/IEC 23008-12, annex B; `mif1` is that of AVIF as well)."""
INSTALL_HEIF = "Install pillow-heif beside flux-mcp to read HEIC ('pip install pillow-heif')"


@dataclass(frozen=True)
class ImageFormat:
    """A format that is read."""

    name: str
    """In texts for people."""
    media_types: tuple[str, ...]
    bytes_per_pixel: int
    """At most while it is decoded, what comes out included: Pillow keeps RGB, RGBA and CMYK in four
    bytes, twice where an image is turned or its mode changes, and a PNG of noise takes three more,
    and grows by copying. The codecs of WebP and HEIC keep an image of their own (measured;
    tests/images/test_images.py)."""
    several: str | None = None
    """What is said of a file with more than one image, of which the first is taken; `None` where
    that is no news, or cannot be."""


_ANIMATED = "An animated image: its first frame was taken."
FORMATS = {
    "PNG": ImageFormat("PNG", ("image/png", "image/apng"), 13, _ANIMATED),
    # A camera's JPEG (MPO) with previews behind the image itself is no animation.
    "JPEG": ImageFormat("JPEG", ("image/jpeg", "image/jpg"), 13),
    "WEBP": ImageFormat("WebP", ("image/webp",), 18, _ANIMATED),
    "GIF": ImageFormat("GIF", ("image/gif",), 13, _ANIMATED),
    "TIFF": ImageFormat(
        "TIFF", ("image/tiff",), 13, "A TIFF with several pages: the first was taken."
    ),
    "BMP": ImageFormat("BMP", ("image/bmp", "image/x-ms-bmp"), 13),
    "AVIF": ImageFormat("AVIF", ("image/avif", "image/avif-sequence"), 13, _ANIMATED),
    HEIF: ImageFormat(
        "HEIC",
        ("image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence"),
        17,
        "A HEIC file with several images: the primary one was taken.",
    ),
}
MEDIA_TYPES = tuple(media_type for row in FORMATS.values() for media_type in row.media_types)
SUFFIXES = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".avifs": "AVIF",
    ".heic": HEIF,
    ".heif": HEIF,
    ".hif": HEIF,
}
"""How files of these formats end, in lower case."""
SUPPORTED = "Use a PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF or HEIC file."


def suffixes() -> frozenset[str]:
    """Return how files of the formats that can be read here end, in lower case, with the dot."""
    return frozenset(suffix for suffix, name in SUFFIXES.items() if name != HEIF or reads_heif())


def reads_heif() -> bool:
    """Whether the package that reads HEIC is installed."""
    return find_spec("pillow_heif") is not None


def is_heif(data: bytes) -> bool:
    """Whether a file is HEIC by its first bytes; those of AVIF, which Pillow reads, are not."""
    if data[4:8] != b"ftyp" or data[8:12] not in _BRANDS:
        return False
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    return not {data[at : at + 4] for at in range(16, end - 3, 4)} & {b"avif", b"avis"}


def pillow_formats(data: bytes) -> tuple[str, ...]:
    """Return Pillow's names of the formats to try for a file, having told it of HEIC if need be."""
    if is_heif(data):
        if not reads_heif():
            return ()
        import pillow_heif  # noqa: PLC0415 - few images are HEIC

        # Thumbnails and depth maps inside are not read; nothing else of Pillow changes.
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
        return (HEIF,)
    return tuple(name for name in FORMATS if name != HEIF)
