"""The requests to a pipeline, and how the server composites the result of fill."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.drawing import Pixels

SIDE_PX = 128
"""The canvas of almost half of the training images."""


@dataclass(frozen=True)
class Ask:
    """One image to generate."""

    prompt: str
    seed: int
    width_px: int = SIDE_PX
    height_px: int = SIDE_PX
    given: Pixels | None = None
    """kontext: the image before; fill: the image to complete; control: the structure."""
    mask: NDArray[np.uint8] | None = None
    """fill: (height, width), 255 where the image is inpainted."""
    references: tuple[tuple[Pixels, float], ...] = ()
    """redux: images and their weights."""


def composite(original: Pixels, drawn: Pixels, mask: NDArray[np.uint8]) -> Pixels:
    """Put the generated part into the original, as the server does after fill."""
    whole = Image.composite(
        Image.fromarray(drawn), Image.fromarray(original), Image.fromarray(mask)
    )
    return np.asarray(whole)
