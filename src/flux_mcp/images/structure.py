"""Edges of an image, as the canny models follow them, with thresholds that fit the image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_mcp.requests.schemas import MAX_GRADIENT

LEAST_HIGH = 24
"""What is flatter than this is noise of compression and sensors, whatever the image."""
_LOW_SHARE = 0.5


@dataclass(frozen=True)
class Thresholds:
    """Gradients, in OpenCV's units: an edge begins at `high` and is followed down to `low`."""

    low: int
    high: int


@dataclass(frozen=True)
class Edges:
    """The edges of an image."""

    image: Image.Image
    """RGB: white lines of one pixel on black."""
    thresholds: Thresholds
    share: float
    """Of the pixels that are on an edge."""


def canny(image: Image.Image, low: int | None = None, high: int | None = None) -> Edges:
    """Return the edges of an RGB image in its own size.

    Args:
        image: Scaled to what will be drawn: lines are one pixel wide.
        low: As `Thresholds`; left out, half of `high`.
        high: As `Thresholds`; left out, twice `low`, and without that chosen for the image.
    """
    import cv2  # noqa: PLC0415 - few requests have a structure

    pixels = np.asarray(image.convert("RGB"))
    thresholds = _thresholds(pixels, low, high)
    lines = np.asarray(cv2.Canny(pixels, thresholds.low, thresholds.high), dtype=np.uint8)
    share = float(np.count_nonzero(lines) / lines.size)
    return Edges(Image.fromarray(lines).convert("RGB"), thresholds, share)


def _thresholds(pixels: NDArray[np.uint8], low: int | None, high: int | None) -> Thresholds:
    if high is None:
        high = _steep(pixels) if low is None else min(2 * low, MAX_GRADIENT)
    return Thresholds(round(high * _LOW_SHARE) if low is None else low, high)


def _steep(pixels: NDArray[np.uint8]) -> int:
    """Return the gradient that best parts an image's steep pixels from its flat ones (Otsu).

    Otsu's rule on the gradients themselves, not on grey levels: those, and their median, follow the
    brightness of an image, which says nothing of how steep its edges are.
    """
    counts = np.bincount(_gradients(pixels).ravel(), minlength=MAX_GRADIENT + 1)
    levels = np.arange(len(counts), dtype=np.float64)
    below = np.cumsum(counts) / counts.sum()
    mean_below = np.cumsum(counts * levels) / counts.sum()
    inside = (below > 0) & (below < 1)
    spread = np.zeros(len(counts))
    np.divide(
        (mean_below[-1] * below - mean_below) ** 2, below * (1 - below), out=spread, where=inside
    )
    return max(LEAST_HIGH, int(np.argmax(spread)) + 1)


def _gradients(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the gradient of each pixel as `cv2.Canny` sees it: of its steepest channel."""
    import cv2  # noqa: PLC0415 - as above

    steepest: Any = None
    for channel in range(pixels.shape[2]):
        plane = np.ascontiguousarray(pixels[:, :, channel])
        border = cv2.BORDER_REPLICATE
        across = cv2.Sobel(plane, cv2.CV_16S, 1, 0, borderType=border)
        down = cv2.Sobel(plane, cv2.CV_16S, 0, 1, borderType=border)
        gradient = np.abs(across) + np.abs(down)
        steepest = gradient if steepest is None else np.maximum(steepest, gradient)
    found: NDArray[np.int16] = steepest
    return found
