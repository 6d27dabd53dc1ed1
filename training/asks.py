"""What a pipeline is asked to draw, and what the server makes of fill's answer. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.drawing import Pixels

SIDE_PX = 128
"""Of the canvas that almost half of the training pictures have."""


@dataclass(frozen=True)
class Ask:
    """One picture to draw."""

    prompt: str
    seed: int
    width_px: int = SIDE_PX
    height_px: int = SIDE_PX
    given: Pixels | None = None
    """kontext: the picture before; fill: the picture to complete; control: the structure."""
    mask: NDArray[np.uint8] | None = None
    """fill: (height, width), 255 where the picture is drawn anew."""
    references: tuple[tuple[Pixels, float], ...] = ()
    """redux: pictures and their weights."""


def composite(original: Pixels, drawn: Pixels, mask: NDArray[np.uint8]) -> Pixels:
    """Put the drawn part into the original, as the server does after fill."""
    whole = Image.composite(
        Image.fromarray(drawn), Image.fromarray(original), Image.fromarray(mask)
    )
    return np.asarray(whole)
