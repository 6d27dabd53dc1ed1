"""The contents of an image: coloured shapes on a flat background, chosen at random.

A scene is the ground truth of an image: drawing.py draws it, captions.py describes it, judge.py
checks whether an image shows it. Places and sizes are fractions: a scene fits every canvas.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Literal

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (222, 38, 38),
        "orange": (245, 135, 30),
        "yellow": (247, 217, 45),
        "green": (40, 160, 60),
        "cyan": (60, 205, 220),
        "blue": (38, 78, 220),
        "purple": (130, 48, 170),
        "pink": (250, 150, 190),
        "white": (248, 248, 248),
        "black": (20, 20, 24),
    }
)
"""Name -> sRGB. At least 80 apart, so that the nearest name is never in doubt."""

PLACES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "center": (0.5, 0.5),
        "left": (0.26, 0.5),
        "right": (0.74, 0.5),
        "top": (0.5, 0.26),
        "bottom": (0.5, 0.74),
        "top left": (0.26, 0.26),
        "top right": (0.74, 0.26),
        "bottom left": (0.26, 0.74),
        "bottom right": (0.74, 0.74),
    }
)
"""Name -> centre, as fractions of width and height."""

Size = Literal["small", "medium", "large"]
RADII: Mapping[Size, float] = MappingProxyType({"small": 0.13, "medium": 0.22, "large": 0.37})
"""Name -> radius, as a fraction of the shorter side."""

Relation = Literal["left of", "above"]
PAIR_CENTRES: Mapping[Relation, tuple[tuple[float, float], tuple[float, float]]] = MappingProxyType(
    {"left of": ((0.27, 0.5), (0.73, 0.5)), "above": ((0.5, 0.27), (0.5, 0.73))}
)
PAIR_RADIUS = 0.19

PLACE_JITTER = 0.02
RADIUS_JITTER = 0.06
FREE_PLACE_JITTER = 0.04
"""How far from the centre a thing may be if the words do not say where. At 0.12 eight steps were
too few to decide on one place: every second cross without a place became a blot."""

HELD_OUT_SHARE = 8
"""One in this many (shape, colour, background) triples is never seen while the flow is trained."""


@dataclass(frozen=True)
class Thing:
    """One coloured shape."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    """Half the height of the shape's box, as a fraction of the image's shorter side."""
    size: Size | None = None
    """What the words say of its size, if anything."""
    place: str | None = None
    """What the words say of its place, if anything."""


@dataclass(frozen=True)
class Scene:
    """A background and up to two things on it."""

    background: str
    things: tuple[Thing, ...]
    relation: Relation | None = None
    """How the first of two things lies to the second."""

    @property
    def colours(self) -> frozenset[str]:
        """Every colour in it."""
        return frozenset({self.background, *(thing.colour for thing in self.things)})


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Whether a triple is kept for judging: decided by its words alone, so it never changes."""
    digest = hashlib.sha256(f"{shape} {colour} {background}".encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def has_held_out(scene: Scene) -> bool:
    """Whether any thing of a scene is a held-out triple."""
    return any(is_held_out(t.shape, t.colour, scene.background) for t in scene.things)


def other_colour(random: Random, used: frozenset[str]) -> str:
    """Choose a colour that is not in use."""
    return random.choice([colour for colour in COLOURS if colour not in used])


def single(random: Random) -> Scene:
    """Choose one thing; half of the scenes say where it is, half how large."""
    background = random.choice(list(COLOURS))
    colour = other_colour(random, frozenset({background}))
    place = random.choice(list(PLACES)) if random.random() < 0.55 else None
    size: Size | None = random.choice(list(RADII)) if random.random() < 0.5 else None
    if size == "large" and place not in (None, "center"):
        size = "small"  # a large thing would leave the image
    return Scene(
        background, (place_thing(random, random.choice(SHAPES), colour, place=place, size=size),)
    )


def place_thing(
    random: Random, shape: str, colour: str, *, place: str | None, size: Size | None
) -> Thing:
    """Put a thing where and as large as the words say, a little off as drawings are."""
    if size is None:
        radius = random.uniform(0.19, 0.25)
    else:
        radius = RADII[size] * random.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER)
    jitter = PLACE_JITTER if place is not None or size == "large" else FREE_PLACE_JITTER
    x, y = PLACES[place or "center"]
    x += random.uniform(-jitter, jitter)
    y += random.uniform(-jitter, jitter)
    return Thing(shape, colour, x, y, radius, size, place)


def pair(random: Random) -> Scene:
    """Choose two things beside or above each other."""
    background = random.choice(list(COLOURS))
    relation = random.choice(list(PAIR_CENTRES))
    things = []
    used = frozenset({background})
    for x, y in PAIR_CENTRES[relation]:
        colour = other_colour(random, used)
        if random.random() < 0.8:
            used |= {colour}  # else both may have the same colour
        things.append(
            Thing(
                random.choice(SHAPES),
                colour,
                x + random.uniform(-PLACE_JITTER, PLACE_JITTER),
                y + random.uniform(-PLACE_JITTER, PLACE_JITTER),
                PAIR_RADIUS * random.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER),
            )
        )
    return Scene(background, tuple(things), relation)


def empty(random: Random) -> Scene:
    """Choose a background with nothing on it."""
    return Scene(random.choice(list(COLOURS)), ())


def scene(random: Random, *, pairs: float = 0.25, empties: float = 0.04) -> Scene:
    """Choose a scene that holds no held-out triple."""
    while True:
        draw = random.random()
        if draw < empties:
            return empty(random)
        chosen = pair(random) if draw < empties + pairs else single(random)
        if not has_held_out(chosen):
            return chosen


def held_out_single(random: Random) -> Scene:
    """Choose a scene of one thing whose triple was never seen in training."""
    while True:
        chosen = single(random)
        if has_held_out(chosen):
            return chosen


def with_thing(scene_: Scene, index: int, thing: Thing) -> Scene:
    """Return the scene with one thing exchanged."""
    things = tuple(thing if i == index else old for i, old in enumerate(scene_.things))
    return replace(scene_, things=things)
