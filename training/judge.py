"""Judges whether an image matches its prompt: the scene, the edges, the unchanged parts."""

from dataclasses import dataclass
from math import dist

import cv2
import numpy as np
from numpy.typing import NDArray

from training.drawing import Pixels
from training.finding import (
    Found,
    Mask,
    background_of,
    found_things,
    place_of,
    size_of,
)
from training.scenes import COLOURS, PAIR_CENTRES, Scene, Thing

LEAST_LIKENESS = 0.75
"""Overlap (intersection over union) from which a thing is a shape at all. Measured: the smallest
things on a 64 px canvas keep 0.80 after a blur of 1.5 px, 19 of 20 things more than 0.87; half of
all random blots have less than 0.71 with every shape."""
EDGE_TOLERANCE_PX = 2
"""A quarter of a latent: what the VAE may move an edge."""
CANNY = (25, 80)
"""Lower than the server's thresholds: a drawn edge is softer than the one asked for, but there.
Orange on yellow, blurred by 2 px, has a gradient of 120; noise of deviation 4, smoothed, has 7."""
TOLERANCE = 12.0
"""Of 255, mean over the channels: what VAE and jitter may move a colour that was left alone; the
closest two names are 33 apart in this measure."""
LEAST_SHARE = 0.004
"""Of an image's pixels: the flat part of the smallest thing on a square canvas has 0.010."""
FLAT = 40
"""Largest range of a channel among neighbours in a flat part: mixed colours at edges have names of
their own (red beside yellow is orange)."""


@dataclass(frozen=True)
class Verdict:
    """Which properties of an image are right; `None` where the scene does not define them."""

    background: bool
    colour: bool | None = None
    shape: bool | None = None
    place: bool | None = None
    size: bool | None = None

    @property
    def right(self) -> bool:
        """Whether all that the scene says is right."""
        answers = (self.background, self.colour, self.shape, self.place, self.size)
        return all(answer is not False for answer in answers)


def judge(image: Pixels, scene: Scene) -> Verdict:
    """Compare an image with a scene of no, one or two things.

    Place and size are judged where the scene names them. A second thing where one was asked for
    makes the shape wrong.
    """
    if not scene.things:
        return judge_empty(image, scene.background)
    if len(scene.things) > 1:
        return judge_pair(image, scene)
    asked = scene.things[0]
    background = background_of(image) == scene.background
    found = found_things(image)
    if not found:
        return _nothing(asked, background=background)
    thing = found[0]
    return Verdict(
        background,
        colour=thing.colour == asked.colour,
        shape=len(found) == 1 and _is_shape(thing, asked.shape),
        place=None if asked.place is None else place_of(thing) == asked.place,
        size=None if asked.size is None else size_of(thing) == asked.size,
    )


def judge_empty(image: Pixels, colour: str) -> Verdict:
    """Ask for a background and nothing on it (`shape`)."""
    return Verdict(background_of(image) == colour, shape=not found_things(image))


def judge_pair(image: Pixels, scene: Scene) -> Verdict:
    """Ask for two things, each on its own side: colours, shapes, and centres in their halves."""
    relation = scene.relation or "left of"
    across = relation == "left of"
    background = background_of(image) == scene.background
    found = sorted(found_things(image), key=lambda thing: thing.x if across else thing.y)
    if len(found) != len(scene.things):
        return Verdict(background, colour=False, shape=False, place=False)
    both = list(zip(found, scene.things, strict=True))
    # A quarter of the way to the other: nearer to its own place than to the middle.
    (x0, y0), (x1, y1) = PAIR_CENTRES[relation]
    near = dist((x0, y0), (x1, y1)) / 4
    return Verdict(
        background,
        colour=all(thing.colour == asked.colour for thing, asked in both),
        shape=all(_is_shape(thing, asked.shape) for thing, asked in both),
        place=all(dist((thing.x, thing.y), (asked.x, asked.y)) < near for thing, asked in both),
    )


def _is_shape(thing: Found, shape: str) -> bool:
    return thing.shape == shape and thing.likeness >= LEAST_LIKENESS


def _nothing(asked: Thing, *, background: bool) -> Verdict:
    return Verdict(
        background,
        colour=False,
        shape=False,
        place=None if asked.place is None else False,
        size=None if asked.size is None else False,
    )


def edge_f1(image: Pixels, edges: Pixels, tolerance_px: float = EDGE_TOLERANCE_PX) -> float:
    """Return how well an image's edges are those asked for (white on black), 0 to 1.

    The harmonic mean of the shares of drawn edges that were asked for and of asked ones drawn.
    """
    drawn = cv2.Canny(cv2.GaussianBlur(image, (3, 3), 0), *CANNY) > 0
    asked = edges[:, :, 0] >= 128
    if not drawn.any() or not asked.any():
        return float(drawn.any() == asked.any())
    precision = (_distance_to(asked)[drawn] <= tolerance_px).mean()
    recall = (_distance_to(drawn)[asked] <= tolerance_px).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _distance_to(mask: Mask) -> NDArray[np.float32]:
    distance: NDArray[np.float32] = cv2.distanceTransform(
        (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return distance


def untouched(
    before: Pixels, after: Pixels, may_change: Mask, tolerance: float = TOLERANCE
) -> float:
    """Return the share of pixels outside the mask whose colour stayed; 1 if there is no outside."""
    moved = np.abs(before.astype(np.float32) - after.astype(np.float32)).mean(axis=2)
    outside = moved[~may_change]
    return float((outside <= tolerance).mean()) if outside.size else 1.0


def colours_in(image: Pixels, least_share: float = LEAST_SHARE) -> frozenset[str]:
    """Return the names of the colours that fill at least such a share, mixed edges left out."""
    palette = np.array(list(COLOURS.values()), np.float32)
    smooth = cv2.GaussianBlur(image, (3, 3), 0)
    square = np.ones((3, 3), np.uint8)
    flat = (cv2.dilate(smooth, square) - cv2.erode(smooth, square)).max(axis=2) <= FLAT
    colours = smooth[flat].astype(np.float32)
    nearest = ((colours[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(COLOURS)) / flat.size
    return frozenset(
        name for name, share in zip(COLOURS, shares, strict=True) if share >= least_share
    )
