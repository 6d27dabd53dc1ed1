"""Instructions and the scenes they lead to: the ground truth of the kontext kind.

As of scenes, there are wordings that are learned afterwards, from the plain instruction of the same
change (`reworded`): short ones, German word order, `it` for the only thing of an image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

from training import sentences
from training.captions import GROUNDS, NOUNS, SIZE_WORDS, Facts, article, vary
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
from training.sentences import Wording


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

_TO = (
    "make the {name} {new}", "make {name} {new}", "{name} {new}", "{name}: {new}",
    "{name} to {new}", "the {name} shall be {new}", "the {name} should be {new}",
    "the {name} must be {new}", "the {name} {new} make", "please the {name} {new} make",
    "please make the {name} {new}",
    "the {name} to {new} change", "change {name} to {new}", "{name} shall become {new}",
)  # fmt: skip
_GROW: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "small": (("smaller", "smaller"),),
        "large": (("larger", "larger"), ("bigger", "larger"), ("bigger", "larger")),
    }
)
"""Size to reach -> comparisons, and the same in words that plain instructions have."""
REWORDED: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "recolour": (
            "make the {name} {new}",
            (*_TO, "turn the {name} {new}", "paint the {name} {new}",
             "the {name} {new} paint", "color the {name} {new}",
             "colour the {name} {new}", "recolour the {name} {new}", "the {name} gets {new}"),
        ),
        "background": (
            "change the background to {new}",
            (*_TO, "turn the {name} {new}", "{name} in {new}", "change the {name} to {new}",
             "put it on a {new} {name}", "change the color of the {name} to {new}"),
        ),
        "reshape": (
            "turn the {name} into a {new}",
            ("turn {name} into a {new}", "the {name} into a {new} turn", "{name} to {new}",
             "{name} into {new}", "the {name} shall be a {new}", "the {name} should be a {new}",
             "the {name} shall become a {new}", "please the {name} into a {new} turn",
             "make the {name} a {new}", "make a {new} of the {name}", "{new} instead of {name}",
             "a {new} instead of the {name}", "replace {name} with {new}",
             "please turn the {name} into a {new}", "change the {name} to a {new}"),
        ),
        "resize": (
            "make the {name} {new}",
            ("make {name} {new}", "{name} {new}", "{name}: {new}", "the {name} shall be {new}",
             "the {name} should be {new}", "the {name} {new} make", "please the {name} {new} make",
             "please make the {name} {new}"),
        ),
        "remove": (
            "remove the {name}",
            ("remove the {name}", "remove {name}", "delete {name}", "delete the {name}",
             "erase {name}", "take away the {name}", "take the {name} away", "{name} away",
             "the {name} remove", "please the {name} remove", "the {name} delete",
             "please remove the {name}", "get rid of the {name}", "without the {name}",
             "no {name}", "the {name} must go", "the {name} away", "take out the {name}"),
        ),
    }
)  # fmt: skip
"""Kind of change -> its plainest instruction, and others. With `it` for a thing, `the` goes too."""


def reworded(random: Random, edit: Edit, *, it: bool | None = None) -> Wording:
    """Ask for a change in other words, and plainly.

    `it`: whether the only thing of the image is `it` and not named; by default every second time.
    """
    plain, templates = REWORDED[edit.kind]
    template = random.choice(templates)
    values, plain_values = _words_of(random, edit)
    if edit.kind != "background" and len(edit.before.things) == 1:
        if it is None:
            it = random.random() < 0.5
        if it:
            plain_values = plain_values | {"name": values["name"].split()[-1]}
            values = values | {"name": "it"}
            template = template.replace("the {name}", "{name}")
    return Wording(
        sentences.varied(random, sentences.sentence(template, values)),
        sentences.sentence(plain, plain_values),
    )


def _words_of(random: Random, edit: Edit) -> tuple[dict[str, str], dict[str, str]]:
    """Return the words of an instruction by their fields, and those of its plain form."""
    if edit.kind == "background":
        words = {"name": random.choice(GROUNDS), "new": edit.after.background}
        return words, words | {"name": GROUNDS[0]}
    old = next(thing for thing in edit.before.things if thing not in edit.after.things)
    words = {"name": _named(random, edit.before, old)}
    new = next((thing for thing in edit.after.things if thing not in edit.before.things), None)
    if new is None:
        return words, words
    if edit.kind == "resize" and new.size is not None:
        said, plain = random.choice((*((w, w) for w in SIZE_WORDS[new.size]), *_GROW[new.size]))
        return words | {"new": said}, words | {"new": plain}
    words["new"] = new.colour if edit.kind == "recolour" else random.choice(NOUNS[new.shape])
    return words, words


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
