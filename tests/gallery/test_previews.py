import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_mcp.errors import InternalError, StorageError
from flux_mcp.gallery.previews import contact_sheet, preview_webp

from .images import as_png, flat, noise


def test_a_preview_keeps_the_shape_and_is_never_enlarged(tmp_path):
    (tmp_path / "a.png").write_bytes(as_png(flat(1000, 500)))
    small = Image.open(io.BytesIO(preview_webp(tmp_path / "a.png", 512)))
    assert (small.format, small.size) == ("WEBP", (512, 256))
    assert Image.open(io.BytesIO(preview_webp(as_png(flat(40, 20)), 512))).size == (40, 20)


@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize("source", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_source_is_a_storage_error(source):
    with pytest.raises(StorageError):
        preview_webp(source, 100)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 100])
def test_a_contact_sheet_shows_every_image_and_fits(tmp_path, count):
    paths = []
    for n in range(count):
        paths.append(tmp_path / f"{n}.png")
        paths[-1].write_bytes(as_png(noise(64, 48 + n)))
    data = contact_sheet(paths, ["a label that is far too long for its little cell 🦊\nx"] * count)
    assert len(data) <= 300_000
    assert Image.open(io.BytesIO(data)).format == "WEBP"


def test_an_image_that_is_gone_leaves_an_empty_place(tmp_path):
    (tmp_path / "a.png").write_bytes(as_png(Image.new("RGB", (320, 320), "white")))
    data = contact_sheet([tmp_path / "gone.png", tmp_path / "a.png"], ["gone", "here"])
    sheet = Image.open(io.BytesIO(data)).convert("RGB")
    assert max(sheet.getpixel((100, 100))) < 70
    assert min(sheet.getpixel((sheet.width - 100, 300))) > 200


@pytest.mark.parametrize(("count", "labels"), [(0, 0), (2, 1)])
def test_a_sheet_needs_a_label_for_each_image(tmp_path, count, labels):
    with pytest.raises(InternalError):
        contact_sheet([tmp_path / "a.png"] * count, ["x"] * labels)
