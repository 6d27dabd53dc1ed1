import base64
import hashlib
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from flux_mcp.errors import InvalidImageError, StorageError
from flux_mcp.images.budget import DecodeBudget
from flux_mcp.images.colours import CONVERTED, NO_PROFILE, NOT_TOLD, UNUSABLE
from flux_mcp.images.decoding import (
    InputImage,
    load_cutout,
    load_image,
    open_image,
    store_image,
)
from flux_mcp.images.formats import FORMATS
from flux_mcp.images.references import DataReference, parse_reference
from tests.images.profiles import cmyk_profile, grey_profile, rgb_profile

MIB = 1024 * 1024


def load(data, mode="RGB", max_bytes=MIB, max_pixels=1_000_000):
    return load_image(data, max_bytes=max_bytes, max_pixels=max_pixels, mode=mode)


def pixels_of(picture: InputImage) -> Image.Image:
    return Image.open(io.BytesIO(picture.png))


def png(width, height, bits, colour_type, chunks, rows):
    """A PNG from its parts: what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def grey_png(bits, levels, transparent):
    """A grey PNG of eight equal rows, of which one level is transparent."""
    number = 0
    for level in levels:
        number = number << bits | level
    row = b"\0" + number.to_bytes(max(1, len(levels) * bits // 8), "big")
    return png(len(levels), 8, bits, 0, [(b"tRNS", struct.pack(">H", transparent))], 8 * row)


# --- loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_name", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95, "subsampling": 0})],
)
def test_each_supported_format_becomes_a_plain_rgb_png(drawing, encoded, format_name, options):
    picture = load(encoded(drawing, format_name, **options))
    image = pixels_of(picture)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 48))
    assert (picture.width, picture.height) == (64, 48)
    assert picture.sha256 == hashlib.sha256(picture.png).hexdigest()
    assert max(abs(a - b) for a, b in zip(image.getpixel((5, 5)), (220, 20, 20), strict=True)) < 12
    assert image.getpixel((60, 40)) == (255, 255, 255)


def test_the_same_pixels_give_the_same_file_whatever_surrounds_them(drawing, encoded):
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("secret", "where I live")
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    plain = load(encoded(drawing, "PNG"))
    adorned = load(
        encoded(drawing, "PNG", pnginfo=chunks, exif=exif, dpi=(72, 72), compress_level=1)
    )
    assert adorned == plain
    assert not pixels_of(adorned).info


def test_exif_orientation_is_applied(drawing, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    picture = load(encoded(drawing, "JPEG", exif=exif, quality=95))
    assert (picture.width, picture.height) == (48, 64)
    red, green, _ = pixels_of(picture).getpixel((40, 5))
    assert red > 180
    assert green < 60


def test_transparency_is_laid_on_white(encoded):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 8, 16))
    shown = pixels_of(load(encoded(image, "PNG")))
    assert shown.getpixel((2, 2)) == (255, 0, 0)
    assert shown.getpixel((12, 2)) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour_is_laid_on_white(encoded):
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.paste(1, (0, 0, 8, 16))
    shown = pixels_of(load(encoded(image, "PNG", transparency=0)))
    assert shown.getpixel((2, 2)) == (200, 100, 0)
    assert shown.getpixel((12, 2)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sixteen_bit_grey_keeps_its_shades(encoded, mode):
    image = Image.new("I;16", (16, 16), 128 * 256)
    assert pixels_of(load(encoded(image, "PNG"), mode)).convert("L").getpixel((3, 3)) == 128


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_shade_of_a_grey_png_is_its_own(bits):
    """Shades beside it stay: of 16 bits too, where eight cannot tell them apart."""
    most = (1 << bits) - 1
    levels = [0, most // 2, most // 2 + 1, most] * 2
    data = grey_png(bits, levels, transparent=most // 2)
    shown = pixels_of(load(data)).convert("L")
    for x, level in enumerate(levels):
        expected = 255 if level == most // 2 else (level << 8) // (1 << bits) if bits > 4 else None
        expected = level * 255 // most if expected is None else expected
        assert shown.getpixel((x, 0)) == expected, f"level {level} of {most}"
    with pytest.raises(InvalidImageError, match="transparent parts"):
        load(data, "L")


def test_one_transparent_colour_of_sixteen_bits_is_refused():
    rows = b"".join(b"\0" + struct.pack(">24H", *range(24)) for _ in range(8))
    data = png(8, 8, 16, 2, [(b"tRNS", struct.pack(">3H", 0, 1, 2))], rows)
    with pytest.raises(InvalidImageError, match="one transparent colour"):
        load(data)


def test_a_cmyk_jpeg_becomes_rgb(encoded):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = pixels_of(load(encoded(image, "JPEG"))).getpixel((3, 3))
    assert red > 200
    assert max(green, blue) < 60


def test_a_mask_may_have_an_alpha_channel_only_if_it_says_nothing(encoded):
    opaque = Image.new("RGBA", (16, 16), (255, 255, 255, 255))
    assert pixels_of(load(encoded(opaque, "PNG"), "L")).getpixel((3, 3)) == 255
    opaque.putpixel((3, 3), (255, 255, 255, 0))
    with pytest.raises(InvalidImageError, match="transparent parts"):
        load(encoded(opaque, "PNG"), "L")


def sixteen_bit_rgb() -> bytes:
    """A PNG of 8x8 with 16 bits a channel, which Pillow reads and does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = b"".join(b"\0" + bytes(6 * 8) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    body = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("image", "options", "mode", "says"),
    [
        (Image.new("RGB", (64, 48)), {}, "RGB", ()),
        (Image.new("L", (64, 48)), {}, "L", ()),
        (Image.new("P", (64, 48)), {}, "RGB", ()),
        (Image.new("RGBA", (64, 48), (1, 2, 3, 255)), {}, "RGB", ()),
        (Image.new("RGB", (64, 48)), {"exif": turned(1)}, "RGB", ()),
        (Image.new("RGB", (64, 48)), {"exif": turned(6)}, "RGB", ("from 64x48 to 48x64",)),
        (Image.new("RGB", (64, 48)), {"exif": turned(3)}, "L", ("from 64x48 to 64x48",)),
        (Image.new("RGBA", (64, 48), (1, 2, 3, 254)), {}, "RGB", ("64x48 has transparent",)),
        (Image.new("LA", (64, 48), (1, 0)), {}, "RGB", ("transparent",)),
        (Image.new("P", (64, 48)), {"transparency": 0}, "RGB", ("transparent",)),
        (Image.new("I;16", (64, 48)), {}, "L", ("64x48 has more than 8 bits",)),
        (Image.new("RGB", (64, 48), (200, 200, 206)), {}, "L", ()),
        (Image.new("RGB", (64, 48), (0, 200, 0)), {}, "L", ("64x48 is in colour",)),
        (Image.new("RGB", (64, 48), (0, 200, 0)), {}, "RGB", ()),
        (
            Image.new("RGBA", (64, 48)),
            {"exif": turned(8)},
            "RGB",
            ("from 64x48 to 48x64", "transparent"),
        ),
    ],
)
def test_what_reading_changes_is_told(encoded, image, options, mode, says):
    notices = load(encoded(image, "PNG", **options), mode).notices
    assert len(notices) == len(says)
    assert all(part in notice for part, notice in zip(says, notices, strict=True))


def test_sixteen_bits_of_colour_are_told():
    (notice,) = load(sixteen_bit_rgb()).notices
    assert "8 bits a channel" in notice


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello, I am a text", id="text"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="svg"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="only the signature"),
    ],
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(InvalidImageError) as refused:
        load(data)
    assert refused.value.hint


@pytest.mark.parametrize("format_name", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "PDF", "EPS"])
def test_other_formats_are_refused(drawing, encoded, format_name):
    with pytest.raises(InvalidImageError, match="no image of a format that is read") as refused:
        load(encoded(drawing, format_name))
    assert "Use a PNG, JPEG" in refused.value.hint


def test_the_first_image_of_a_cameras_multi_image_jpeg_counts(drawing, encoded):
    preview = Image.new("RGB", (16, 16), "blue")
    data = encoded(drawing, "MPO", save_all=True, append_images=[preview])
    assert load(data).width == 64


@pytest.mark.parametrize("format_name", [*FORMATS])
def test_a_truncated_image_is_found(encoded, format_name):
    pillow_heif.register_heif_opener()
    noise = Image.effect_noise((96, 96), 80).convert("RGB")
    data = encoded(noise, format_name)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(InvalidImageError):
            load(data[: int(len(data) * share)])


def test_a_small_file_that_claims_a_huge_image_is_refused_before_it_is_decoded():
    bomb = png(30_000, 30_000, 8, 2, [], b"\0" * 10_000)
    assert len(bomb) < 1000
    with pytest.raises(InvalidImageError):
        load(bomb, max_pixels=50_000_000)


def test_the_limits_are_inclusive(drawing, encoded):
    data = encoded(drawing, "PNG")
    assert load(data, max_bytes=len(data), max_pixels=64 * 48)
    with pytest.raises(InvalidImageError, match="larger than"):
        load(data, max_bytes=len(data) - 1)
    with pytest.raises(InvalidImageError, match="more than 3,071 pixels"):
        load(data, max_pixels=64 * 48 - 1)


def test_oversized_base64_is_refused(encoded):
    noise = encoded(Image.effect_noise((256, 256), 80), "PNG")
    reference = parse_reference("data:image/png;base64," + base64.b64encode(noise).decode())
    assert isinstance(reference, DataReference)
    with pytest.raises(InvalidImageError, match="larger than 10,000 bytes"):
        load(reference.data, max_bytes=10_000)


def test_images_below_eight_pixels_are_refused(encoded):
    assert load(encoded(Image.new("RGB", (8, 8)), "PNG"))
    with pytest.raises(InvalidImageError, match="too small"):
        load(encoded(Image.new("RGB", (7, 100)), "PNG"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's word for EXIF it skips over
@pytest.mark.parametrize("format_name", [*FORMATS])
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_a_deliberate_error(format_name, data):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    pillow_heif.register_heif_opener()
    kept = {} if format_name in ("GIF", "BMP") else {"exif": exif.tobytes()}
    Image.radial_gradient("L").resize((24, 24)).convert("RGB").save(buffer, format_name, **kept)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        load(bytes(damaged))
    except InvalidImageError:
        return


# --- colours -----------------------------------------------------------------------------------

LINEAR_MIDDLE = 188
"""Half of the light in sRGB (IEC 61966-2-1): 1.055 * 0.502 ** (1 / 2.4) - 0.055, of 255."""


@pytest.mark.parametrize(
    ("mode", "colour", "format_name", "profile"),
    [
        ("RGB", (128, 128, 128), "PNG", rgb_profile()),
        ("RGB", (128, 128, 128), "JPEG", rgb_profile()),
        ("RGBA", (128, 128, 128, 255), "PNG", rgb_profile()),
        ("RGBA", (128, 128, 128, 255), "WEBP", rgb_profile()),
        ("P", 128, "PNG", rgb_profile()),
        ("L", 128, "JPEG", rgb_profile()),
        ("L", 128, "PNG", grey_profile()),
        ("LA", (128, 255), "PNG", grey_profile()),
        ("I;16", 128 * 256, "PNG", grey_profile()),
    ],
)
def test_colours_are_converted_from_their_profile(encoded, mode, colour, format_name, profile):
    image = Image.new(mode, (16, 16), colour)
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    picture = load(encoded(image, format_name, icc_profile=profile))
    shown = pixels_of(picture).getpixel((3, 3))
    assert max(abs(level - LINEAR_MIDDLE) for level in shown) <= 1
    assert picture.notices[-1] == CONVERTED
    # Besides, 16 bits are told.
    assert len(picture.notices) == (2 if mode == "I;16" else 1)


def test_transparency_stays_when_colours_are_converted(encoded):
    image = Image.new("RGBA", (16, 16), (128, 128, 128, 0))
    shown = pixels_of(load(encoded(image, "PNG", icc_profile=rgb_profile())))
    assert shown.getpixel((3, 3)) == (255, 255, 255)


def test_cmyk_is_converted_by_its_own_profile_and_without_one_it_is_said(encoded):
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    picture = load(encoded(image, "JPEG", icc_profile=cmyk_profile()))
    assert pixels_of(picture).getpixel((3, 3)) == (255, 255, 255)
    assert CONVERTED in picture.notices
    assert load(encoded(image, "JPEG")).notices == (NO_PROFILE,)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        pytest.param("RGB", b"no profile at all", id="junk"),
        pytest.param("RGB", rgb_profile()[:200], id="cut"),
        pytest.param("RGB", grey_profile(), id="of grey"),
        pytest.param("RGB", cmyk_profile(), id="of cmyk"),
        pytest.param("CMYK", rgb_profile(), id="of colours"),
    ],
)
def test_a_profile_that_cannot_be_used_is_said(encoded, mode, profile):
    image = Image.new(mode, (16, 16))
    picture = load(encoded(image, "JPEG", icc_profile=profile))
    assert picture.notices == (UNUSABLE,)
    assert pixels_of(picture).tobytes() == image.convert("RGB").tobytes()


def test_a_profile_that_cannot_be_unpacked_is_said():
    rows = 8 * (b"\0" + bytes(24))
    data = png(8, 8, 8, 2, [(b"iCCP", b"name\0\0not zlib")], rows)
    assert load(data).notices == (UNUSABLE,)


def test_srgb_in_whatever_words_changes_nothing(encoded):
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert load(encoded(noise, "PNG", icc_profile=profile)) == load(encoded(noise, "PNG"))


def test_a_mask_holds_numbers_and_no_colours(encoded):
    image = Image.new("L", (16, 16), 128)
    picture = load(encoded(image, "PNG", icc_profile=grey_profile()), "L")
    assert pixels_of(picture).getpixel((3, 3)) == 128
    assert picture.notices == ()


def test_another_colour_space_without_a_profile_is_said(encoded):
    rows = 8 * (b"\0" + bytes(24))
    for gamma, said in ((100_000, (NOT_TOLD,)), (45_455, ())):
        data = png(8, 8, 8, 2, [(b"gAMA", struct.pack(">I", gamma))], rows)
        assert load(data).notices == said
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    image = Image.new("RGB", (16, 16))
    assert load(encoded(image, "JPEG", exif=exif)).notices == (NOT_TOLD,)


# --- memory ------------------------------------------------------------------------------------


def test_images_wait_for_memory_in_their_order():
    budget = DecodeBudget(most_bytes=100)
    ended: list[str] = []
    threads = []

    def decode(name: str, size_bytes: int) -> None:
        with budget.taken(size_bytes):
            ended.append(name)

    with budget.taken(60):
        for number, (name, size_bytes) in enumerate([("large", 1000), ("small", 1)], start=1):
            threads.append(threading.Thread(target=decode, args=(name, size_bytes)))
            threads[-1].start()
            while len(budget._waiting) < number:
                threads[-1].join(0.001)
        assert ended == []
    for thread in threads:
        thread.join()
    assert ended == ["large", "small"]


def test_a_failure_frees_the_memory_it_waited_for():
    budget = DecodeBudget(most_bytes=10)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), budget.taken(10):
            raise ValueError("broken")


HUNGRY = """
import io, os
from pathlib import Path
from PIL import Image
import pillow_heif
from flux_mcp.images.budget import give_back_memory
from flux_mcp.images.decoding import load_image
from flux_mcp.images.formats import FORMATS

def peak_bytes():
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return 1024 * int(line.split()[1])

buffer = io.BytesIO()
Image.new("RGB", (8, 8)).save(buffer, "PNG")
load_image(buffer.getvalue(), max_bytes=1000, max_pixels=1000, mode="RGB")  # imports everything
pillow_heif.register_heif_opener()
side = 1000
exif = Image.Exif()
exif[0x0112] = 6
for mode, name, options in (
    ("RGB", "PNG", {"exif": exif}),
    ("RGBA", "PNG", {}),
    ("P", "PNG", {"transparency": 0}),
    ("I;16", "PNG", {"transparency": 0}),
    ("CMYK", "JPEG", {"exif": exif}),
    ("RGBA", "WEBP", {"lossless": True, "method": 0, "exif": exif}),
    ("P", "GIF", {"transparency": 0}),
    ("RGBA", "TIFF", {"exif": exif}),
    ("RGBA", "TIFF", {"compression": "tiff_lzw"}),
    ("CMYK", "TIFF", {"exif": exif}),
    ("LAB", "TIFF", {}),
    ("RGB", "BMP", {}),
    ("RGBA", "AVIF", {"speed": 10, "exif": exif}),
    ("RGBA", "HEIF", {}),
):
    buffer = io.BytesIO()
    image = Image.new("L", (side, side))
    if name in ("AVIF", "HEIF"):  # noise takes them many seconds to encode
        image = Image.linear_gradient("L").resize((side, side))
    else:
        image.frombytes(os.urandom(side * side))
    if mode == "LAB":
        image = Image.merge("LAB", [image] * 3)
    image = image.convert(mode)
    options = {"compress_level": 1, **options} if name == "PNG" else options
    image.save(buffer, name, **options)
    image.close()
    data = buffer.getvalue()
    give_back_memory()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    load_image(data, max_bytes=len(data), max_pixels=side * side, mode="RGB")
    used = (peak_bytes() - before) / side / side
    assert used <= FORMATS[name].bytes_per_pixel, f"{mode} {name}: {used:.1f} bytes a pixel"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the highest use of memory is read from /proc")
def test_decoding_takes_no_more_memory_than_it_waits_for():
    # What is free but in pieces, of whatever ran before, is no part of it: large blocks are mapped.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    subprocess.run([sys.executable, "-c", HUNGRY], check=True, env=environment)


# --- storing -----------------------------------------------------------------------------------


def test_an_image_is_stored_once_under_its_own_hash(drawing, encoded, tmp_path: Path):
    picture = load(encoded(drawing, "PNG"))
    path = store_image(tmp_path, picture)
    assert path == tmp_path / f"{picture.sha256}.png"
    written = path.stat().st_mtime_ns, path.stat().st_ino
    assert store_image(tmp_path, picture) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_empty_file_left_by_a_power_cut_is_written_again(drawing, encoded, tmp_path: Path):
    picture = load(encoded(drawing, "PNG"))
    (tmp_path / f"{picture.sha256}.png").write_bytes(b"")
    assert store_image(tmp_path, picture).read_bytes() == picture.png


def test_a_refusing_disk_is_a_storage_error(drawing, encoded, tmp_path: Path):
    with pytest.raises(StorageError):
        store_image(tmp_path / "missing", load(encoded(drawing, "PNG")))


def test_a_cutout_keeps_its_colours_and_its_transparency_is_the_mask(encoded):
    colours = np.zeros((8, 30, 4), np.uint8)
    colours[:, :, 0] = 200
    colours[:, 10:20, 3] = 100
    colours[:, 20:, 3] = 255
    data = encoded(Image.fromarray(colours), "PNG")
    image, mask = load_cutout(data, max_bytes=10_000, max_pixels=10_000)
    assert image.notices == mask.notices == ()
    seen, part = (np.asarray(open_image(one)) for one in (image, mask))
    assert (seen[:, :10] == 255).all()
    assert (seen[:, 10:] == (200, 0, 0)).all()
    assert np.array_equal(part, 255 - colours[:, :, 3])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_an_image_without_transparency_is_no_mask_of_itself(encoded, mode):
    data = encoded(Image.new(mode, (16, 16), "white"), "PNG")
    with pytest.raises(InvalidImageError, match="no transparent parts"):
        load_cutout(data, max_bytes=10_000, max_pixels=10_000)
