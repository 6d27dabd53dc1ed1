import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from flux_mcp.errors import InvalidImageError, InvalidRequestError
from flux_mcp.images.decoding import load_image, open_image
from flux_mcp.images.masks import (
    default_feather_px,
    draw_shapes,
    finish_mask,
    grown,
    scaled_mask,
    united,
)
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.mask_arguments import Area

SIZE = Size(40, 30)
Pixels = NDArray[np.bool_]


def drawn(size: Size = SIZE, **shape: object) -> Image.Image:
    """Return the mask of an area that is one shape."""
    (one,) = draw_shapes(Area.model_validate(shape), size)
    assert one.mask.mode == "L"
    assert one.mask.size == (size.width, size.height)
    assert one.mask.getextrema()[0] in (0, 255)
    return one.mask


def white(mask: Image.Image) -> Pixels:
    return np.asarray(mask) >= 128


def grey(value: int, size: tuple[int, int] = (32, 16)) -> Image.Image:
    return Image.new("L", size, value)


def middles(size: Size = SIZE) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The x and y of the middle of each pixel."""
    down, across = np.mgrid[: size.height, : size.width]
    return across + 0.5, down + 0.5


# --- from images -------------------------------------------------------------------------------


def test_a_mask_image_of_the_images_size_is_taken_as_it_is():
    mask = grey(255)
    assert scaled_mask(mask, Size(32, 16)) == (mask, ())


@pytest.mark.parametrize("size", [(4000, 3000), (400, 300), (512, 384), (100, 75), (13, 10)])
def test_a_mask_image_of_the_images_shape_is_scaled_and_that_is_said(size):
    left_half = Image.new("L", size, 0)
    left_half.paste(255, (0, 0, size[0] // 2, size[1]))
    mask, told = scaled_mask(left_half, Size(800, 600))
    assert mask.size == (800, 600)
    assert abs(white(mask).mean() - (size[0] // 2) / size[0]) < 0.01
    assert told == (f"The mask of {size[0]}x{size[1]} was scaled to the image's 800x600.",)


@pytest.mark.parametrize("size", [(16, 32), (32, 18), (30, 16), (320, 161)])
def test_a_mask_of_another_shape_is_refused_with_both_sizes(size):
    with pytest.raises(InvalidImageError, match=rf"{size[0]}x{size[1]}.*32x16"):
        scaled_mask(grey(255, size), Size(32, 16))


def test_a_white_png_is_a_mask_that_draws_everything(encoded):
    data = encoded(Image.new("RGB", (32, 16), "white"), "PNG")
    mask = load_image(data, max_bytes=10_000, max_pixels=10_000, mode="L")
    assert scaled_mask(open_image(mask), Size(32, 16))[0].getextrema() == (255, 255)


# --- shapes ------------------------------------------------------------------------------------

boxes = st.tuples(st.integers(0, 39), st.integers(0, 29), st.integers(2, 60), st.integers(2, 60))


@given(boxes, st.sampled_from(["box", "ellipse"]))
def test_a_shape_touches_exactly_its_box_or_is_refused(numbers, shape):
    x, y, width, height = numbers
    asked = {shape: [x, y, x + width, y + height]}
    if x + width > 40 or y + height > 30:
        with pytest.raises(InvalidRequestError) as refused:
            drawn(**asked)
        assert "40x30" in refused.value.hint
        return
    image = drawn(**asked)
    assert image.getbbox() == (x, y, x + width, y + height)
    assert shape == "ellipse" or image.histogram()[255] == width * height


@pytest.mark.parametrize(
    ("fractions", "pixels"),
    [
        ([0.25, 0.5, 0.75, 1], [10, 15, 30, 30]),
        ([0, 0, 1, 1], [0, 0, 40, 30]),
        ([0.1, 0.1, 0.7, 0.3], [4, 3, 28, 9]),
        ({"x": 0.7, "y": 0.1, "width": 0.3, "height": 0.9}, [28, 3, 40, 30]),
    ],
)
def test_fractions_are_of_the_image(fractions, pixels):
    for shape in ("box", "ellipse"):
        if pixels != [0, 0, 40, 30]:
            assert drawn(**{shape: fractions}) == drawn(**{shape: pixels})
    assert drawn(box=fractions).getbbox() == tuple(pixels)


@pytest.mark.parametrize("shape", [{"box": [0, 0, 1, 1]}, {"polygon": [[0, 0], [1, 0], [0, 1]]}])
def test_numbers_that_could_be_either_are_fractions_and_that_is_said(shape):
    (one,) = draw_shapes(Area.model_validate(shape), SIZE)
    assert one.notices[0].endswith("were read as fractions of the image: 1 is a whole side.")
    (plain,) = draw_shapes(Area(box=[1, 1, 2, 2]), SIZE)
    assert plain.notices == ()
    assert plain.mask.getbbox() == (1, 1, 2, 2)


@given(st.integers(4, 40), st.integers(4, 30))
def test_an_ellipse_holds_the_pixels_whose_middles_it_holds(width, height):
    ellipse = white(drawn(ellipse=[0, 0, width, height]))
    across, down = middles()
    distance = np.hypot((across - width / 2) / (width / 2), (down - height / 2) / (height / 2))
    # Pillow rounds by up to a pixel at the rim.
    rim = 1.5 / (min(width, height) / 2)
    assert ellipse[distance < 1 - rim].all()
    assert not ellipse[distance > 1 + rim].any()
    assert abs(ellipse.sum() / (np.pi * width * height / 4) - 1) < 0.2


@given(boxes)
def test_a_rectangle_given_as_a_polygon_is_the_box(numbers):
    x, y, width, height = numbers
    right, bottom = min(40, x + width), min(30, y + height)
    corners = [[x, y], [right, y], [right, bottom], [x, bottom]]
    if right > 1:
        assert drawn(polygon=corners) == drawn(box=[x, y, right, bottom])


points = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=3, max_size=9)


@given(points)
def test_a_polygon_holds_the_pixels_whose_middles_it_holds_by_the_even_odd_rule(corners):
    if max(max(corner) for corner in corners) <= 1:
        return  # fractions
    across, down = middles()
    inside = np.zeros(across.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            crosses = (down > y0) != (down > y1)
            inside ^= crosses & (across >= x0 + (down - y0) * (x1 - x0) / (y1 - y0))
    if not inside.any():
        with pytest.raises(InvalidRequestError, match="holds no pixel"):
            drawn(polygon=corners)
        return
    assert np.array_equal(white(drawn(polygon=corners)), inside)


def test_several_shapes_are_united():
    area = Area(box=[0, 0, 8, 8], ellipse=[4, 4, 20, 20], polygon=[[30, 0], [40, 0], [40, 10]])
    one, two, three = draw_shapes(area, SIZE)
    whole = united(united(one.mask, two.mask), three.mask)
    assert np.array_equal(white(whole), white(one.mask) | white(two.mask) | white(three.mask))
    assert [shape.box.size for shape in (one, two, three)] == [
        Size(8, 8), Size(16, 16), Size(10, 10),
    ]  # fmt: skip


# --- growing -----------------------------------------------------------------------------------

spots = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 39)), min_size=1, max_size=6)


@given(spots, st.integers(1, 20))
def test_a_mask_grows_to_all_that_is_as_near_as_asked(places, by_px):
    mask = np.zeros((30, 40), np.uint8)
    for place in places:
        mask[place] = 255
    down, across = np.mgrid[:30, :40]
    near = np.any([(down - y) ** 2 + (across - x) ** 2 <= by_px**2 for y, x in places], axis=0)
    assert np.array_equal(white(grown(Image.fromarray(mask), by_px)), near)
    # What a mask loses, all around it gains; beyond the image there is nothing to gain from.
    shrunk = grown(Image.fromarray(255 - mask), -by_px)
    assert np.array_equal(white(shrunk), ~near)


def test_a_soft_mask_grows_from_what_is_white_from_half_up():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (8, 1)))
    for by_px, first in ((0, 16), (3, 13), (-3, 19)):
        mask = finish_mask(ramp, grow_px=by_px)
        assert mask.changed == Rectangle(first, 0, 32 - first, 8)


# --- finishing ---------------------------------------------------------------------------------


def test_an_untouched_mask_keeps_its_pixels_and_says_what_it_covers():
    box = drawn(box=[10, 15, 30, 30])
    finished = finish_mask(box)
    assert ImageChops.difference(open_image(finished.image), box).getbbox() is None
    assert finished.touched == finished.changed == Rectangle(10, 15, 20, 15)
    assert finished.share == 0.25
    assert finished.notice == "Mask: from (10, 15) to (30, 30), 25 % of the image of 40x30."
    small = finish_mask(drawn(box=[2, 2, 3, 4]))
    assert small.notice.endswith("0.17 % of the image of 40x30.")


@pytest.mark.parametrize(
    ("sizes", "feather_px"),
    [
        ([(15, 400)], 0),
        ([(64, 40)], 2),
        ([(256, 300)], 16),
        ([(4000, 3000)], 32),
        ([(4000, 3000), (64, 40)], 2),
        ([], 0),
    ],
)
def test_the_edge_of_shapes_is_soft_by_default(sizes, feather_px):
    assert default_feather_px([Rectangle(0, 0, *size) for size in sizes]) == feather_px


def test_a_mask_is_grown_then_inverted_then_softened():
    size = Size(160, 160)
    box = drawn(size, box=[60, 60, 100, 100])
    finished = open_image(finish_mask(box, grow_px=10, invert=True, feather_px=6).image)
    hard = np.asarray(grown(box, 10)) == 0
    pixels = np.asarray(finished)
    assert pixels[80, 80] == 0
    assert pixels[0, 0] == 255
    near = white(grown(box, 16)) & ~white(grown(box, 4))
    assert np.array_equal(pixels[~near], 255 * hard[~near])
    assert (pixels[80, 44:55] > 0).all()
    assert (np.diff(pixels[80, 40:60].astype(int)) <= 0).all()


@settings(max_examples=20)
@given(st.integers(1, 16), st.booleans())
def test_feathering_fades_the_edge_and_nothing_further_away(feather_px, invert):
    mask = Image.new("L", (100, 100), 0)
    ImageDraw.Draw(mask).ellipse((30, 30, 69, 69), fill=255)
    hard = open_image(finish_mask(mask, invert=invert, feather_px=0).image)
    soft = open_image(finish_mask(mask, invert=invert, feather_px=feather_px).image)
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
    mask = drawn(box=[10, 10, 12, 12])
    with pytest.raises(InvalidRequestError, match="nothing to generate"):
        finish_mask(mask, invert=False, feather_px=40)
