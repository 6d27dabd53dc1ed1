"""Structure pictures for the control kind, made from ordinary pictures. Pure; OpenCV only."""

import numpy as np
from PIL import Image

CANNY_LOW = 50
CANNY_HIGH = 200
"""Thresholds the FLUX.1 canny weights were made for: `CannyImageEncoder(min_t=50, max_t=200)` in
black-forest-labs/flux, and the docstring of FluxControlPipeline in diffusers 0.42.1."""


def canny(picture: Image.Image) -> Image.Image:
    """Return the edges of an RGB picture: RGB of the same size, white lines on black."""
    import cv2

    edges = cv2.Canny(np.asarray(picture.convert("RGB")), CANNY_LOW, CANNY_HIGH)
    return Image.fromarray(np.asarray(edges, dtype=np.uint8)).convert("RGB")
