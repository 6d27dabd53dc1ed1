"""Finds the things in an image by plain image analysis.

A region of another colour than the border is a thing; its shape is the one whose drawing overlaps
it best. Soft edges, a little noise and slightly wrong colours do not matter.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import dist, log, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from training import drawing
from training.drawing import Pixels
from training.scenes import COLOURS, PLACES, RADII, SHAPES, Thing

Mask = NDArray[np.bool_]
"""(height, width)."""

BORDER_PX = 2
"""Width of the frame whose median is the background: things reach it in a few places only."""
LEAST_DIFFERENCE = 42.0
"""How far (of 441) a colour must be from the background to be a thing: half of the 83 between
orange and yellow, the two closest names."""
EDGE_WINDOW_PX = 7
"""Where a thing meets the background, its outline lies halfway between the two colours; so wide
an edge is after a blur of 1 to 2 px."""
MOST_DRIFT = 80.0
"""How far (of 441) a colour may be from its name: as far as the two closest names are from each
other. Grey is 138 from the nearest and has no name."""
LEAST_AREA = 0.006
"""Of the shorter side squared, 10 by 10 px of 128: less is a speck. The smallest thing, a small
star, has 0.021."""
REACH_PX = 3
"""How far around its core a thing's soft edge is looked at."""
DEPTH_PX, DEPTH_SHARE = 3.0, 0.6
"""A thing's colour is taken this far inside, or at this share of its depth where it is thin: edges
are mixed with the background."""
STEEPEN = 2.0
"""Soft edges are made this much harder before they are compared with a drawing's hard ones."""
CANDIDATES = 3
"""Shapes that are fitted closely, best first."""
SHIFT_STEP_PX, SCALE_STEP = 0.5, 0.03
"""How finely a drawing is fitted: half a pixel, and about as much at the rim of a thing."""
FIT_ROUNDS = 6


@dataclass(frozen=True)
class Found:
    """A thing in an image; places and sizes as in scenes.Thing."""

    shape: str
    """The most like it; see `likeness`."""
    colour: str | None
    """`None` if it is like no colour of the palette."""
    x: float
    y: float
    radius: float
    likeness: float
    """0 to 1: how much of it and of the shape's drawing overlap."""


def place_of(thing: Found) -> str:
    """Return the nearest name of its place."""
    return min(PLACES, key=lambda name: dist(PLACES[name], (thing.x, thing.y)))


def size_of(thing: Found) -> str:
    """Return the nearest name of its size, by ratio."""
    return min(RADII, key=lambda name: abs(log(thing.radius / RADII[name])))


def colour_name(rgb: NDArray[np.floating]) -> str | None:
    """Return the nearest colour's name, or `None` if it is like none."""
    drifts = {name: dist(exact, rgb.tolist()) for name, exact in COLOURS.items()}
    nearest = min(drifts, key=drifts.__getitem__)
    return nearest if drifts[nearest] <= MOST_DRIFT else None


def colour_under(image: Pixels, mask: Mask) -> str | None:
    """Return the name of the median colour where the mask is true, `None` if it has no name."""
    return colour_name(np.median(image[mask], axis=0)) if mask.any() else None


def background_of(image: Pixels) -> str | None:
    """Return the name of the border's median colour."""
    return colour_name(_border(image))


def found_thing(image: Pixels) -> Found | None:
    """Return the biggest thing, or `None` if there is only background."""
    return next(iter(found_things(image)), None)


def found_things(image: Pixels) -> tuple[Found, ...]:
    """Return everything on the background that is no speck, the biggest first."""
    colours = cv2.GaussianBlur(image, (3, 3), 0).astype(np.float32)
    background = _border(image)
    difference = np.linalg.norm(colours - background, axis=2).astype(np.float32)
    nearby = cv2.dilate(difference, np.ones((EDGE_WINDOW_PX, EDGE_WINDOW_PX), np.uint8))
    core = difference > np.maximum(LEAST_DIFFERENCE, nearby / 2)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(core.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    least = LEAST_AREA * min(core.shape) ** 2
    order = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i] >= least]
    return tuple(_measure(colours, background, core, labels == i + 1) for i in order)


def _border(image: Pixels) -> NDArray[np.float64]:
    frame = np.ones(image.shape[:2], bool)
    frame[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    median: NDArray[np.float64] = np.median(image[frame], axis=0)
    return median


def _measure(
    colours: NDArray[np.float32], background: NDArray[np.float64], core: Mask, own: Mask
) -> Found:
    """Name a thing's colour, cut it out along its soft edge, and fit the shapes to it."""
    depth = cv2.distanceTransform(np.pad(own, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    inside = depth >= min(DEPTH_PX, DEPTH_SHARE * depth.max())
    colour = np.median(colours[inside], axis=0)
    towards = colour - background
    cover = (colours - background) @ (towards / (towards @ towards))
    cover = np.clip((cover - 0.5) * STEEPEN + 0.5, 0, 1)
    side = 2 * REACH_PX + 1
    reach = cv2.dilate(own.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    cover[~reach | (core & ~own)] = 0
    height, width = cover.shape
    left, top, box_width, box_height = cv2.boundingRect((cover > 0).astype(np.uint8))
    cut = cover[top : top + box_height, left : left + box_width].astype(np.float32)
    shape, (x, y, radius), likeness = _fit(cut)
    return Found(
        shape,
        colour_name(colour),
        (left + x) / width,
        (top + y) / height,
        radius / min(width, height),
        likeness,
    )


_Fit = tuple[float, float, float]
"""Centre and radius in px."""


def _fit(cut: NDArray[np.float32]) -> tuple[str, _Fit, float]:
    """Return the shape whose drawing overlaps best, how it lies, and the overlap.

    Every shape begins with the centroid of what was found, and once with its area (as large after
    a blur as before), once with its height (as large when a hole closes). The best few are then
    moved and scaled.
    """
    area = float(cut.sum())
    y, x = np.mgrid[: cut.shape[0], : cut.shape[1]] + 0.5
    centroid = float((x * cut).sum()) / area, float((y * cut).sum()) / area
    height = np.count_nonzero(cut.max(axis=1) > 0.5)
    starts = []
    for shape in SHAPES:
        unit = _unit(shape)
        start = max(
            (_overlap(cut, shape, fit), fit)
            for radius in (sqrt(area / unit.area), height / unit.height)
            for fit in [(centroid[0] - unit.x * radius, centroid[1] - unit.y * radius, radius)]
        )
        starts.append((start[0], shape, start[1]))
    starts.sort(key=lambda start: -start[0])
    refined = (_refine(cut, *start) for start in starts[:CANDIDATES])
    likeness, shape, fit = max(refined, key=lambda start: start[0])
    return shape, fit, likeness


def _refine(
    cut: NDArray[np.float32], likeness: float, shape: str, fit: _Fit
) -> tuple[float, str, _Fit]:
    for _ in range(FIT_ROUNDS):
        x, y, radius = fit
        step, grown = SHIFT_STEP_PX, 1 + SCALE_STEP
        tries: list[_Fit] = [
            (x - step, y, radius), (x + step, y, radius), (x, y - step, radius),
            (x, y + step, radius), (x, y, radius * grown), (x, y, radius / grown),
        ]  # fmt: skip
        best, moved = max((_overlap(cut, shape, attempt), attempt) for attempt in tries)
        if best <= likeness:
            break
        likeness, fit = best, moved
    return likeness, shape, fit


def _overlap(cut: NDArray[np.float32], shape: str, fit: _Fit) -> float:
    """Return intersection over union of soft masks, counting also what lies beyond the cut."""
    x, y, radius = fit
    height, width = cut.shape
    thing = Thing(shape, "", x / width, y / height, radius / min(width, height))
    drawn = drawing.coverage(thing, width, height)
    return float(np.minimum(cut, drawn).sum() / np.maximum(cut, drawn).sum())


@dataclass(frozen=True)
class _Unit:
    """A shape drawn with radius 1: how large it is and where its centroid lies."""

    area: float
    height: float
    x: float
    y: float


@lru_cache
def _unit(shape: str) -> _Unit:
    side, radius = 512, 200.0
    cover = drawing.coverage(Thing(shape, "", 0.5, 0.5, radius / side), side, side)
    y, x = (np.mgrid[:side, :side] + 0.5 - side / 2) / radius
    total = float(cover.sum())
    points = drawing.outlines(shape)[0]
    return _Unit(
        total / radius**2,
        float(np.ptp(points[:, 1])),
        float((x * cover).sum()) / total,
        float((y * cover).sum()) / total,
    )
