import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from flux_mcp.errors import InternalError, InvalidImageError, StorageError
from flux_mcp.gallery import previews
from flux_mcp.gallery.previews import (
    Sheets,
    preview_webp,
    small_preview_webp,
    thumbnail_webp,
)
from flux_mcp.gallery.provenance import from_png

from .images import as_png, claiming, flat, noise, with_a_text_of


def test_a_preview_keeps_the_shape_and_is_never_enlarged(tmp_path):
    (tmp_path / "a.png").write_bytes(as_png(flat(1000, 500)))
    small = Image.open(io.BytesIO(preview_webp(tmp_path / "a.png", 512)))
    assert (small.format, small.size) == ("WEBP", (512, 256))
    assert Image.open(io.BytesIO(preview_webp(as_png(flat(40, 20)), 512))).size == (40, 20)


@settings(max_examples=25)
@given(st.integers(200, 100_000), st.integers(1, 300), st.integers(1, 300))
def test_a_preview_always_fits(max_bytes, width, height):
    assert len(preview_webp(as_png(noise(width, height)), 300, max_bytes)) <= max_bytes


def test_the_worst_preview_fits_into_the_default_budget():
    data = preview_webp(as_png(noise(1024, 1024)), 1024)
    assert len(data) <= 300_000
    assert max(Image.open(io.BytesIO(data)).size) >= 256


def test_a_budget_nothing_fits_into_is_our_own_mistake():
    with pytest.raises(InternalError):
        preview_webp(as_png(flat(32, 32)), 32, max_bytes=10)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"text",
        b"\x89PNG\r\n\x1a\n",
        pytest.param(claiming(12_000), id="more pixels than Pillow warns of"),
        pytest.param(claiming(30_000), id="more pixels than Pillow decodes"),
        pytest.param(claiming(2**31 - 1), id="more pixels than there can be"),
        pytest.param(with_a_text_of(2 * 1024 * 1024), id="more text than Pillow unpacks"),
    ],
)
def test_a_damaged_source_is_a_storage_error_and_an_empty_place_on_a_sheet(source, tmp_path):
    with pytest.raises(StorageError):
        preview_webp(source, 100)
    path = tmp_path / "a.png"
    path.write_bytes(source)
    with pytest.raises(StorageError):
        small_preview_webp(path, 100)
    assert opened(Sheets().sheet_jpeg([path], ["a"])).format == "JPEG"
    with pytest.raises(InvalidImageError):
        from_png(path)


@pytest.mark.parametrize("count", [1, 5, 100])
def test_a_contact_sheet_shows_every_image_and_fits(tmp_path, count):
    paths = []
    for n in range(count):
        paths.append(tmp_path / f"{n}.png")
        paths[-1].write_bytes(as_png(noise(64, 48 + n)))
    labels = ["a label that is far too long for its little cell 🦊\nx"] * count
    data = Sheets().sheet_jpeg(paths, labels)
    assert len(data) <= 300_000
    assert opened(data).format == "JPEG"


def test_an_image_that_is_gone_leaves_an_empty_place_until_it_is_back(tmp_path):
    (tmp_path / "a.png").write_bytes(as_png(Image.new("RGB", (320, 320), "white")))
    sheets, paths = Sheets(), [tmp_path / "gone.png", tmp_path / "a.png"]
    sheet = opened(sheets.sheet_jpeg(paths, ["gone", "here"]))
    assert max(sheet.getpixel((100, 100))) < 70
    assert min(sheet.getpixel((sheet.width - 100, 300))) > 200
    paths[0].write_bytes(paths[1].read_bytes())
    assert min(opened(sheets.sheet_jpeg(paths, ["gone", "here"])).getpixel((100, 100))) > 200


@pytest.mark.parametrize(("count", "labels"), [(0, 0), (2, 1)])
def test_a_sheet_needs_a_label_for_each_image(tmp_path, count, labels):
    with pytest.raises(InternalError):
        Sheets().sheet_jpeg([tmp_path / "a.png"] * count, ["x"] * labels)


def thumbnails(folder, count):
    paths = [folder / f"{n}.webp" for n in range(count)]
    for n, path in enumerate(paths):
        image = Image.new("RGB", (512, 512), (255 * (n % 2), 255 - n, 0))
        path.write_bytes(thumbnail_webp(image))
    return paths


def is_red(pixel):
    return pixel[0] > 200 > max(pixel[1:])


def is_blue(pixel):
    return pixel[2] > 200 > max(pixel[:2])


def test_a_thumbnail_carries_a_jpeg_of_half_its_size_where_exif_has_one(tmp_path):
    data = thumbnail_webp(Image.new("RGB", (1024, 512), "red"))
    thumbnail = opened(data)
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (512, 256))
    exif = thumbnail.info["exif"]
    facts = thumbnail.getexif().get_ifd(ExifTags.IFD.IFD1)
    begin = facts[ExifTags.Base.JpegIFOffset]
    assert begin + facts[ExifTags.Base.JpegIFByteCount] == len(exif)
    tile = opened(exif[begin:])
    assert (tile.format, tile.size) == ("JPEG", (256, 128))
    assert is_red(tile.getpixel((128, 64)))
    assert "exif" not in opened(thumbnail_webp(flat(256, 200))).info, "small enough as it is"


@pytest.mark.parametrize(("count", "sheet_px"), [(20, 1280), (10, 1280), (20, 768), (10, 768)])
def test_a_sheet_of_many_is_made_of_the_tiles_and_decodes_no_thumbnail(tmp_path, count, sheet_px):
    # Thumbnails that are red outside, blue in their tiles.
    blue = opened(thumbnail_webp(Image.new("RGB", (512, 512), "blue"))).info["exif"]
    paths = [tmp_path / f"{n}.webp" for n in range(count)]
    for path in paths:
        Image.new("RGB", (512, 512), "red").save(path, exif=blue)
    sheet = opened(Sheets().sheet_jpeg(paths, [""] * count, sheet_px))
    assert sheet.width == pytest.approx(sheet_px, rel=0.17)
    assert is_blue(sheet.getpixel((100, 100)))
    few = opened(Sheets().sheet_jpeg(paths[:4], [""] * 4))
    assert is_red(few.getpixel((100, 100))), "cells larger than a tile"


@pytest.mark.parametrize("exif", [b"", b"II*", b"x" * 200, None])
def test_a_thumbnail_without_a_tile_that_can_be_read_is_decoded_itself(tmp_path, exif):
    """Older versions stored none; `None` cuts one off in its middle."""
    if exif is None:
        exif = opened(thumbnail_webp(Image.new("RGB", (512, 512), "blue"))).info["exif"][:300]
    paths = [tmp_path / f"{n}.webp" for n in range(20)]
    for path in paths:
        Image.new("RGB", (512, 512), "red").save(path, quality=80, method=2, exif=exif)
    sheet = opened(Sheets().sheet_jpeg(paths, [""] * 20))
    assert is_red(sheet.getpixel((100, 100)))


def test_thumbnails_of_an_old_data_folder_are_all_on_the_sheet():
    paths = sorted((Path(__file__).parents[1] / "data" / "old_data" / "images").rglob("*.webp"))
    sheets = Sheets()
    sheets.sheet_jpeg(paths, [path.stem for path in paths])
    assert len(sheets._tiles) == len(paths) > 3


def test_a_thumbnail_is_decoded_once_for_many_sheets_and_again_when_its_file_changes(tmp_path):
    sheets, paths = Sheets(), thumbnails(tmp_path, 20)
    labels = [path.stem for path in paths]
    first = sheets.sheet_jpeg(paths, labels)
    assert opened(first).width == pytest.approx(1280, rel=0.16)
    tiles = dict(sheets._tiles)
    assert sheets.sheet_jpeg(paths, labels) is first
    assert sheets.sheet_jpeg(paths[1:], labels[1:]) != first
    assert dict(sheets._tiles) == tiles, "no tile was made for it"

    paths[0].write_bytes(thumbnail_webp(Image.new("RGB", (512, 512), "blue")))
    again = opened(sheets.sheet_jpeg(paths, labels))
    assert is_blue(again.getpixel((100, 100)))


def test_what_is_kept_of_sheets_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TILE_BYTES", 6 * 4 * 256 * 256)
    monkeypatch.setattr(previews, "MAX_KEPT_SHEETS", 3)
    sheets, paths = Sheets(), thumbnails(tmp_path, 20)
    for n in range(5):
        sheets.sheet_jpeg(paths, [f"{n}"] * 20)
    assert len(sheets._sheets) == 3
    assert len(sheets._tiles) == 6
    assert sheets._tile_bytes == sum(
        4 * tile.width * tile.height for tile in sheets._tiles.values()
    )


def test_a_small_preview_is_the_stored_thumbnail_where_it_fits(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(as_png(noise(600, 600)))
    made = small_preview_webp(path, 512)
    assert opened(made).size == (512, 512)
    (tmp_path / "a.webp").write_bytes(thumbnail_webp(flat(600, 600)))
    assert small_preview_webp(path, 512) == (tmp_path / "a.webp").read_bytes()
    assert len(small_preview_webp(path, 512, max_bytes=2000)) <= 2000
    path.unlink()
    (tmp_path / "a.webp").unlink()
    with pytest.raises(StorageError):
        small_preview_webp(path, 512)


def opened(data):
    return Image.open(io.BytesIO(data))
