from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_mcp.errors import InvalidSizeError
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.geometry import (
    AspectRatio,
    Size,
    check_size,
    nearest_legal,
    size_for_image,
    size_for_ratio,
)

ROWS = list(load_registry())
rows = st.sampled_from(ROWS)
sides = st.integers(1, 20_000)


@settings(deadline=None)
@given(rows, st.builds(Size, sides, sides))
def test_the_nearest_legal_size_is_legal(spec, size):
    check_size(nearest_legal(size, spec), spec)


@settings(deadline=None)
@given(rows, st.builds(Size, sides, sides))
def test_a_legal_size_is_its_own_nearest(spec, size):
    legal = nearest_legal(size, spec)
    assert nearest_legal(legal, spec) == legal


@settings(deadline=None)
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


@settings(deadline=None)
@given(rows, st.builds(Size, sides, sides))
def test_an_images_size_is_always_one_that_can_be_drawn(spec, size):
    check_size(size_for_image(size, spec), spec)


@settings(deadline=None)
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
