"""Files as people have them, each checked pixel by pixel against what it shows."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from flux_mcp.errors import InvalidImageError
from flux_mcp.images import formats
from flux_mcp.images.decoding import load_image, open_image

Pixels = NDArray[np.uint8]

HEIGHT, WIDTH = 18, 26
LOSSY = 14
"""Levels by which a lossy codec may be off in a smooth image at its best quality."""


def smooth() -> Pixels:
    """(18, 26, 3): no two sides, corners or channels alike, without hard edges."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([40 + 7 * x, 30 + 10 * y, 200 - 3 * x - 4 * y], axis=2).astype(np.uint8)


def palette() -> Pixels:
    """(18, 26, 3): four colours in quarters of unequal size."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:7, :11], image[:7, 11:] = (220, 30, 30), (20, 180, 60)
    image[7:, :11], image[7:, 11:] = (30, 40, 210), (240, 230, 40)
    return image


def alpha() -> Pixels:
    """(18, 26): opaque left, half in the middle, transparent right."""
    image = np.full((HEIGHT, WIDTH), 255, np.uint8)
    image[:, 9:17], image[:, 17:] = 128, 0
    return image


def on_white(image: Pixels, opacity: Pixels) -> Pixels:
    share = opacity[:, :, None] / 255
    return np.rint(image * share + 255 * (1 - share)).astype(np.uint8)


def grey(image: Pixels) -> Pixels:
    return np.repeat(image[:, :, None], 3, axis=2)


SMOOTH, PALETTE, ALPHA = smooth(), palette(), alpha()
LEVELS = SMOOTH[:, :, 0].copy()
WIDE = (LEVELS.astype(np.uint16) * 257 + np.arange(WIDTH, dtype=np.uint16)).clip(0, 65535)
BITS = (np.indices((HEIGHT, WIDTH)).sum(axis=0) % 3 == 0) * np.uint8(255)


def more() -> list[Image.Image]:
    """Other images, new each time: Pillow's remember how they were encoded."""
    return [Image.fromarray(255 - PALETTE)]


# --- files by Pillow, and what Pillow does not write by hand --------------------------------------


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, name, **options)
    return buffer.getvalue()


def png(image: NDArray[Any], bits: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any depth (w3.org/TR/png)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = []
    for row in image.reshape(image.shape[0], -1):
        if bits == 16:
            packed = row.astype(">u2").tobytes()
        elif bits == 8:
            packed = row.astype(np.uint8).tobytes()
        else:
            spread = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
            packed = np.packbits(spread.reshape(-1)).tobytes()
        rows.append(b"\0" + packed)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], bits, colour_type, 0, 0, 0)
    middle = b"".join(chunk(*one) for one in chunks)
    data = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + data + chunk(b"IEND", b"")


def tiff(image: NDArray[Any], photometric: int, *, big: bool = False, **facts: int) -> bytes:
    """An uncompressed TIFF of one strip (TIFF 6.0); the array says type and channels."""
    order = ">" if big else "<"
    channels = 1 if image.ndim == 2 else image.shape[2]
    bits = facts.get("bits", image.dtype.itemsize * 8)
    if bits == 12:
        spread = (image[:, :, None] >> np.arange(11, -1, -1)) & 1
        data = np.packbits(spread.reshape(image.shape[0], -1).astype(np.uint8), axis=1).tobytes()
    else:
        data = image.astype(image.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, 4, image.shape[1]),
        (257, 4, image.shape[0]),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, channels),
        (278, 4, image.shape[0]),
        (279, 4, len(data)),
    ]
    if "sample_format" in facts:
        tags.append((339, 3, facts["sample_format"]))
    if "extra" in facts:
        tags.append((338, 3, facts["extra"]))
    at = 8 + len(data)
    extra = b""
    entries = b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, kind, value in sorted(tags):
        if tag == 258 and channels > 1:
            where = struct.pack(order + "I", behind + len(extra))
            extra += struct.pack(order + f"{channels}H", *[value] * channels)
            entries += struct.pack(order + "HHI", tag, 3, channels) + where
        else:
            short = kind == 3
            packed = struct.pack(
                order + ("HH" if short else "I"), *([value, 0] if short else [value])
            )
            entries += struct.pack(order + "HHI", tag, kind, 1) + packed
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", at)
    directory = struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    return head + data + directory + extra


def bmp(image: Pixels, masks: tuple[int, ...], bits: int) -> bytes:
    """A BMP with bit fields (learn.microsoft.com, BITMAPV3INFOHEADER)."""
    size = 40 if len(masks) == 3 else 56
    rows = b""
    for row in image[::-1]:
        numbers = np.zeros(row.shape[0], np.uint32)
        for channel, mask in zip(row.T, masks, strict=True):
            shift = (mask & -mask).bit_length() - 1
            width = mask.bit_count()
            numbers |= (channel.astype(np.uint32) >> (8 - width)) << np.uint32(shift)
        packed = numbers.astype("<u2" if bits == 16 else "<u4").tobytes()
        rows += packed + bytes(-len(packed) % 4)
    fields = struct.pack(f"<{len(masks)}I", *masks)
    offset = 14 + 40 + len(fields)
    info = struct.pack("<IiiHHIIiiII", size, image.shape[1], image.shape[0], 1, bits, 3, len(rows),
                       2835, 2835, 0, 0)  # fmt: skip
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + fields + rows


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
    8: np.rot90,
}
"""From the stored to the upright image, by the EXIF orientation (Exif 3.0, 4.6.5.1)."""


def heic(image: Image.Image, **options: Any) -> bytes:
    file = pillow_heif.from_pillow(image)
    for one in options.pop("append", ()):
        file.add_from_pillow(one)
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return buffer.getvalue()


def turned_heic(image: Image.Image, orientation: int) -> bytes:
    pillow_heif.register_heif_opener()
    return saved(image, "HEIF", quality=-1, chroma=444, exif=turned(orientation).tobytes())


def heic_in_ten_bits(image: Pixels) -> bytes:
    file = pillow_heif.from_bytes(
        mode="RGB;16", size=(WIDTH, HEIGHT), data=(image.astype(np.uint16) * 257).tobytes()
    )
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, chroma=444)
    return buffer.getvalue()


Case = tuple[str, bytes, Pixels, int, str]
"""Name, file, RGB as it is right, levels by which a channel may be off, and what is said."""
TURNED, ANIMATED, PAGES = "turned as its EXIF", "first frame was taken", "several pages"
SEE_THROUGH, WIDE_CHANNELS = "they became white", "rounded to 8"


RGB, QUARTERS = Image.fromarray(SMOOTH), Image.fromarray(PALETTE)
INDEXED = QUARTERS.quantize(4)
INDEX = INDEXED.getpixel((0, 0))
RGBA = np.dstack([SMOOTH, ALPHA])
TRANSPARENT = Image.fromarray(RGBA)
CLEAR = on_white(SMOOTH, ALPHA)
HIDDEN = PALETTE.copy()
HIDDEN[:7, :11] = 255
WIDE_RGB = SMOOTH.astype(np.uint16) * 257
WIDE_RGBA = np.dstack([WIDE_RGB, ALPHA.astype(np.uint16) * 257])
CMYK = Image.fromarray(np.dstack([255 - SMOOTH, np.zeros((HEIGHT, WIDTH), np.uint8)]), "CMYK")


def png_files() -> Iterator[Case]:
    yield "png rgb", png(SMOOTH, 8, 2), SMOOTH, 0, ""
    yield "png rgba", png(RGBA, 8, 6), CLEAR, 1, SEE_THROUGH
    yield "png grey", png(LEVELS, 8, 0), grey(LEVELS), 0, ""
    two = np.dstack([LEVELS, ALPHA])
    yield "png grey alpha", png(two, 8, 4), on_white(grey(LEVELS), ALPHA), 1, SEE_THROUGH
    for bits in (1, 2, 4):
        few = (LEVELS >> (8 - bits)).astype(np.uint8)
        spread = (few.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
        yield f"png grey of {bits} bits", png(few, bits, 0), grey(spread), 0, ""
    yield (
        "png grey of 16 bits",
        png(WIDE, 16, 0),
        grey(np.rint(WIDE / 257).astype(np.uint8)),
        0,
        (WIDE_CHANNELS),
    )
    yield "png rgb of 16 bits", png(WIDE_RGB, 16, 2), SMOOTH, 0, WIDE_CHANNELS
    yield "png rgba of 16 bits", png(WIDE_RGBA, 16, 6), CLEAR, 1, SEE_THROUGH
    yield "png palette", saved(INDEXED, "PNG"), PALETTE, 0, ""
    yield (
        "png palette with a hole",
        saved(INDEXED, "PNG", transparency=INDEX),
        HIDDEN,
        0,
        SEE_THROUGH,
    )
    keyed = png(PALETTE, 8, 2, (b"tRNS", struct.pack(">HHH", 220, 30, 30)))
    yield "png with a TRANSPARENT colour", keyed, HIDDEN, 0, SEE_THROUGH
    yield "png interlaced", adam7(SMOOTH), SMOOTH, 0, ""
    yield (
        "png animated",
        saved(QUARTERS, "PNG", save_all=True, append_images=more()),
        PALETTE,
        0,
        (ANIMATED),
    )
    for orientation in range(1, 9):
        said = TURNED if orientation > 1 else ""
        right = UPRIGHT[orientation](SMOOTH)
        exif = turned(orientation)
        yield (
            f"jpeg turned {orientation}",
            saved(RGB, "JPEG", quality=100, subsampling=0, exif=exif),
            (right),
            LOSSY,
            said,
        )
        yield f"tiff turned {orientation}", saved(RGB, "TIFF", exif=exif), right, 0, said
    yield "png turned", saved(RGB, "PNG", exif=turned(6)), UPRIGHT[6](SMOOTH), 0, TURNED
    yield (
        "webp turned",
        saved(RGB, "WEBP", lossless=True, exif=turned(8)),
        UPRIGHT[8](SMOOTH),
        0,
        TURNED,
    )
    for orientation in (3, 6, 7):
        data = saved(RGB, "AVIF", quality=100, subsampling="4:4:4", exif=turned(orientation))
        yield f"avif turned {orientation}", data, UPRIGHT[orientation](SMOOTH), LOSSY, TURNED


def jpeg_files() -> Iterator[Case]:
    yield "jpeg grey", saved(Image.fromarray(LEVELS), "JPEG", quality=100), grey(LEVELS), LOSSY, ""
    yield (
        "jpeg progressive",
        saved(RGB, "JPEG", quality=100, subsampling=0, progressive=True),
        (SMOOTH),
        LOSSY,
        "",
    )
    yield "jpeg cmyk", saved(CMYK, "JPEG", quality=100, subsampling=0), SMOOTH, LOSSY, "approximate"
    yield "jpeg of a camera", saved(RGB, "MPO", quality=100, subsampling=0, save_all=True,
                                    append_images=more()), SMOOTH, LOSSY, ""  # fmt: skip


def webp_files() -> Iterator[Case]:
    yield "webp lossless", saved(RGB, "WEBP", lossless=True), SMOOTH, 0, ""
    yield "webp lossy", saved(RGB, "WEBP", quality=100), SMOOTH, 3 * LOSSY, ""
    yield "webp alpha", saved(TRANSPARENT, "WEBP", lossless=True, exact=True), CLEAR, 1, SEE_THROUGH
    yield "webp animated", saved(QUARTERS, "WEBP", lossless=True, save_all=True,
                                 append_images=more()), PALETTE, 0, ANIMATED  # fmt: skip


def gif_files() -> Iterator[Case]:
    yield "gif", saved(INDEXED, "GIF"), PALETTE, 0, ""
    yield "gif with a hole", saved(INDEXED, "GIF", transparency=INDEX), HIDDEN, 0, SEE_THROUGH
    yield "gif grey", saved(Image.fromarray(LEVELS), "GIF"), grey(LEVELS), 0, ""
    yield "gif animated", saved(INDEXED, "GIF", save_all=True,
                                append_images=[one.quantize(4) for one in more()]), (
        PALETTE
    ), 0, ANIMATED  # fmt: skip
    yield "gif interlaced", saved(INDEXED, "GIF", interlace=1), PALETTE, 0, ""


def tiff_files() -> Iterator[Case]:
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"):
        yield f"tiff {compression}", saved(RGB, "TIFF", compression=compression), SMOOTH, 0, ""
    yield "tiff jpeg", saved(RGB, "TIFF", compression="jpeg", quality=100), SMOOTH, 3 * LOSSY, ""
    yield (
        "tiff group 4",
        saved(Image.fromarray(BITS).convert("1"), "TIFF", compression="group4"),
        (grey(BITS)),
        0,
        "",
    )
    yield "tiff rgba", saved(TRANSPARENT, "TIFF"), CLEAR, 1, SEE_THROUGH
    yield "tiff grey", tiff(LEVELS, 1), grey(LEVELS), 0, ""
    yield "tiff white is zero", tiff(LEVELS, 0), grey(255 - LEVELS), 0, ""
    yield "tiff palette", saved(INDEXED, "TIFF"), PALETTE, 0, ""
    yield "tiff cmyk", saved(CMYK, "TIFF"), SMOOTH, 0, "approximate"
    rounded = grey(np.rint(WIDE / 257).astype(np.uint8))
    yield "tiff of 16 bits", tiff(WIDE, 1), rounded, 0, WIDE_CHANNELS
    yield "tiff of 16 bits, big-endian", tiff(WIDE, 1, big=True), rounded, 0, WIDE_CHANNELS
    yield (
        "tiff of 12 bits",
        tiff((WIDE >> 4).astype(np.uint16), 1, bits=12),
        rounded,
        1,
        WIDE_CHANNELS,
    )
    yield "tiff rgb of 16 bits", tiff(WIDE_RGB, 2), SMOOTH, 0, WIDE_CHANNELS
    yield "tiff rgb of 16 bits, big-endian", tiff(WIDE_RGB, 2, big=True), SMOOTH, 0, WIDE_CHANNELS
    yield "tiff rgba of 16 bits", tiff(WIDE_RGBA, 2, extra=2), CLEAR, 1, SEE_THROUGH
    # A step of a* or b*, which are whole numbers, is as much as this in dark red.
    yield "tiff lab", saved(as_lab(RGB), "TIFF"), SMOOTH, 16, ""
    yield (
        "tiff of pages",
        saved(QUARTERS, "TIFF", save_all=True, append_images=more()),
        PALETTE,
        0,
        (PAGES),
    )


def bmp_files() -> Iterator[Case]:
    yield "bmp", saved(RGB, "BMP"), SMOOTH, 0, ""
    yield "bmp palette", saved(INDEXED, "BMP"), PALETTE, 0, ""
    yield "bmp grey", saved(Image.fromarray(LEVELS), "BMP"), grey(LEVELS), 0, ""
    yield "bmp of one bit", saved(Image.fromarray(BITS).convert("1"), "BMP"), grey(BITS), 0, ""
    yield "bmp 565", bmp(SMOOTH, (0xF800, 0x7E0, 0x1F), 16), SMOOTH, 8, ""
    yield (
        "bmp with alpha",
        bmp(RGBA, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 32),
        CLEAR,
        1,
        SEE_THROUGH,
    )


def avif_files() -> Iterator[Case]:
    best = {"quality": 100, "subsampling": "4:4:4"}
    yield "avif", saved(RGB, "AVIF", **best), SMOOTH, LOSSY, ""
    yield "avif alpha", saved(TRANSPARENT, "AVIF", **best), CLEAR, LOSSY, SEE_THROUGH
    yield (
        "avif animated",
        saved(RGB, "AVIF", **best, save_all=True, append_images=[RGB.rotate(180)]),
        (SMOOTH),
        LOSSY,
        ANIMATED,
    )


def heic_files() -> Iterator[Case]:
    yield "heic", heic(RGB), SMOOTH, 2, ""
    yield "heic alpha", heic(TRANSPARENT), CLEAR, 3, SEE_THROUGH
    yield "heic turned", turned_heic(RGB, 6), UPRIGHT[6](SMOOTH), 2, ""
    yield "heic of several", heic(RGB, append=more()), SMOOTH, 2, "primary one"
    yield "heic of 10 bits", heic_in_ten_bits(SMOOTH), SMOOTH, LOSSY, ""


def colours_files() -> Iterator[Case]:
    wide_gamut, profile = in_another_profile(SMOOTH)
    for name, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        data = saved(wide_gamut, name, icc_profile=profile, **options)
        yield f"{name.lower()} with a profile", data, SMOOTH, 3, "colour profile"


def adam7(image: Pixels) -> bytes:
    """An interlaced PNG."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2))  # fmt: skip
    rows = b"".join(
        b"\0" + row.tobytes()
        for x, y, across, down in passes
        for row in image[y::down, x::across]
        if row.size
    )
    plain = png(image, 8, 2)
    header = bytearray(plain[12:29])
    header[-1] = 1
    data = zlib.compress(rows)

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    return plain[:8] + chunk(bytes(header)) + chunk(b"IDAT" + data) + chunk(b"IEND")


def as_lab(image: Image.Image) -> Image.Image:
    lab = ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")


def in_another_profile(image: Pixels) -> tuple[Image.Image, bytes]:
    """The same colours in numbers of a profile with red and blue swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ", 128), profile.index(b"bXYZ", 128)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return Image.fromarray(image[:, :, ::-1].copy()), bytes(profile)


CASES = [
    case
    for files in (
        png_files,
        jpeg_files,
        webp_files,
        gif_files,
        tiff_files,
        bmp_files,
        avif_files,
        heic_files,
        colours_files,
    )
    for case in files()
]


def load(data: bytes) -> Any:
    return load_image(data, max_bytes=1_000_000, max_pixels=1_000_000, mode="RGB")


def test_there_are_many_and_each_format_is_among_them() -> None:
    assert len(CASES) >= 60
    names = {name.split()[0].upper() for name, *_ in CASES}
    assert names == {row.name.upper() for row in formats.FORMATS.values()}


@pytest.mark.parametrize(
    ("data", "right", "off", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_file_is_read_as_what_it_shows(data: bytes, right: Pixels, off: int, said: str) -> None:
    image = load(data)
    found = np.asarray(open_image(image)).astype(int)
    assert found.shape == right.shape
    assert np.abs(found - right.astype(int)).max() <= off
    notices = " ".join(image.notices)
    assert said in notices
    if not said:
        assert notices == ""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tiff(LEVELS.astype(np.float32) / 255, 1, sample_format=3), id="floats"),
        pytest.param(tiff(LEVELS.astype(np.uint32), 1), id="32 bits"),
        pytest.param(tiff(LEVELS.astype(np.int16), 1, sample_format=2), id="signed"),
    ],
)
def test_numbers_whose_white_is_not_known_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidImageError, match="which is white"):
        load(data)


def test_without_its_package_heic_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = heic(Image.fromarray(SMOOTH))
    assert formats.is_heif(data)
    assert ".heic" in formats.suffixes()
    monkeypatch.setattr(formats, "reads_heif", lambda: False)
    with pytest.raises(InvalidImageError) as refused:
        load(data)
    assert "pip install pillow-heif" in refused.value.hint
    assert ".heic" not in formats.suffixes()
    avif = saved(Image.fromarray(SMOOTH), "AVIF")
    assert not formats.is_heif(avif)
    assert load(avif)
