import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFilter

from flux_mcp.errors import InvalidImageError, InvalidRequestError
from flux_mcp.images.decoding import InputImage, encode_image, load_image
from flux_mcp.images.masks import (
    default_feather_px,
    finish_mask,
    mask_from_box,
    mask_from_image,
)
from flux_mcp.requests.geometry import Size
from flux_mcp.requests.image_arguments import Box


def shown(mask: InputImage) -> Image.Image:
    image = Image.open(io.BytesIO(mask.png))
    assert image.mode == "L"
    return image


def grey(value: int, size: tuple[int, int] = (32, 16)) -> InputImage:
    return encode_image(Image.new("L", size, value))


def test_a_mask_image_of_the_images_size_is_taken_as_it_is():
    mask = grey(255)
    assert mask_from_image(mask, Size(32, 16)) is mask


def test_a_mask_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(InvalidImageError, match=r"32x16.*16x32"):
        mask_from_image(grey(255), Size(16, 32))


def test_a_white_png_is_a_mask_that_draws_everything(encoded):
    data = encoded(Image.new("RGB", (32, 16), "white"), "PNG")
    mask = load_image(data, max_bytes=10_000, max_pixels=10_000, mode="L")
    assert shown(mask_from_image(mask, Size(32, 16))).getextrema() == (255, 255)


boxes = st.tuples(st.integers(0, 39), st.integers(0, 29), st.integers(1, 60), st.integers(1, 60))


@given(boxes)
def test_a_box_covers_exactly_its_pixels_or_is_refused(numbers):
    x, y, width, height = numbers
    box, size = Box(x=x, y=y, width=width, height=height), Size(40, 30)
    if x + width > 40 or y + height > 30:
        with pytest.raises(InvalidRequestError) as refused:
            mask_from_box(box, size)
        assert "40x30" in refused.value.hint
        return
    image = shown(mask_from_box(box, size))
    assert image.size == (40, 30)
    assert image.getbbox() == (x, y, x + width, y + height)
    assert image.histogram()[255] == width * height


def test_an_untouched_mask_stays_the_same_file():
    mask = mask_from_box(Box(x=1, y=1, width=5, height=5), Size(32, 16))
    assert finish_mask(mask, invert=False, feather_px=0) is mask


def test_what_was_told_of_a_mask_is_told_of_the_finished_one():
    mask = replace(grey(255), notices=("Its colours were made grey.",))
    for asked in ({"invert": False, "feather_px": 2}, {"invert": False, "feather_px": 0}):
        assert finish_mask(mask, **asked).notices == mask.notices


@pytest.mark.parametrize(
    ("box", "feather_px"),
    [((0, 0, 15, 400), 0), ((0, 0, 64, 40), 2), ((9, 9, 256, 300), 16), ((0, 0, 4000, 3000), 32)],
)
def test_the_edge_of_a_box_is_soft_by_default_and_a_painted_mask_is_not(box, feather_px):
    x, y, width, height = box
    assert default_feather_px(Box(x=x, y=y, width=width, height=height)) == feather_px
    assert default_feather_px(None) == 0


def test_inverting_swaps_what_is_drawn_and_kept():
    mask = mask_from_box(Box(x=0, y=0, width=8, height=16), Size(32, 16))
    image = shown(finish_mask(mask, invert=True, feather_px=0))
    assert image.getpixel((3, 3)) == 0
    assert image.getpixel((20, 3)) == 255


@settings(max_examples=40)
@given(st.integers(1, 16), st.booleans())
def test_feathering_fades_the_edge_and_nothing_further_away(feather_px, invert):
    mask = mask_from_box(Box(x=40, y=40, width=80, height=80), Size(160, 160))
    hard = shown(finish_mask(mask, invert=invert, feather_px=0))
    soft = shown(finish_mask(mask, invert=invert, feather_px=feather_px))
    window = 2 * feather_px + 1
    near = ImageChops.difference(
        hard.filter(ImageFilter.MaxFilter(window)), hard.filter(ImageFilter.MinFilter(window))
    ).point(lambda value: 255 if value else 0)
    changed = ImageChops.difference(hard, soft).point(lambda value: 255 if value else 0)
    assert ImageChops.subtract(changed, near).getbbox() is None
    if feather_px >= 3:
        assert changed.getbbox() is not None


@pytest.mark.parametrize(
    ("value", "invert", "feather_px"),
    [
        pytest.param(0, False, 0, id="all black"),
        pytest.param(255, True, 0, id="all white, inverted"),
        pytest.param(127, False, 0, id="too grey to be drawn"),
        pytest.param(0, False, 8, id="black and soft"),
    ],
)
def test_a_mask_with_nothing_to_draw_is_refused(value, invert, feather_px):
    with pytest.raises(InvalidRequestError, match="nothing to generate"):
        finish_mask(grey(value), invert=invert, feather_px=feather_px)


def test_a_shape_that_feathering_dissolves_is_refused():
    mask = mask_from_box(Box(x=10, y=10, width=2, height=2), Size(64, 64))
    with pytest.raises(InvalidRequestError, match="nothing to generate"):
        finish_mask(mask, invert=False, feather_px=40)
