import math
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.errors import InvalidSizeError
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.geometry import (
    CONTEXT_FACTOR,
    MAX_STRETCH,
    AspectRatio,
    DrawnRegion,
    Rectangle,
    Size,
    check_size,
    choose_region,
    cut_to_shape,
    fitted_region,
    nearest_legal,
    reference_size,
    size_for_image,
    size_for_ratio,
    whole_region,
)

ROWS = list(load_registry())
rows = st.sampled_from(ROWS)
sides = st.integers(1, 20_000)


@given(rows, st.builds(Size, sides, sides))
def test_the_nearest_legal_size_is_legal(spec, size):
    check_size(nearest_legal(size, spec), spec)


@given(rows, st.builds(Size, sides, sides))
def test_a_legal_size_is_its_own_nearest(spec, size):
    legal = nearest_legal(size, spec)
    assert nearest_legal(legal, spec) == legal


@given(rows, st.builds(Size, sides, sides))
def test_a_refused_size_comes_with_a_legal_one(spec, size):
    nearest = nearest_legal(size, spec)
    if size == nearest:
        check_size(size, spec)
        return
    with pytest.raises(InvalidSizeError) as refused:
        check_size(size, spec)
    assert str(nearest) in refused.value.hint


@pytest.mark.parametrize("spec", ROWS, ids=lambda spec: f"{spec.kind}-{spec.id}")
@pytest.mark.parametrize("ratio", get_args(AspectRatio))
def test_every_ratio_has_a_legal_size_near_it(spec, ratio):
    size = size_for_ratio(ratio, spec)
    check_size(size, spec)
    across, down = (int(part) for part in ratio.split(":"))
    assert size.width / size.height == pytest.approx(across / down, rel=0.15)
    assert size.pixels == pytest.approx(spec.default_pixels, rel=0.15)


@given(rows, st.builds(Size, sides, sides))
def test_an_images_size_is_always_one_that_can_be_drawn(spec, size):
    check_size(size_for_image(size, spec), spec)


@given(rows, st.builds(Size, st.integers(200, 2000), st.integers(200, 2000)))
def test_a_size_that_can_be_drawn_cheaply_is_kept(spec, size):
    drawn = size_for_image(size, spec)
    # A long image's shorter side is held at the minimum; the longer one keeps the shape.
    held = min(drawn.width, drawn.height) == spec.min_side_px
    assert held or drawn.pixels <= 1.2 * spec.default_pixels
    if size == nearest_legal(size, spec) and size.pixels <= spec.default_pixels:
        assert drawn == size


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (Size(1000, 1024), "multiples of 16"),
        (Size(128, 1024), "at least 256"),
        (Size(8192, 256), "at most 4096"),
        (Size(4096, 4096), "16,777,216 pixels"),
    ],
)
def test_a_refusal_says_why(size, why):
    with pytest.raises(InvalidSizeError, match=why):
        check_size(size, load_registry().find("text2img", "flux1-dev"))


@pytest.mark.parametrize("size", [Size(10**400, 16), Size(1, 10**30), Size(16, 10**4000)])
def test_an_absurd_size_is_refused_like_any_other(size):
    for spec in ROWS:
        with pytest.raises(InvalidSizeError):
            check_size(size, spec)


def test_a_very_long_image_keeps_its_shape_as_far_as_the_limits_allow():
    spec = load_registry().find("text2img", "flux1-dev")
    assert nearest_legal(Size(10_000, 1000), spec) == Size(4096, 416)


FITS = st.sampled_from(["pad", "crop"])

# --- regions -------------------------------------------------------------------------------------

FILL = load_registry().find("fill", "flux1-fill-dev")
KLEIN = load_registry().find("kontext", "flux2-klein-4b")
MICRO = load_registry().find("fill", "micro")


@st.composite
def masked_images(draw) -> tuple[Size, Rectangle]:
    """Images of 8 pixels to a large photograph a side, and any part of one."""
    width, height = (draw(st.integers(8, 9000)) for _ in range(2))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return Size(width, height), Rectangle(left, top, right - left, bottom - top)


@settings(max_examples=400)
@given(rows, masked_images())
def test_a_region_holds_the_mask_lies_in_the_image_and_can_be_drawn(spec, given_):
    image, box = given_
    try:
        drawn = choose_region(image, box, spec)
    except InvalidSizeError:
        # Only what is much longer than wide, where its short side is the image's own.
        longest = spec.max_side_px / spec.min_side_px
        narrow = min(image.width, image.height)
        most = min(longest, spec.default_pixels / spec.min_side_px**2)
        assert CONTEXT_FACTOR * max(box.width, box.height) + 2 > most * narrow / (2 * MAX_STRETCH)
        return
    assert drawn.region.holds(box)
    assert Rectangle(0, 0, image.width, image.height).holds(drawn.region)
    check_size(drawn.size, spec)
    assert drawn.size.pixels <= spec.default_pixels
    assert drawn.stretch <= MAX_STRETCH
    # Never enlarged but by the rounding, unless a side is shorter than any that can be drawn.
    enough = max(1.0, spec.min_side_px / min(image.width, image.height))
    for side, of in (
        (drawn.size.width, drawn.region.width),
        (drawn.size.height, drawn.region.height),
    ):
        assert side <= enough * of + spec.size_multiple


@settings(max_examples=200)
@given(rows, masked_images())
def test_a_small_mask_is_drawn_pixel_for_pixel_with_what_lies_around_it(spec, given_):
    image, box = given_
    roomy = min(image.width, image.height) >= spec.min_side_px
    small = max(box.width, box.height) * CONTEXT_FACTOR + 2 <= spec.min_side_px
    if not roomy or not small:
        return
    drawn = choose_region(image, box, spec)
    assert drawn.size == drawn.region.size
    left, top, right, bottom = drawn.region.edges
    x, y, end_x, end_y = box.edges
    # Context is only missing where the image ends, or its side is no multiple.
    lost, half = spec.size_multiple, (CONTEXT_FACTOR - 1) / 2
    across, down = box.width * half, box.height * half
    assert x - left >= min(x, across) - lost
    assert y - top >= min(y, down) - lost
    assert right - end_x >= min(image.width - end_x, across) - lost
    assert bottom - end_y >= min(image.height - end_y, down) - lost


@pytest.mark.parametrize(
    ("image", "box", "region", "size"),
    [
        pytest.param(
            Size(4000, 3000), Rectangle(2000, 1500, 1, 1),
            Rectangle(1488, 988, 1024, 1024), Size(1024, 1024), id="one pixel",
        ),
        pytest.param(
            Size(4000, 3000), Rectangle(3999, 2999, 1, 1),
            Rectangle(2976, 1976, 1024, 1024), Size(1024, 1024), id="one pixel in a corner",
        ),
        pytest.param(
            Size(4000, 3000), Rectangle(0, 0, 4000, 3000),
            Rectangle(0, 0, 4000, 3000), Size(1168, 880), id="all of it",
        ),
        pytest.param(
            Size(4000, 3000), Rectangle(100, 100, 3800, 2800),
            Rectangle(0, 0, 4000, 3000), Size(1168, 880), id="islands far from each other",
        ),
        pytest.param(
            Size(4000, 3000), Rectangle(1000, 1000, 1500, 1000),
            Rectangle(850, 900, 1800, 1200), Size(1248, 832), id="larger than the model draws",
        ),
        pytest.param(
            Size(4000, 3000), Rectangle(0, 1400, 4000, 10),
            Rectangle(0, 1277, 4000, 256), Size(4000, 256), id="a line across",
        ),
        pytest.param(
            Size(1024, 768), Rectangle(0, 0, 8, 8),
            Rectangle(0, 0, 1024, 768), Size(1024, 768), id="an image the model draws whole",
        ),
        pytest.param(
            Size(1001, 501), Rectangle(500, 250, 8, 8),
            Rectangle(8, 5, 992, 496), Size(992, 496), id="no multiples",
        ),
        pytest.param(
            Size(100, 100), Rectangle(40, 40, 8, 8),
            Rectangle(0, 0, 100, 100), Size(256, 256), id="smaller than any the model draws",
        ),
    ],
)  # fmt: skip
def test_regions_are_chosen(image, box, region, size):
    assert choose_region(image, box, FILL) == DrawnRegion(region, size)


@settings(max_examples=300)
@given(
    rows,
    st.builds(Size, st.integers(8, 9000), st.integers(8, 9000)),
    st.sampled_from(["pad", "crop"]),
)
def test_a_whole_image_is_fitted_with_its_shape_kept(spec, image, fit):
    try:
        drawn = fitted_region(image, spec, fit)
    except InvalidSizeError:
        assert max(image.width, image.height) > 2 * min(image.width, image.height)
        return
    check_size(drawn.size, spec)
    assert drawn.size.pixels <= spec.default_pixels
    whole = Rectangle(0, 0, image.width, image.height)
    outer, inner = (drawn.region, whole) if fit == "pad" else (whole, drawn.region)
    assert outer.holds(inner)
    assert drawn.stretch < 1 + 1.5 / min(drawn.region.width, drawn.region.height)
    changed = drawn.region.size.pixels / image.pixels
    assert 1 / MAX_STRETCH <= changed <= MAX_STRETCH
    if image.pixels < spec.family_spec.edit_least_pixels:
        assert drawn.size.pixels >= 0.8 * spec.default_pixels, "enlarged"
    elif (
        image.pixels < 0.7 * spec.default_pixels
        and min(image.width, image.height) >= 2 * spec.min_side_px
    ):
        assert drawn.size == drawn.region.size, "pixel for pixel"


@pytest.mark.parametrize(
    ("image", "fit", "region", "size"),
    [
        (Size(1024, 768), "pad", Rectangle(0, 0, 1024, 768), Size(1024, 768)),
        (Size(1024, 768), "crop", Rectangle(0, 0, 1024, 768), Size(1024, 768)),
        (Size(1001, 501), "pad", Rectangle(-4, -6, 1008, 512), Size(1008, 512)),
        (Size(1001, 501), "crop", Rectangle(4, 2, 992, 496), Size(992, 496)),
        (Size(100, 100), "pad", Rectangle(0, 0, 100, 100), Size(256, 256)),
        (Size(4000, 3000), "pad", Rectangle(0, -7, 4000, 3014), Size(1168, 880)),
        (Size(4000, 3000), "crop", Rectangle(9, 0, 3982, 3000), Size(1168, 880)),
        (Size(6000, 4000), "crop", Rectangle(0, 0, 6000, 4000), Size(1248, 832)),
    ],
)
def test_odd_images_are_fitted(image, fit, region, size):
    assert fitted_region(image, KLEIN, fit) == DrawnRegion(region, size)


@pytest.mark.parametrize("image", [Size(8, 8000), Size(8000, 8)])
def test_what_is_too_narrow_is_refused_but_a_piece_of_it_is_drawn(image):
    with pytest.raises(InvalidSizeError, match="too narrow"):
        whole_region(image, FILL)
    piece = choose_region(image, Rectangle(image.width // 2, image.height // 2, 1, 1), FILL)
    assert piece.stretch == 1
    assert piece.scale == 32


@given(st.builds(Size, st.integers(8, 9000), st.integers(8, 9000)), st.integers(256, 2**22))
def test_a_reference_is_read_in_multiples_within_its_pixels(image, most):
    size = reference_size(image, most)
    assert size.width % 16 == size.height % 16 == 0
    assert size.pixels <= most


@given(st.builds(Size, sides, sides), st.builds(Size, st.integers(64, 4096), st.integers(64, 4096)))
def test_a_cut_keeps_one_side_and_has_the_shape(image, shape):
    cut = cut_to_shape(image, shape)
    assert cut.width == image.width or cut.height == image.height
    assert cut.width <= image.width
    assert cut.height <= image.height
    assert math.isclose(
        cut.width * shape.height, cut.height * shape.width, abs_tol=max(shape.width, shape.height)
    )


@pytest.mark.parametrize(
    ("given", "area", "expected"),
    [
        ((128, 128), 128 * 128, (128, 128)),
        ((1024, 1024), 128 * 128, (128, 128)),
        ((64, 48), 128 * 128, (64, 48)),  # never enlarged
        ((130, 100), 256 * 256, (128, 96)),
        ((1920, 1080), 1024 * 1024, (1360, 768)),
        ((4000, 10), 128 * 128, (1024, 16)),
        ((5, 5), 128 * 128, (16, 16)),
        ((250, 250), 32 * 32, (32, 32)),
    ],
)
def test_a_reference_is_scaled_to_multiples_of_16_within_the_area(given, area, expected):
    assert reference_size(Size(*given), area) == Size(*expected)
