import base64
import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_mcp.errors import InvalidImageError, StorageError
from flux_mcp.images.decoding import InputImage, load_image, store_image
from flux_mcp.images.references import DataReference, parse_reference

MIB = 1024 * 1024


def load(data, mode="RGB", max_bytes=MIB, max_pixels=1_000_000):
    return load_image(data, max_bytes=max_bytes, max_pixels=max_pixels, mode=mode)


def pixels_of(picture: InputImage) -> Image.Image:
    return Image.open(io.BytesIO(picture.png))


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


@pytest.mark.parametrize("format_name", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(drawing, encoded, format_name):
    with pytest.raises(InvalidImageError, match="not a PNG, JPEG or WebP"):
        load(encoded(drawing, format_name))


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_animations_are_refused(drawing, encoded, format_name):
    other = Image.new("RGB", drawing.size, "blue")
    data = encoded(drawing, format_name, save_all=True, append_images=[other], duration=100)
    with pytest.raises(InvalidImageError, match="animated"):
        load(data)


def test_the_first_image_of_a_cameras_multi_image_jpeg_counts(drawing, encoded):
    preview = Image.new("RGB", (16, 16), "blue")
    data = encoded(drawing, "MPO", save_all=True, append_images=[preview])
    assert load(data).width == 64


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_found(encoded, format_name):
    noise = Image.effect_noise((96, 96), 80).convert("RGB")
    data = encoded(noise, format_name)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(InvalidImageError):
            load(data[: int(len(data) * share)])


def test_a_small_file_that_claims_a_huge_image_is_refused_before_it_is_decoded():
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
    )
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
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
@settings(deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_a_deliberate_error(format_name, data):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.radial_gradient("L").resize((24, 24)).convert("RGB").save(buffer, format_name, exif=exif)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        load(bytes(damaged))
    except InvalidImageError:
        return


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
