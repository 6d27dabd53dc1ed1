"""Scenes in words: plain English in many wordings, and the facts of each sentence as labels.

The labels (`Facts`) teach the text encoders what to gather from a sentence (text.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from training.scenes import PLACES, RADII, Scene, Thing

NOUNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "circle": ("circle", "circle", "circle", "disc", "dot"),
        "square": ("square", "square", "square", "box"),
        "triangle": ("triangle",),
        "star": ("star",),
        "heart": ("heart",),
        "diamond": ("diamond", "diamond", "rhombus"),
        "cross": ("cross", "cross", "plus"),
        "ring": ("ring", "ring", "donut"),
    }
)
SIZE_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "small": ("small", "small", "tiny", "little"),
        "medium": ("medium", "medium-sized"),
        "large": ("large", "large", "big", "huge"),
    }
)
PLACE_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "center": ("in the center", "in the middle", "in the centre"),
        "left": ("on the left", "on the left side", "at the left"),
        "right": ("on the right", "on the right side", "at the right"),
        "top": ("at the top", "near the top"),
        "bottom": ("at the bottom", "near the bottom"),
        "top left": ("in the top left corner", "at the top left", "in the upper left"),
        "top right": ("in the top right corner", "at the top right", "in the upper right"),
        "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left"),
        "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right"),
    }
)
_BEGINNINGS = ("",) * 8 + (
    "a picture of ", "a drawing of ", "an image of ", "a photo of ", "an icon of ", "draw ",
)  # fmt: skip
_ON_BACKGROUND = (
    " on {a} background", " on {a} background", " on {a} background", " against {a} background",
    " with {a} background", " on {colour}",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a sentence says; `None` where it says nothing."""

    background: str | None = None
    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    second_shape: str | None = None
    second_colour: str | None = None
    relation: str | None = None
    edit: str | None = None
    """The kind of change an instruction asks for: a key of edits.EDITS."""


def article(words: str) -> str:
    """Return the words with `a` or `an` before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def noun(random: Random, thing: Thing) -> str:
    """Return `large red circle`, with the size only if the scene says it."""
    words = f"{thing.colour} {random.choice(NOUNS[thing.shape])}"
    if thing.size is not None:
        words = f"{random.choice(SIZE_WORDS[thing.size])} {words}"
    return words


def vary(random: Random, text: str) -> str:
    """Write as people do: sometimes a capital letter, sometimes a full stop."""
    if random.random() < 0.2:
        text = text[0].upper() + text[1:]
    return text + "." if random.random() < 0.1 else text


def facts_of(scene: Scene) -> Facts:
    """Return what every caption of a scene says."""
    if not scene.things:
        return Facts(background=scene.background)
    first = scene.things[0]
    facts = Facts(scene.background, first.shape, first.colour, first.size, first.place)
    if len(scene.things) == 1:
        return facts
    second = scene.things[1]
    return Facts(
        scene.background, first.shape, first.colour, None, None,
        second.shape, second.colour, scene.relation,
    )  # fmt: skip


def caption(random: Random, scene: Scene) -> str:
    """Describe the scene in one of many ways; every fact of it is said."""
    background = _background(random, scene.background)
    if not scene.things:
        return vary(random, _empty(random, scene.background))
    if len(scene.things) == 2:
        return vary(random, random.choice(_BEGINNINGS) + _pair(random, scene) + background)
    thing = scene.things[0]
    words = noun(random, thing)
    subject = random.choice((article(words), article(words), article(words), words, f"the {words}"))
    where = "" if thing.place is None else " " + random.choice(PLACE_WORDS[thing.place])
    if random.random() < 0.15:
        text = f"{article(scene.background)} background with {article(words)}{where}"
    elif random.random() < 0.5:
        text = subject + where + background
    else:
        text = subject + background + where
    return vary(random, random.choice(_BEGINNINGS) + text)


def plainly(scene: Scene) -> str:
    """Describe a scene in one way, the plainest; of a lone thing size and place are always said."""
    background = f"on {article(scene.background)} background"
    if not scene.things:
        return f"{article(scene.background)} background"
    if scene.relation is not None:
        first, second = (article(f"{one.colour} {one.shape}") for one in scene.things)
        beside = "to the left of" if scene.relation == "left of" else scene.relation
        return f"{first} {beside} {second} {background}"
    thing = scene.things[0]
    size = min(RADII, key=lambda name: abs(RADII[name] - thing.radius))
    place = min(PLACES, key=lambda name: math.dist(PLACES[name], (thing.x, thing.y)))
    return f"a {size} {thing.colour} {thing.shape} {PLACE_WORDS[place][0]} {background}"


def thing_alone(random: Random, thing: Thing) -> str:
    """Describe a thing without its background: the prompt of an inpainting."""
    return vary(random, article(f"{thing.colour} {random.choice(NOUNS[thing.shape])}"))


def _background(random: Random, colour: str) -> str:
    if random.random() < 0.15:
        return f", {colour} background"
    return random.choice(_ON_BACKGROUND).format(a=article(colour), colour=colour)


def _empty(random: Random, colour: str) -> str:
    return random.choice(
        (
            f"{article(colour)} background", f"a plain {colour} background", f"just {colour}",
            f"an empty {colour} background", f"{colour} background",
        )
    )  # fmt: skip


def _pair(random: Random, scene: Scene) -> str:
    first, second = (article(noun(random, thing)) for thing in scene.things)
    if scene.relation == "left of":
        return random.choice(
            (
                f"{first} to the left of {second}", f"{first} left of {second}",
                f"{second} to the right of {first}", f"{first} and {second}",
                f"{first} on the left and {second} on the right", f"{first} next to {second}",
            )
        )  # fmt: skip
    return random.choice(
        (
            f"{first} above {second}", f"{second} below {first}", f"{second} under {first}",
            f"{first} on top of {second}", f"{first} at the top and {second} at the bottom",
        )
    )  # fmt: skip
