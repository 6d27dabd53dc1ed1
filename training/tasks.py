"""The training examples of each kind: target image, prompts, and given image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from training import captions, drawing, edits, scenes
from training.edits import Edit
from training.scenes import Scene, Thing

CANVASES: Mapping[tuple[int, int], float] = MappingProxyType(
    {
        (128, 128): 0.46,
        (64, 64): 0.05,
        (96, 96): 0.06,
        (160, 96): 0.06,
        (96, 160): 0.06,
        (144, 112): 0.06,
        (112, 144): 0.06,
        (192, 80): 0.03,
        (80, 192): 0.03,
        (192, 128): 0.03,
        (128, 192): 0.03,
        (192, 192): 0.04,
        (256, 256): 0.03,
    }
)
"""(width, height) in px -> share of the examples."""

LARGE_CANVASES: Mapping[tuple[int, int], float] = MappingProxyType(
    {
        (128, 128): 0.28,
        (64, 64): 0.03,
        (96, 96): 0.04,
        (160, 96): 0.04,
        (96, 160): 0.04,
        (192, 80): 0.02,
        (80, 192): 0.02,
        (192, 128): 0.05,
        (128, 192): 0.05,
        (192, 192): 0.10,
        (256, 128): 0.04,
        (128, 256): 0.04,
        (256, 256): 0.25,
    }
)
"""As CANVASES, for transformers trained on small images already."""

_PROMPTS = 4
STRUCTURES = ("canny", "depth")


@dataclass(frozen=True)
class Example:
    """One thing to learn."""

    scene: Scene
    """What the target image shows."""
    prompts: tuple[str, ...]
    """Ways to ask for it; one is chosen each time."""
    target: drawing.Pixels
    given: drawing.Pixels | None = None
    """kontext: the image before; fill: the image to complete; control: the structure."""
    mask: NDArray[np.uint8] | None = None
    """fill: (height, width), 255 where the image is inpainted."""
    before: Scene | None = None
    """kontext: what `given` shows."""
    edit: str | None = None
    """kontext: the kind of change."""


def text2img(random: Random, width_px: int, height_px: int, scene: Scene | None = None) -> Example:
    """Words -> image."""
    chosen = scene or scenes.scene(random)
    prompts = tuple(captions.caption(random, chosen) for _ in range(_PROMPTS))
    return Example(chosen, prompts, drawing.draw(chosen, width_px, height_px, random))


def kontext(random: Random, width_px: int, height_px: int, scene: Scene | None = None) -> Example:
    """Image and instruction -> changed image; everything else keeps its exact colours."""
    edit = edits.edit(random, scene or scenes.scene(random, pairs=0.3, empties=0.02))
    return kontext_of(edit, random, width_px, height_px)


def kontext_of(edit: Edit, random: Random, width_px: int, height_px: int) -> Example:
    """Return the example of a change."""
    paints = random.getrandbits(32)
    before = drawing.draw(edit.before, width_px, height_px, Random(paints))
    after = drawing.draw(edit.after, width_px, height_px, Random(paints))
    return Example(
        edit.after, (edit.instruction,), after, before, before=edit.before, edit=edit.kind
    )


def fill(random: Random, width_px: int, height_px: int, scene: Scene | None = None) -> Example:
    """Image with a hole and words -> whole image."""
    chosen = scene or scenes.scene(random, empties=0.0)
    thing = random.choice(chosen.things)
    way = random.choices(list(MASKS), [share for share, _ in MASKS.values()])[0]
    mask = MASKS[way][1](random, thing, width_px, height_px)
    if way == "thing" and random.random() < 0.2:
        # Cleared away: only the background is asked for.
        left = tuple(other for other in chosen.things if other is not thing)
        chosen = Scene(chosen.background, left)
        words = [captions.caption(random, Scene(chosen.background, ())) for _ in range(_PROMPTS)]
    elif way == "thing":
        words = [captions.thing_alone(random, thing) for _ in range(_PROMPTS)]
        words[: _PROMPTS // 2] = [captions.caption(random, chosen) for _ in range(_PROMPTS // 2)]
    else:
        words = [captions.caption(random, chosen) for _ in range(_PROMPTS)]
    target = drawing.draw(chosen, width_px, height_px, random)
    return Example(chosen, tuple(words), target, target, mask)


def _thing_mask(random: Random, thing: Thing, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Cover a thing with room around it: a box or an ellipse."""
    mask = np.zeros((height_px, width_px), np.uint8)
    radius = thing.radius * min(width_px, height_px)
    half = [radius * random.uniform(1.1, 1.6) + 2 for _ in range(2)]
    x, y = thing.x * width_px, thing.y * height_px
    if random.random() < 0.3:
        axes = (round(half[0] * 1.25), round(half[1] * 1.25))
        cv2.ellipse(mask, ((x, y), (2 * axes[0], 2 * axes[1]), 0), 255, -1)
        return mask
    corner = (round(x - half[0]), round(y - half[1]))
    cv2.rectangle(mask, corner, (round(x + half[0]), round(y + half[1])), 255, -1)
    return mask


def _box_mask(random: Random, _thing: Thing, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Cover any box of a quarter to all of each side."""
    mask = np.zeros((height_px, width_px), np.uint8)
    box_width = round(width_px * random.uniform(0.25, 1.0))
    box_height = round(height_px * random.uniform(0.25, 1.0))
    x, y = random.randrange(width_px - box_width + 1), random.randrange(height_px - box_height + 1)
    mask[y : y + box_height, x : x + box_width] = 255
    return mask


def _border_mask(random: Random, _thing: Thing, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Cover what lies outside of a smaller image: outpainting."""
    mask = np.full((height_px, width_px), 255, np.uint8)
    cuts = [random.uniform(0.05, 0.4) if random.random() < 0.6 else 0.0 for _ in range(4)]
    left, right = round(cuts[0] * width_px), round((1 - cuts[1]) * width_px)
    top, bottom = round(cuts[2] * height_px), round((1 - cuts[3]) * height_px)
    mask[top:bottom, left:right] = 0
    return mask


MASKS: Mapping[str, tuple[float, Callable[[Random, Thing, int, int], NDArray[np.uint8]]]] = (
    MappingProxyType(
        {"thing": (0.6, _thing_mask), "box": (0.2, _box_mask), "border": (0.2, _border_mask)}
    )
)
"""Way to mask -> how often, and how."""


def control(
    random: Random,
    width_px: int,
    height_px: int,
    scene: Scene | None = None,
    structure: str | None = None,
) -> Example:
    """Structure and words -> image along it."""
    chosen = scene or scenes.scene(random, empties=0.0)
    structure = structure or ("depth" if random.random() < 0.25 else "canny")
    example = text2img(random, width_px, height_px, chosen)
    if structure == "depth":
        given = drawing.depth(chosen, width_px, height_px, random)
    else:
        given = drawing.edges(example.target)
    return replace(example, given=given)


TASKS: Mapping[str, Callable[[Random, int, int], Example]] = MappingProxyType(
    {"text2img": text2img, "kontext": kontext, "fill": fill, "control": control}
)
