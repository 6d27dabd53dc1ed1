import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_mcp.errors import InvalidImageError, InvalidRequestError
from flux_mcp.images.decoding import open_image
from flux_mcp.images.masks import finish_mask
from flux_mcp.images.outpainting import LargerCanvas, extended, larger_canvas, placed
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.mask_arguments import Outpaint

IMAGE = Size(600, 400)
MOST = 10_000_000


def canvas(asked: object, image: Size = IMAGE, most: int = MOST) -> LargerCanvas:
    return larger_canvas(Outpaint.model_validate(asked), image, most)


@pytest.mark.parametrize(
    ("asked", "size", "place"),
    [
        ({"left": 128}, (728, 400), (128, 0)),
        ({"left": 0.5, "bottom": 1}, (900, 800), (300, 0)),
        ("top=64, right=32px", (632, 464), (0, 64)),
        ("16:9", (712, 400), (56, 0)),
        ("16:9 left", (712, 400), (0, 0)),
        ({"aspect_ratio": "16:9", "anchor": "right"}, (712, 400), (112, 0)),
        ("1:1", (600, 600), (0, 100)),
        ("1:1 bottom", (600, 600), (0, 200)),
    ],
)
def test_a_canvas_holds_the_image_where_it_is_asked_for(asked, size, place):
    found = canvas(asked)
    assert (found.size, found.place) == (Size(*size), Rectangle(*place, 600, 400))
    assert found.notice.startswith(f"The image of 600x400 becomes {size[0]}x{size[1]}: ")


@given(st.integers(8, 5000), st.integers(8, 5000), st.integers(1, 99), st.integers(1, 99))
def test_a_canvas_of_a_shape_is_the_smallest_that_holds_the_image(width, height, across, down):
    image = Size(width, height)
    try:
        found = canvas(f"{across}:{down}", image, 10**12)
    except InvalidRequestError:
        wanted = max(width - height * across / down, height - width * down / across, 0)
        missing = max(height * across / down - width, width * down / across - height)
        assert missing <= 16, wanted
        return
    size = found.size
    assert (size.width == width) != (size.height == height)
    assert Rectangle(0, 0, size.width, size.height).holds(found.place)
    off = (size.width - size.height * across / down, size.height - size.width * down / across)
    assert min(map(abs, off)) < 1


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ("3:2", InvalidRequestError, "600x400 is 3:2 already: there is nothing to add"),
        ("16:9 top", InvalidRequestError, "only wider than the image"),
        ("1:1 right", InvalidRequestError, "anchor is then top, center or bottom"),
        ({"left": 0.0001}, InvalidRequestError, "smaller than a pixel"),
        ({"left": 1_000_000}, InvalidImageError, "more than 10,000,000 pixels"),
        ("999:1", InvalidImageError, "more than 10,000,000 pixels"),
    ],
)
def test_a_canvas_that_cannot_be_is_refused(asked, error, says):
    with pytest.raises(error) as refused:
        canvas(asked, most=MOST)
    assert says in str(refused.value)


def test_an_image_that_was_generated_in_a_shape_has_it_already():
    with pytest.raises(InvalidRequestError, match="1360x768 is 16:9 already, but for 6 px"):
        canvas("16:9", Size(1360, 768))


margins = st.integers(0, 40)


@given(margins, margins, margins, margins)
def test_the_margin_repeats_the_outermost_pixels_and_is_masked(left, top, right, bottom):
    if not (left or top or right or bottom) or max(left, top, right, bottom) <= 1:
        return
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    given_margins = {"left": left, "top": top, "right": right, "bottom": bottom}
    asked = canvas(given_margins, Size(30, 20))
    assert asked.margins == (left, top, right, bottom)
    whole = np.asarray(extended(Image.fromarray(pixels), asked))
    assert np.array_equal(whole, np.pad(pixels, ((top, bottom), (left, right), (0, 0)), "edge"))
    mask = np.asarray(placed(Image.new("L", (30, 20), 0), asked))
    kept = np.pad(np.ones((20, 30), bool), ((top, bottom), (left, right)))
    assert np.array_equal(mask == 0, kept)
    assert set(np.unique(mask)) <= {0, 255}
    strips = np.zeros(mask.shape, bool)
    for strip in asked.strips:
        x0, y0, x1, y1 = strip.edges
        strips[y0:y1, x0:x1] = True
    assert np.array_equal(strips, ~kept)


def test_beyond_the_feather_the_image_stays_and_the_margin_is_all_new():
    asked = canvas({"right": 128, "top": 64})
    mask = finish_mask(placed(Image.new("L", (600, 400), 0), asked), feather_px=8)
    pixels = np.asarray(open_image(mask.image))
    assert (pixels[64 + 8 :, : 600 - 8] == 0).all()
    assert (pixels[: 64 - 8] == 255).all()
    assert (pixels[:, 600 + 8 :] == 255).all()
    assert mask.changed == Rectangle(0, 0, 728, 464)
