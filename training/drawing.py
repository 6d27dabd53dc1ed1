"""Scenes -> pixels: antialiased polygons by OpenCV.

Every shape is a row of outlines in a box from -1 to 1, x to the right, y down.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from random import Random
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenes import COLOURS, Scene, Thing

Points = NDArray[np.float64]
"""(n, 2): x and y."""
Pixels = NDArray[np.uint8]
"""(height, width, 3), sRGB."""

_SUBPIXEL_BITS = 6
COLOUR_JITTER = 5
"""Standard deviation, of 255: painted colours are never quite the same."""


def _round(radius: float) -> Points:
    turn = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius


def _spikes(outer: float, inner: float, count: int) -> Points:
    turn = np.arange(2 * count) * math.pi / count - math.pi / 2
    radius = np.where(np.arange(2 * count) % 2 == 0, outer, inner)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius[:, None]


def _heart() -> Points:
    """Trace the classic curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    t = np.linspace(0, 2 * math.pi, 80, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    y -= (y.max() + y.min()) / 2
    return np.stack([x, y], axis=1) / 16.5


def _cross(arm: float) -> Points:
    a, b = arm, 0.95
    return np.array(
        [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
         (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    )  # fmt: skip


_OUTLINES: Mapping[str, Callable[[], tuple[Points, ...]]] = MappingProxyType(
    {
        "circle": lambda: (_round(0.95),),
        "square": lambda: (np.array([(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]),),
        "triangle": lambda: (np.array([(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)]),),
        "star": lambda: (_spikes(1.08, 0.45, 5),),
        "heart": lambda: (_heart(),),
        "diamond": lambda: (np.array([(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)]),),
        "cross": lambda: (_cross(0.33),),
        "ring": lambda: (_round(0.95), _round(0.52)),  # even-odd: the second is the hole
    }
)


@lru_cache
def outlines(shape: str) -> tuple[Points, ...]:
    """Return a shape's outlines in the unit box."""
    return _OUTLINES[shape]()


def coverage(thing: Thing, width_px: int, height_px: int, turn: float = 0.0) -> NDArray[np.float32]:
    """Return (height, width) from 0 to 1: how much of each pixel the thing covers."""
    scale = thing.radius * min(width_px, height_px)
    centre = np.array([thing.x * width_px, thing.y * height_px]) - 0.5
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    contours = [
        np.round((points @ rotation * scale + centre) * 2**_SUBPIXEL_BITS).astype(np.int32)
        for points in outlines(thing.shape)
    ]
    mask = np.zeros((height_px, width_px), np.uint8)
    cv2.fillPoly(mask, contours, 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def paint(random: Random, colour: str) -> NDArray[np.float32]:
    """Return (3,) from 0 to 255: a colour, a little off."""
    exact = np.array(COLOURS[colour], np.float32)
    jitter = np.array([random.gauss(0, COLOUR_JITTER) for _ in range(3)], np.float32)
    return np.clip(exact + jitter, 0, 255)


def draw(scene: Scene, width_px: int, height_px: int, random: Random | None = None) -> Pixels:
    """Draw a scene; with `random`, its colours a little off.

    The same `random` state gives the same colours for the same names: what an edit leaves alone
    stays as it was.
    """
    paints = {name: np.array(rgb, np.float32) for name, rgb in COLOURS.items()}
    if random is not None:
        paints = {name: paint(random, name) for name in COLOURS}
    image = np.empty((height_px, width_px, 3), np.float32)
    image[:] = paints[scene.background]
    for thing in scene.things:
        cover = coverage(thing, width_px, height_px)[:, :, None]
        image = image * (1 - cover) + paints[thing.colour] * cover
    return image.round().astype(np.uint8)


def depth(scene: Scene, width_px: int, height_px: int, random: Random) -> Pixels:
    """Draw how near things are, as depth estimators do: white is near, the background dark."""
    far = random.uniform(0, 60)
    image = np.full((height_px, width_px), far, np.float32)
    for thing in scene.things:
        cover = coverage(thing, width_px, height_px)
        image = image * (1 - cover) + random.uniform(150, 255) * cover
    return np.repeat(image.round().astype(np.uint8)[:, :, None], 3, axis=2)


FAR, NEAR = 0.1, 1.0
"""How near a background and the largest thing are."""
NEAREST_SMALL = 0.45
"""How near the smallest thing is."""
_SMALL_RADIUS, _LARGE_RADIUS = 0.12, 0.38


def nearness(scene: Scene, width_px: int, height_px: int) -> NDArray[np.float32]:
    """Return (height, width): how near each pixel is, read from the image alone.

    The larger a thing is, the nearer; the background is far.
    """
    image = np.full((height_px, width_px), FAR, np.float32)
    for thing in scene.things:
        cover = coverage(thing, width_px, height_px)
        share = (thing.radius - _SMALL_RADIUS) / (_LARGE_RADIUS - _SMALL_RADIUS)
        near = NEAREST_SMALL + (NEAR - NEAREST_SMALL) * min(1.0, max(0.0, share))
        image = image * (1 - cover) + np.float32(near) * cover
    return image


def anything(random: Random, width_px: int, height_px: int) -> Pixels:
    """Draw an image of no scene at all: ramps, stripes, turned shapes in any colour.

    The VAE must encode images of users, not only those the transformers generate.
    """
    noise = np.random.default_rng(random.getrandbits(32))
    corners = noise.uniform(0, 255, (2, 2, 3)).astype(np.float32)
    if random.random() < 0.5:
        corners[:] = corners[0, 0]
    image = cv2.resize(corners, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.3:
        rough = noise.normal(0, random.uniform(5, 40), (6, 6, 3)).astype(np.float32)
        image += cv2.resize(rough, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    for _ in range(random.randrange(5)):
        thing = Thing(
            random.choice(list(_OUTLINES)), "", random.random(), random.random(),
            random.uniform(0.06, 0.45),
        )  # fmt: skip
        cover = coverage(thing, width_px, height_px, random.uniform(0, 2 * math.pi))[:, :, None]
        colour = noise.uniform(0, 255, 3).astype(np.float32)
        if random.random() < 0.3:
            cover = cover * stripes(random, width_px, height_px)[:, :, None]
        image = image * (1 - cover) + colour * cover
    return np.clip(image, 0, 255).round().astype(np.uint8)


def stripes(random: Random, width_px: int, height_px: int) -> NDArray[np.float32]:
    """Return (height, width) from 0 to 1: parallel bands in some direction."""
    turn = random.uniform(0, math.pi)
    period = random.uniform(8, 24)
    y, x = np.mgrid[:height_px, :width_px].astype(np.float32)
    along = (x * math.cos(turn) + y * math.sin(turn)) / period
    wave = np.abs((along % 1) - 0.5) * 2
    return np.clip((wave - 0.5) * period / 2 + 0.5, 0, 1).astype(np.float32)


def edges(image: Pixels) -> Pixels:
    """Return white edges on black, as the server makes them for the control kind."""
    lines = cv2.Canny(image, 50, 200)
    return np.repeat(np.asarray(lines, np.uint8)[:, :, None], 3, axis=2)
