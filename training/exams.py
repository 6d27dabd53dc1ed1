"""The evaluation of each kind and helper: what is asked, and how the results are judged.

text2img, fill, control and redux draw triples of shape, colour and background that no training
image held. kontext cannot: which triple an edit leads to is chosen by tasks.kontext, which keeps
out of the held-out ones; there only the seed is new.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from training import captions, drawing, edits, regions, scenes, tasks
from training.answers import AT_LEAST, AT_MOST, Answers, Panel
from training.asks import SIDE_PX, Ask, composite
from training.drawing import Pixels
from training.finding import Mask, colour_under
from training.judge import colours_in, edge_f1, judge, untouched
from training.scenes import Scene
from training.sentences import with_word

Draw = Callable[[list[Ask]], list[Pixels]]
Find = Callable[[Pixels, list[str]], list[NDArray[np.float32]]]
"""Returns for each phrase how sure it is of each pixel of an image: (height, width) from 0 to 1."""
Estimate = Callable[[Pixels], NDArray[np.float32]]
"""Returns how near each pixel of an image is: (height, width), 0 for far away."""
SQUARE = (SIDE_PX, SIDE_PX)
MARGIN_PX = 3
"""Around what an edit changes: the width of a soft edge and a pixel more."""
OTHER_SHARE = 4
"""One example in so many is for a measure without a goal."""
PHRASES = 6
"""For each image of the segmentation's exam."""
MARKED_AT = 0.5


def _drawn_scenes(
    draw: Draw,
    random: Random,
    chosen: Sequence[Scene],
    canvases: Sequence[tuple[int, int]],
    words: Callable[[Random, Scene], str] | None = None,
) -> Iterable[tuple[Scene, Ask, Pixels]]:
    asks = [
        Ask((words or captions.caption)(random, scene), random.getrandbits(32), *canvas)
        for scene, canvas in zip(chosen, canvases, strict=True)
    ]
    return zip(chosen, asks, draw(asks), strict=True)


ALL_NAMES = ("background", "colour", "shape", "place", "size")


def _on_backdrop(random: Random, scene: Scene) -> str:
    old, new = captions.GROUNDS[0], captions.GROUNDS[-1]
    while True:
        caption = captions.caption(random, scene)
        if old in caption:  # some say `on pink`
            return with_word(caption, old, new).said.text


REWORDED: Mapping[str, Callable[[Random, Scene], str]] = MappingProxyType(
    {
        "telegraphic: ": lambda random, scene: captions.reworded(random, scene).said.text,
        "telegraphic, wordings never seen: ": lambda random, scene: (
            captions.reworded(random, scene, captions.KEPT_REWORDED).said.text
        ),
        "backdrop: ": _on_backdrop,
    }
)
"""Measures of other wordings -> how a scene is said."""


def text2img(draw: Draw, count: int, random: Random) -> Answers:
    """Words -> image: one thing on the usual canvas and on all others, two things, other words."""
    answers = Answers()
    others = [canvas for canvas in tasks.CANVASES if canvas != SQUARE]
    # Canvas by canvas, so that batches are full.
    spread = sorted(others[i % len(others)] for i in range(count))
    for prefix, canvases in (("", [SQUARE] * count), ("other canvases: ", spread)):
        chosen = [scenes.held_out_single(random) for _ in canvases]
        for scene, ask, drawn in _drawn_scenes(draw, random, chosen, canvases):
            _judge_drawn(answers, prefix, scene, ask, drawn)
    few = max(1, count // OTHER_SHARE)
    pairs = [scenes.pair(random) for _ in range(count // OTHER_SHARE)]
    for scene, ask, drawn in _drawn_scenes(draw, random, pairs, [SQUARE] * len(pairs)):
        _judge_drawn(answers, "pairs: ", scene, ask, drawn)
    for prefix, words in REWORDED.items():
        how_many = count if prefix == "telegraphic: " else few
        chosen = [scenes.held_out_single(random) for _ in range(how_many)]
        canvases = [SQUARE] * how_many
        for scene, ask, drawn in _drawn_scenes(draw, random, chosen, canvases, words):
            _judge_drawn(answers, prefix, scene, ask, drawn)
    pairs = [scenes.pair(random) for _ in range(few)]
    telegraphic = REWORDED["telegraphic: "]
    for scene, ask, drawn in _drawn_scenes(draw, random, pairs, [SQUARE] * few, telegraphic):
        _judge_drawn(answers, "telegraphic pairs: ", scene, ask, drawn)
    return answers


def _judge_drawn(answers: Answers, prefix: str, scene: Scene, ask: Ask, drawn: Pixels) -> None:
    verdict = judge(drawn, scene)
    answers.add_verdict(verdict, ALL_NAMES, prefix)
    answers.add(prefix + "all", verdict.right)
    answers.panels.append(Panel(ask.prompt, (drawn,), verdict.right))


def kontext(draw: Draw, count: int, random: Random) -> Answers:
    """Image and instruction -> changed image; edits that leave two things have no goal.

    Then the same in other words, of which some call the only thing `it`.
    """
    answers = Answers()
    examples = [tasks.kontext(random, *SQUARE) for _ in range(count)]
    asks = [
        Ask(example.prompts[0], random.getrandbits(32), given=example.given) for example in examples
    ]
    for example, ask, drawn in zip(examples, asks, draw(asks), strict=True):
        _judge_edited(answers, example, ask, drawn)
    reworded = []
    while len(reworded) < count:
        edit = edits.edit(random, scenes.scene(random, pairs=0.0, empties=0.0))
        it = edit.kind != "background" and len(reworded) % 2 == 0
        said = edits.reworded(random, edit, it=it).said.text
        example = tasks.kontext_of(edit, random, *SQUARE)
        reworded.append((it, example, Ask(said, random.getrandbits(32), given=example.given)))
    drawings = draw([ask for _, _, ask in reworded])
    for (it, example, ask), drawn in zip(reworded, drawings, strict=True):
        done = judge(drawn, example.scene).right
        answers.add("other words: edit done", done)
        answers.add(f"other words: edit done: {example.edit}", done)
        if it:
            answers.add("it: edit done", done)
            answers.add(f"it: edit done: {example.edit}", done)
        if ask.given is not None:
            answers.panels.append(Panel(ask.prompt, (ask.given, drawn), done))
    return answers


def _judge_edited(answers: Answers, example: tasks.Example, ask: Ask, drawn: Pixels) -> None:
    before, given = example.before, example.given
    if before is None or given is None:
        return
    right = judge(drawn, example.scene).right
    lone = len(example.scene.things) < 2
    answers.add("edit done" if lone else "two things left: edit done", right)
    if lone:
        answers.add(f"edit done: {example.edit}", right)
    if example.edit != "background":
        changed = changed_by(before, example.scene)
        rest = untouched(given, drawn, changed)
        answers.add("rest untouched: around the things", rest)
    elif before.things:
        rest = untouched(given, drawn, ~inside_of(before))
        answers.add("rest untouched: the things", rest)
    else:
        rest = None
    answers.add("rest untouched", rest)
    answers.panels.append(Panel(ask.prompt, (given, drawn), right))


def changed_by(before: Scene, after: Scene) -> Mask:
    """Return where any thing lies before or after, with a margin."""
    covered = np.zeros(SQUARE[::-1], np.uint8)
    for thing in (*before.things, *after.things):
        covered |= (drawing.coverage(thing, *SQUARE) > 0).astype(np.uint8)
    side = 2 * MARGIN_PX + 1
    mask: Mask = cv2.dilate(covered, np.ones((side, side), np.uint8)) > 0
    return mask


def inside_of(scene: Scene) -> Mask:
    """Return where things lie, without their rims: those are mixed with the old background."""
    covered = np.zeros(SQUARE[::-1], np.uint8)
    for thing in scene.things:
        covered |= (drawing.coverage(thing, *SQUARE) == 1).astype(np.uint8)
    # 2 px: as wide as the VAE's soft edges, and no more, for the arms of a small cross are 11 px.
    mask: Mask = cv2.erode(covered, np.ones((5, 5), np.uint8), borderValue=0) > 0
    return mask


def fill(draw: Draw, count: int, random: Random) -> Answers:
    """Image with a hole -> whole image: a thing is inpainted, then the surroundings."""
    answers = Answers()
    for way, how_many in (("thing", count), ("border", max(1, count // OTHER_SHARE))):
        chosen: list[Scene] = []
        asks: list[Ask] = []
        while len(asks) < how_many:
            scene = scenes.held_out_single(random)
            mask = tasks.MASKS[way][1](random, scene.things[0], *SQUARE)
            if not mask.any():
                continue  # a border of no width
            prompt = captions.caption(random, scene)
            if way == "thing" and random.random() < 0.5:
                prompt = captions.thing_alone(random, scene.things[0])
            given = drawing.draw(scene, *SQUARE, random)
            chosen.append(scene)
            asks.append(Ask(prompt, random.getrandbits(32), given=given, mask=mask))
        for scene, ask, drawn in zip(chosen, asks, draw(asks), strict=True):
            _judge_filled(answers, way, scene, ask, drawn)
    return answers


def _judge_filled(answers: Answers, way: str, scene: Scene, ask: Ask, drawn: Pixels) -> None:
    given, mask = ask.given, ask.mask
    if given is None or mask is None:
        return
    whole = composite(given, drawn, mask)
    verdict = judge(whole, scene)
    hole = mask > 0
    if way == "thing":
        right = bool(verdict.colour and verdict.shape)
        answers.add("inside right", right)
        answers.add_verdict(verdict, ("colour", "shape"), "inside: ")
        answers.add("outside: mean difference of 255", _difference(given, whole, ~hole))
        answers.add("outside, as drawn: mean difference of 255", _difference(given, drawn, ~hole))
    else:
        beside = hole & (drawing.coverage(scene.things[0], *SQUARE) == 0)
        right = colour_under(whole, beside) == scene.background
        answers.add("outpainting: background", right if beside.any() else None)
        answers.add("outpainting: all", verdict.right)
    holed = np.where(hole[:, :, None], np.uint8(128), given)
    answers.panels.append(Panel(ask.prompt, (holed, whole), right))


def _difference(before: Pixels, after: Pixels, where: Mask) -> float | None:
    moved = np.abs(before.astype(np.float32) - after.astype(np.float32))[where]
    return float(moved.mean()) if moved.size else None


def control(draw: Draw, count: int, random: Random) -> Answers:
    """Structure -> image along it: edges, then depth, whose edges are those of the truth."""
    answers = Answers()
    for structure, how_many in (("canny", count), ("depth", max(1, count // OTHER_SHARE))):
        examples = [
            tasks.control(random, *SQUARE, scenes.held_out_single(random), structure)
            for _ in range(how_many)
        ]
        asks = [
            Ask(example.prompts[0], random.getrandbits(32), given=example.given)
            for example in examples
        ]
        for example, ask, drawn in zip(examples, asks, draw(asks), strict=True):
            if ask.given is None:
                continue
            verdict = judge(drawn, example.scene)
            f1 = edge_f1(drawn, drawing.edges(example.target))
            answers.add(f"{structure}: edge F1", f1)
            answers.add_verdict(verdict, ("background", "colour", "shape"), f"{structure}: ")
            right = f1 >= AT_LEAST["control"]["canny: edge F1"] and verdict.right
            answers.panels.append(Panel(ask.prompt, (ask.given, drawn), right))
    return answers


def redux(draw: Draw, count: int, random: Random) -> Answers:
    """Image -> an image like it, without a word; then two images mixed half and half."""
    answers = Answers()
    chosen = [scenes.held_out_single(random) for _ in range(count)]
    given = [drawing.draw(scene, *SQUARE, random) for scene in chosen]
    asks = [Ask("", random.getrandbits(32), references=((one, 1.0),)) for one in given]
    for scene, reference, drawn in zip(chosen, given, draw(asks), strict=True):
        verdict = judge(drawn, scene)
        # Each in its role: noise holds every colour somewhere.
        right = bool(verdict.background and verdict.colour)
        answers.add("colours", right)
        answers.add_verdict(verdict, ("background", "colour", "shape"))
        answers.panels.append(Panel("", (reference, drawn), right))
    _mix(answers, draw, max(1, count // OTHER_SHARE), random)
    return answers


def _mix(answers: Answers, draw: Draw, count: int, random: Random) -> None:
    twos: list[tuple[Scene, Scene]] = []
    while len(twos) < count:
        one, other = scenes.held_out_single(random), scenes.held_out_single(random)
        if not one.colours & other.colours:
            twos.append((one, other))
    images = [tuple(drawing.draw(scene, *SQUARE, random) for scene in two) for two in twos]
    asks = [
        Ask("", random.getrandbits(32), references=tuple((image, 0.5) for image in two))
        for two in images
    ]
    for two, given, drawn in zip(twos, images, draw(asks), strict=True):
        seen = colours_in(drawn)
        # Something of both and nothing of others: noise holds every colour.
        mixed = (
            all(scene.colours & seen for scene in two) and seen <= two[0].colours | two[1].colours
        )
        answers.add("two references: colours of both", mixed)
        answers.panels.append(Panel("two references", (*given, drawn), mixed))


EXAMS: Mapping[str, Callable[[Draw, int, Random], Answers]] = MappingProxyType(
    {"text2img": text2img, "kontext": kontext, "fill": fill, "control": control, "redux": redux}
)


def segmentation(find: Find, count: int, random: Random) -> Answers:
    """Image and words -> mask: what is there must be found, what is not must not.

    Three in four images are squares; scenes hold one thing, two, or a crowd.
    """
    answers = Answers()
    others = [canvas for canvas in tasks.CANVASES if canvas != SQUARE]
    for number in range(count):
        scene = regions.held_out(random)
        is_other = number % OTHER_SHARE == 0
        canvas = others[number // OTHER_SHARE % len(others)] if is_other else SQUARE
        image = drawing.draw(scene, *canvas, random)
        parts = regions.covers(scene, *canvas)
        asked = [regions.region(random, scene) for _ in range(PHRASES)]
        said = [regions.words(random, region) for region in asked]
        prefix = "other canvases: " if is_other else ""
        for region, words, sure in zip(asked, said, find(image, said), strict=True):
            wanted = regions.mask(region, scene, parts) >= MARKED_AT
            marked = sure >= MARKED_AT
            _judge_found(answers, prefix, region.kind, wanted, marked)
            right = (
                (iou(wanted, marked) >= AT_LEAST["segmentation"]["IoU"])
                if wanted.any()
                else (marked.mean() <= AT_MOST["segmentation"]["absent: share marked"])
            )
            shown = (image, _shown(wanted), _shown(marked))
            answers.panels.append(Panel(words, shown, bool(right)))
    return answers


def _judge_found(answers: Answers, prefix: str, kind: str, wanted: Mask, marked: Mask) -> None:
    if not wanted.any():
        most = AT_MOST["segmentation"]["absent: share marked"]
        answers.add("absent: share marked", float(marked.mean()))
        answers.add("absent: nothing marked", float(marked.mean() <= most))
        return
    overlap = iou(wanted, marked)
    answers.add("IoU", overlap)
    answers.add(f"IoU: {kind}", overlap)
    if prefix:
        answers.add(f"{prefix}IoU", overlap)


def iou(wanted: Mask, marked: Mask) -> float:
    """Return the intersection of two masks over their union."""
    either = (wanted | marked).sum()
    return float((wanted & marked).sum() / either) if either else 1.0


def _shown(mask: Mask) -> Pixels:
    return _grey(mask.astype(np.float32))


def depth(estimate: Estimate, count: int, random: Random) -> Answers:
    """Image -> how near each pixel is; three in four images are squares."""
    answers = Answers()
    others = [canvas for canvas in tasks.CANVASES if canvas != SQUARE]
    for number in range(count):
        scene = regions.held_out(random)
        is_other = number % OTHER_SHARE == 0
        canvas = others[number // OTHER_SHARE % len(others)] if is_other else SQUARE
        image = drawing.draw(scene, *canvas, random)
        truth, found = drawing.nearness(scene, *canvas), estimate(image)
        error = float((np.abs(found - truth) / truth).mean())
        answers.add("relative error", error)
        answers.add("correlation", float(np.corrcoef(found.ravel(), truth.ravel())[0, 1]))
        if is_other:
            answers.add("other canvases: relative error", error)
        inside = truth > (drawing.FAR + drawing.NEAR) / 4
        answers.add("IoU of what is near", iou(inside, found > (drawing.FAR + drawing.NEAR) / 4))
        shown = tuple(_grey(np.clip(one, 0, 1)) for one in (truth, found))
        right = error <= AT_MOST["depth"]["relative error"]
        answers.panels.append(Panel("", (image, *shown), right))
    return answers


def _grey(levels: NDArray[np.float32]) -> Pixels:
    return np.repeat((levels * 255).round().astype(np.uint8)[:, :, None], 3, axis=2)
