"""Scenes in words: plain English in many wordings, and the facts of each sentence as labels.

The labels (`Facts`) teach the text encoders what to gather from a sentence (text.py). What is said
in another order, as in a telegram or in German, is learned afterwards, from the plain sentence that
says the same (`reworded`; wordings.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from training import sentences
from training.scenes import PLACES, RADII, Relation, Scene, Thing
from training.sentences import Wording

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

GROUNDS = ("background", "background", "background", "backdrop")
"""What is behind the things; plain sentences only say the first."""

REWORDED: tuple[str, ...] = (
    "{size} {colour} {shape} {place} {background} {ground}",
    "{size} {colour} {shape} {place} {background} {ground}",
    "{size} {colour} {shape} {place}, {background} {ground}",
    "{size} {colour} {shape}, {place}, {background} {ground}",
    "{size} {colour} {shape} {background} {ground} {place}",
    "{place} {size} {colour} {shape} {background} {ground}",
    "{background} {ground} {size} {colour} {shape} {place}",
    "{background} {ground} {size} {colour} {shape} {place}",
    "{background} {ground}, {size} {colour} {shape} {place}",
    "{background} {ground} with {size} {colour} {shape} {place}",
    "{size} {shape} {colour} {place} {ground} {background}",
    "{size} {shape} {colour} {place}, {ground} {background}",
    "{shape}, {colour}, {size}, {place}, {background} {ground}",
    "{size} {shape}, {colour}, {place}, {background} {ground}",
    "{ground} {background}, {size} {shape} {colour} {place}",
    "{ground} {background} {size} {shape} {colour} {place}",
    "{ground}: {background}; shape: {shape}; colour: {colour}; size: {size}; place: {place}",
    "shape: {shape}, colour: {colour}, size: {size}, place: {place}, {ground}: {background}",
    "on a {background} {ground} a {size} {colour} {shape} {place}",
    "on a {background} {ground} {place} a {size} {colour} {shape}",
    "on {background} a {size} {colour} {shape} {place}",
    "on {background} {size} {colour} {shape} {place}",
    "before a {background} {ground} a {size} {colour} {shape} {place}",
    "in front of a {background} {ground} a {size} {colour} {shape} {place}",
    "a {size} {colour} {shape} {place} in front of a {background} {ground}",
    "a {size} {colour} {shape} {place} before a {background} {ground}",
    "a {size} {shape} in {colour} {place} on a {background} {ground}",
    "a {size} {shape}, {colour}, {place}, on {background}",
    "{size} {colour} {shape} {place} on {background}",
    "a {size} {colour} {shape} {place}, the {ground} is {background}",
    "the {ground} is {background}, the {size} {shape} {place} is {colour}",
    "{place} a {size} {colour} {shape} on a {background} {ground}",
    "a {size} {colour} {shape} {place} on a {background} {ground}",
    "a {size} {colour} {shape} {place} with a {background} {ground}",
    "a {size} {colour} {shape} {place} on a {background} coloured {ground}",
    "a {size} {colour} {shape} {place} with {background} behind",
    "there is a {size} {colour} {shape} {place} on a {background} {ground}",
)
"""One thing in other orders than `caption` has."""
KEPT_REWORDED: tuple[str, ...] = (
    "{background} {ground}: {size} {colour} {shape} {place}",
    "{size} {shape} in {colour} {place}, {ground} in {background}",
    "{size} {colour} {shape} {place}; {ground} {background}",
    "on {background} {ground} {size} {colour} {shape} {place}",
    "{colour} {size} {shape} {place} {background} {ground}",
    "{place} {shape} {colour} {size}, {background} {ground}",
)
"""Kept for judging: no training has them."""
SHORTEST: tuple[str, ...] = (
    "{size} {colour} {shape} {place} {background} {ground}",
    "{size} {shape} {colour} {place} {background} {ground}",
    "{size} {shape} {colour} {place} {ground} {background}",
    "{background} {ground} {size} {colour} {shape} {place}",
    "{ground} {background} {size} {colour} {shape} {place}",
)
"""Colours and nouns alone, without a comma: which colour is whose is only in their order."""
REWORDED_PAIRS: Mapping[Relation, tuple[str, ...]] = MappingProxyType(
    {
        "left of": (
            "{colour} {shape} left {colour2} {shape2} right {background} {ground}",
            "{colour} {shape} left, {colour2} {shape2} right, {background} {ground}",
            "left {colour} {shape} right {colour2} {shape2} {background} {ground}",
            "left {colour} {shape}, right {colour2} {shape2}, {background} {ground}",
            "left a {colour} {shape}, right a {colour2} {shape2}, {ground} {background}",
            "{background} {ground}, {colour} {shape} left, {colour2} {shape2} right",
            "{background} {ground}, left {colour} {shape}, right {colour2} {shape2}",
            "{colour} {shape} left of {colour2} {shape2} {background} {ground}",
            "{colour} {shape} left of {colour2} {shape2}, {background} {ground}",
            "{colour2} {shape2} right of {colour} {shape}, {background} {ground}",
            "on a {background} {ground} a {colour} {shape} to the left of a {colour2} {shape2}",
            "{ground} {background}, {shape} {colour} left, {shape2} {colour2} right",
        ),
        "above": (
            "{colour} {shape} above {colour2} {shape2} {background} {ground}",
            "{colour} {shape} above {colour2} {shape2}, {background} {ground}",
            "{colour} {shape} over {colour2} {shape2}, {background} {ground}",
            "{colour2} {shape2} below {colour} {shape}, {background} {ground}",
            "{colour2} {shape2} under {colour} {shape} {background} {ground}",
            "top {colour} {shape} bottom {colour2} {shape2} {background} {ground}",
            "top {colour} {shape}, bottom {colour2} {shape2}, {background} {ground}",
            "{colour} {shape} top, {colour2} {shape2} bottom, {background} {ground}",
            "{background} {ground}, {colour} {shape} top, {colour2} {shape2} bottom",
            "{background} {ground}, {colour} {shape} above {colour2} {shape2}",
            "on a {background} {ground} a {colour} {shape} above a {colour2} {shape2}",
            "{ground} {background}, {shape} {colour} top, {shape2} {colour2} bottom",
        ),
    }
)
REWORDED_EMPTY = (
    "{background} {ground}", "a {background} {ground}", "just a {background} {ground}",
    "{background} {ground} only", "empty {background} {ground}", "only {background}",
    "nothing on a {background} {ground}",
)  # fmt: skip
"""`background pink` is not among them: that is an instruction (edits.py)."""
_PLAIN_EMPTY = "a {background} {ground}"
_PLAIN = "{size} {colour} {shape} {place}, {background} {ground}"
_PLAIN_PAIRS: Mapping[Relation, str] = MappingProxyType(
    {
        "left of": "a {colour} {shape} left of a {colour2} {shape2}, {background} {ground}",
        "above": "a {colour} {shape} above a {colour2} {shape2}, {background} {ground}",
    }
)


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


def reworded(random: Random, scene: Scene, templates: tuple[str, ...] | None = None) -> Wording:
    """Say every fact of a scene in an order of telegrams or of German, and plainly.

    `templates`: for a lone thing, instead of `REWORDED`.
    """
    values = {"background": scene.background, "ground": random.choice(GROUNDS)}
    for thing, number in zip(scene.things, ("", "2"), strict=False):
        values["shape" + number] = random.choice(NOUNS[thing.shape])
        values["colour" + number] = thing.colour
    said = values
    if not scene.things:
        template, plain = random.choice(REWORDED_EMPTY), _PLAIN_EMPTY
    elif scene.relation is not None:
        template, plain = (
            random.choice(REWORDED_PAIRS[scene.relation]),
            _PLAIN_PAIRS[scene.relation],
        )
    else:
        template, plain = random.choice(templates or REWORDED), _PLAIN
        thing = scene.things[0]
        if thing.size is not None:
            values["size"] = random.choice(SIZE_WORDS[thing.size])
        if thing.place is not None:
            values["place"] = random.choice(PLACE_WORDS[thing.place])
            # Of `in the top left corner` a telegram has `top left corner`.
            short = " ".join(values["place"].split()[2:])
            said = values | {"place": short if random.random() < 0.7 else values["place"]}
    return Wording(
        sentences.varied(random, sentences.sentence(template, said)),
        sentences.sentence(plain, values | {"ground": GROUNDS[0]}),
    )


def reworded_thing(random: Random, thing: Thing) -> Wording:
    """Name a thing without its background, as `thing_alone` does, in a telegram's words."""
    values = {"shape": random.choice(NOUNS[thing.shape]), "colour": thing.colour}
    template = random.choice(
        ("{colour} {shape}", "{colour} {shape}", "{shape}, {colour}", "a {shape} in {colour}",
         "one {colour} {shape}", "shape: {shape}; colour: {colour}")
    )  # fmt: skip
    said = sentences.varied(random, sentences.sentence(template, values))
    return Wording(said, sentences.sentence("a {colour} {shape}", values))


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
