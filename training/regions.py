"""Words for a part of an image -> the mask of what they name: "the red circle", "the background".

A region says what it asks for, attribute by attribute; which pixels that is, a scene decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from training import drawing, scenes
from training.captions import GROUNDS, NOUNS, PLACE_WORDS, SIZE_WORDS
from training.scenes import COLOURS, PLACES, RADII, SHAPES, Scene, Size, Thing

Cover = NDArray[np.float32]
"""(height, width) from 0 to 1."""

NOBODY = ("cat", "dog", "robot", "house", "tree", "sun", "moon", "sky", "car", "man", "flower")
"""Nouns of what no drawing shows."""
_ANY_NOUN = ("one", "one", "thing", "shape", "object")
_SMALL_BELOW, _LARGE_ABOVE = 0.155, 0.3
"""Radii between those of `scenes.RADII`, and none of a drawing is near them."""
_SIDE = 0.4
"""A thing is on the left if its centre is in this share of the width, and so on."""


@dataclass(frozen=True)
class Region:
    """What words ask for; `None` where they say nothing."""

    shape: str | None = None
    colour: str | None = None
    size: Size | None = None
    place: str | None = None
    what: str = "things"
    """`things` that have all attributes, the `ground` (of that colour), every pixel of a `colour`,
    or `nobody`: what no drawing shows."""

    @property
    def kind(self) -> str:
        """The name of the measure: what distinguishes the region."""
        if self.what != "things":
            return {"ground": "background", "colour": "everything of a colour"}.get(
                self.what, self.what
            )
        said = [name for name in ("size", "place", "colour", "shape") if getattr(self, name)]
        return " and ".join(said) or "all things"


def size_of(thing: Thing) -> Size:
    """Return the word for how large a thing is."""
    if thing.radius < _SMALL_BELOW:
        return "small"
    return "large" if thing.radius > _LARGE_ABOVE else "medium"


def lies(thing: Thing, place: str) -> bool:
    """Whether the words for a place fit: what is at the top left is also on the left."""
    sides = {
        "left": thing.x < _SIDE,
        "right": thing.x > 1 - _SIDE,
        "top": thing.y < _SIDE,
        "bottom": thing.y > 1 - _SIDE,
    }
    if place == "center":
        return not any(sides.values())
    return all(sides[word] for word in place.split())


def place_of(thing: Thing) -> str:
    """Return the most exact word for where a thing is."""
    return max((place for place in PLACES if lies(thing, place)), key=len)


def names(region: Region, thing: Thing) -> bool:
    """Whether a region asks for a thing."""
    return (
        region.what == "things"
        and region.shape in (None, thing.shape)
        and region.colour in (None, thing.colour)
        and region.size in (None, size_of(thing))
        and (region.place is None or lies(thing, region.place))
    )


def covers(scene: Scene, width_px: int, height_px: int) -> list[Cover]:
    """Return what is seen of each thing, and of the background last."""
    seen: list[Cover] = []
    free = np.ones((height_px, width_px), np.float32)
    for thing in reversed(scene.things):  # the last is in front
        whole = drawing.coverage(thing, width_px, height_px)
        seen.append(whole * free)
        free = free * (1 - whole)
    return [*reversed(seen), free]


def mask(region: Region, scene: Scene, parts: Sequence[Cover]) -> Cover:
    """Return how much of each pixel a region takes; `parts` are the scene's `covers`."""
    *things, ground = parts
    taken: Cover = np.zeros_like(ground)
    for thing, part in zip(scene.things, things, strict=True):
        of_colour = region.what == "colour" and thing.colour == region.colour
        if of_colour or names(region, thing):
            taken = taken + part
    if region.what in ("ground", "colour") and region.colour in (None, scene.background):
        taken = taken + ground
    return taken


def crowd(random: Random) -> Scene:
    """Choose two to four things that share colours and shapes, so that words must be read."""
    background = random.choice(list(COLOURS))
    colours = random.sample([colour for colour in COLOURS if colour != background], 3)
    shapes = random.sample(SHAPES, 3)
    things: list[Thing] = []
    wanted = random.randint(2, 4)
    for place in random.sample(list(PLACES), len(PLACES)):
        size: Size = random.choice(("small", "small", "medium"))
        thing = scenes.place_thing(
            random, random.choice(shapes), random.choice(colours), place=place, size=size
        )
        apart = all(
            np.hypot(thing.x - other.x, thing.y - other.y) > thing.radius + other.radius
            for other in things
        )
        if apart or random.random() < 0.1:  # a few lie over others
            things.append(thing)
        if len(things) == wanted:
            break
    return Scene(background, tuple(things))


def scene(random: Random, *, crowds: float = 0.5) -> Scene:
    """Choose a scene that holds no held-out triple."""
    while True:
        chosen = crowd(random) if random.random() < crowds else scenes.scene(random)
        if not scenes.has_held_out(chosen):
            return chosen


def held_out(random: Random, *, crowds: float = 0.5) -> Scene:
    """Choose a scene with a triple that no training has seen."""
    while True:
        crowded = random.random() < crowds
        one = scenes.pair if random.random() < 0.3 else scenes.single
        chosen = crowd(random) if crowded else one(random)
        if scenes.has_held_out(chosen):
            return chosen


def region(random: Random, scene_: Scene) -> Region:
    """Choose what to ask for: mostly something the scene has, sometimes what it nearly has."""
    lot = random.random()
    if lot < 0.06:
        right = random.random() < 0.5
        colour = random.choice([None, scene_.background if right else _colour(random)])
        return Region(colour=colour, what="ground")
    if lot < 0.12:
        seen = [scene_.background, *(thing.colour for thing in scene_.things)]
        colour = random.choice(seen) if random.random() < 0.6 else _colour(random)
        return Region(colour=colour, what="colour")
    if lot < 0.15:
        return Region()
    if lot < 0.18:
        return Region(what="nobody")
    if scene_.things and random.random() < 0.9:
        asked = _about(random, random.choice(scene_.things))
    else:
        asked = Region(random.choice(SHAPES), _colour(random))
    return _nearly(random, asked) if random.random() < 0.35 else asked


def _colour(random: Random) -> str:
    return random.choice(list(COLOURS))


_SAID: Mapping[tuple[str, ...], float] = MappingProxyType(
    {
        ("shape", "colour"): 0.32,
        ("shape",): 0.2,
        ("colour",): 0.16,
        ("shape", "size"): 0.07,
        ("shape", "place"): 0.09,
        ("shape", "colour", "place"): 0.04,
        ("shape", "colour", "size"): 0.05,
        ("colour", "place"): 0.03,
        ("colour", "size"): 0.02,
        ("place",): 0.01,
        ("size",): 0.01,
    }
)
"""Attributes that words say together -> how often."""


def _about(random: Random, thing: Thing) -> Region:
    """Say some of what is true of a thing."""
    said = random.choices(list(_SAID), list(_SAID.values()))[0]
    places = [place for place in PLACES if lies(thing, place)]
    true = {
        "shape": thing.shape,
        "colour": thing.colour,
        "size": size_of(thing),
        "place": random.choice(places),
    }
    return Region(**{name: true[name] for name in said})  # type: ignore[arg-type]


def _nearly(random: Random, asked: Region) -> Region:
    """Exchange one attribute: another thing of the scene may have it, or none."""
    others = {"shape": SHAPES, "colour": COLOURS, "size": RADII, "place": PLACES}
    name = random.choice([name for name in others if getattr(asked, name) is not None])
    return replace(asked, **{name: random.choice(list(others[name]))})


def words(random: Random, asked: Region) -> str:
    """Say a region in one of the ways people do."""
    if asked.what == "nobody":
        return random.choice(("the ", "a ", "")) + random.choice(NOBODY)
    if asked.what == "ground":
        ground = random.choice(GROUNDS)
        colour = "" if asked.colour is None else f"{asked.colour} "
        return random.choice(("the ", "the ", "")) + colour + ground
    if asked.what == "colour":
        return random.choice(
            (f"everything {asked.colour}", f"everything {asked.colour}",
             f"everything that is {asked.colour}", f"all that is {asked.colour}")
        )  # fmt: skip
    if asked == Region():
        return random.choice(
            ("all things", "all shapes", "the things", "the shapes", "all objects", "the objects",
             "everything but the background", "the foreground")
        )  # fmt: skip
    return _phrase(random, asked)


def _phrase(random: Random, asked: Region) -> str:
    noun = random.choice(NOUNS[asked.shape] if asked.shape else _ANY_NOUN)
    plural = random.random() < 0.1
    if plural:
        noun += "es" if noun[-1] in "sx" else "s"
    colour = asked.colour or ""
    size = random.choice(SIZE_WORDS[asked.size]) if asked.size else ""
    before = after = ""
    if asked.place and random.random() < 0.4:
        before = asked.place
    elif asked.place:
        after = random.choice(PLACE_WORDS[asked.place])
    if colour and asked.shape and random.random() < 0.08:
        noun, colour = f"{noun} in {colour}", ""
    article = random.choice(("the", "the", "the", "") + (("all", "all the") if plural else ("a",)))
    if article == "a" and (before or size or colour or noun)[0] in "aeiou":
        article = "an"
    said = " ".join(part for part in (article, before, size, colour, noun, after) if part)
    if random.random() < 0.05:
        said = said[0].upper() + said[1:]
    return said + "." if random.random() < 0.03 else said
