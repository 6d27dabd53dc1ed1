import numpy as np
import pytest
from PIL import Image

from flux_mcp.images.masks import draw_shapes
from flux_mcp.images.overlays import TINT, draw_overlay
from flux_mcp.requests.geometry import Size
from flux_mcp.requests.mask_arguments import Area


def overlay(size: Size, longest_px: int, grey: int = 100, **shape: object) -> np.ndarray:
    (drawn,) = draw_shapes(Area.model_validate(shape), size)
    image = Image.new("RGB", (size.width, size.height), (grey, grey, grey))
    return np.asarray(draw_overlay(image, drawn.mask, longest_px)).astype(int)


def test_what_is_masked_is_tinted_and_outlined_and_the_rest_as_it_was():
    seen = overlay(Size(100, 60), 512, box=[20, 10, 60, 50])
    assert seen.shape == (60, 100, 3)
    assert (seen[30, 40] == [round(100 + 0.45 * (part - 100)) for part in TINT]).all()
    assert (seen[0:9] == 100).all()
    assert (seen[:, 61:] == 100).all()
    assert (seen[30, 20] == 255).all(), "the inner line"
    assert (seen[30, 19] == 0).all(), "the outer line"


@pytest.mark.parametrize("size", [Size(4000, 3000), Size(3000, 4000), Size(5000, 9)])
def test_it_is_small_and_a_thin_line_is_seen(size):
    line = [size.width // 2, 0, size.width // 2 + 1, size.height]
    seen = overlay(size, 512, box=line)
    height, width, _ = seen.shape
    assert max(width, height) == 512
    assert abs(width / height - size.width / size.height) < 0.01 * size.width / size.height or (
        height == 1
    )
    assert (seen != 100).any()
    assert (seen[:, : width // 2 - 4] == 100).all()
