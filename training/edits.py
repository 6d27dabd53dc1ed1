"""Instructions and the scenes they lead to: the ground truth of the kontext kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

from training.captions import NOUNS, SIZE_WORDS, Facts, article, vary
from training.scenes import (
    RADII,
    SHAPES,
    Scene,
    Size,
    Thing,
    has_held_out,
    other_colour,
    with_thing,
)


@dataclass(frozen=True)
class Edit:
    """A scene, an instruction, the scene it leads to."""

    kind: str
    before: Scene
    after: Scene
    instruction: str
    facts: Facts


def _named(random: Random, scene: Scene, thing: Thing) -> str:
    """Name a thing of a scene: by its colour too where the shape alone could mean both."""
    word = random.choice(NOUNS[thing.shape])
    shapes = [other.shape for other in scene.things]
    if shapes.count(thing.shape) > 1 or random.random() < 0.3:
        return f"{thing.colour} {word}"
    return word


def _recolour(random: Random, scene: Scene, index: int) -> Edit:
    thing = scene.things[index]
    colour = other_colour(random, scene.colours)
    name = _named(random, scene, thing)
    words = random.choice(
        (
            f"make the {name} {colour}", f"make the {name} {colour}",
            f"change the {name} to {colour}", f"turn the {name} {colour}",
            f"change the color of the {name} to {colour}", f"paint the {name} {colour}",
            f"recolor the {name} {colour}",
        )
    )  # fmt: skip
    after = with_thing(scene, index, replace(thing, colour=colour))
    return Edit(
        "recolour", scene, after, words, Facts(shape=thing.shape, colour=colour, edit="recolour")
    )


def _background(random: Random, scene: Scene, _index: int) -> Edit:
    colour = other_colour(random, scene.colours)
    words = random.choice(
        (
            f"change the background to {colour}", f"change the background to {colour}",
            f"make the background {colour}", f"make the background {colour}",
            f"change the background color to {colour}", f"turn the background {colour}",
            f"put it on {article(colour)} background",
        )
    )  # fmt: skip
    after = replace(scene, background=colour)
    return Edit("background", scene, after, words, Facts(background=colour, edit="background"))


def _reshape(random: Random, scene: Scene, index: int) -> Edit:
    thing = scene.things[index]
    shape = random.choice([shape for shape in SHAPES if shape != thing.shape])
    name, word = _named(random, scene, thing), random.choice(NOUNS[shape])
    words = random.choice(
        (
            f"turn the {name} into {article(word)}", f"turn the {name} into {article(word)}",
            f"replace the {name} with {article(word)}", f"change the {name} to {article(word)}",
            f"make the {name} {article(word)}",
        )
    )  # fmt: skip
    after = with_thing(scene, index, replace(thing, shape=shape))
    facts = Facts(shape=thing.shape, second_shape=shape, edit="reshape")
    return Edit("reshape", scene, after, words, facts)


def _resize(random: Random, scene: Scene, index: int) -> Edit:
    thing = scene.things[index]
    size: Size = "large" if thing.radius < 0.25 else "small"
    name = _named(random, scene, thing)
    bigger = size == "large"
    word = random.choice((*SIZE_WORDS[size], "larger" if bigger else "smaller"))
    words = f"make the {name} {word}"
    moved = replace(thing, radius=RADII[size], size=size)
    after = with_thing(scene, index, moved)
    return Edit("resize", scene, after, words, Facts(shape=thing.shape, size=size, edit="resize"))


def _remove(random: Random, scene: Scene, index: int) -> Edit:
    name = _named(random, scene, scene.things[index])
    words = random.choice((f"remove the {name}", f"delete the {name}", f"erase the {name}"))
    things = tuple(thing for i, thing in enumerate(scene.things) if i != index)
    after = Scene(scene.background, things)
    facts = Facts(shape=scene.things[index].shape, edit="remove")
    return Edit("remove", scene, after, words, facts)


EDITS: Mapping[str, tuple[float, Callable[[Random, Scene, int], Edit]]] = MappingProxyType(
    {
        "recolour": (0.24, _recolour),
        "background": (0.16, _background),
        "reshape": (0.32, _reshape),
        "resize": (0.13, _resize),
        "remove": (0.15, _remove),
    }
)
"""Kind -> how often, and how."""


def edit(random: Random, scene: Scene, kind: str | None = None) -> Edit:
    """Choose a change of a scene (of the given kind) that leads to no held-out triple.

    A scene without things gets a new background; two things alike in shape and colour do too, for
    no words could distinguish them; only a single thing in the middle is resized.

    Raises:
        ValueError: the scene has a held-out triple: every result of some changes would have it too.
    """
    if has_held_out(scene):
        raise ValueError(f"{scene} holds a triple that is kept for judging.")
    while True:
        chosen = kind or random.choices(list(EDITS), [weight for weight, _ in EDITS.values()])[0]
        index = random.randrange(max(1, len(scene.things)))
        made = EDITS[chosen if _can(chosen, scene) else "background"][1](random, scene, index)
        if not has_held_out(made.after):
            return replace(made, instruction=vary(random, made.instruction))


def _can(kind: str, scene: Scene) -> bool:
    looks = {(thing.shape, thing.colour) for thing in scene.things}
    if not scene.things or len(looks) < len(scene.things):
        return kind == "background"
    lone = len(scene.things) == 1 and scene.things[0].place in (None, "center")
    return kind != "resize" or lone
