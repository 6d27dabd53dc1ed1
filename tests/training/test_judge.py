"""The judge accepts true drawings, also soft or rough ones, and rejects every wrong word."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from random import Random

import cv2
import numpy as np
import pytest

from training import drawing, scenes, tasks
from training.drawing import Pixels
from training.finding import colour_under, found_thing, found_things
from training.judge import colours_in, edge_f1, judge, judge_empty, untouched
from training.scenes import COLOURS, PLACES, RADII, SHAPES, Scene, Thing

SIDE = 128
OTHERS = [canvas for canvas in tasks.CANVASES if canvas != (SIDE, SIDE)]


def as_it_is(image: Pixels) -> Pixels:
    return image


def blurred(image: Pixels) -> Pixels:
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def noisy(image: Pixels) -> Pixels:
    noise = np.random.default_rng(int(image.sum())).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def as_jpeg(image: Pixels) -> Pixels:
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 70]
    )
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def specked(image: Pixels) -> Pixels:
    dots = np.random.default_rng(int(image.sum())).integers(4, 120, (6, 2))
    image = image.copy()
    for x, y in dots:
        image[y : y + 3, x : x + 3] = (128, 128, 128)
    return image


WAYS = (as_it_is, blurred, noisy, as_jpeg, specked)


def draw(scene: Scene, seed: int = 0) -> Pixels:
    return drawing.draw(scene, SIDE, SIDE, Random(seed))


def others(names: Iterable[str], than: str) -> list[str]:
    return [name for name in names if name != than]


def scene_of(shape: str = "heart", colour: str = "red", background: str = "white") -> Scene:
    return Scene(background, (Thing(shape, colour, 0.5, 0.5, 0.22, "medium", "center"),))


MANY = pytest.mark.torture
"""More drawings of the same sort."""


@pytest.mark.parametrize(("seed", "drawings"), [(1, 30), pytest.param(11, 70, marks=MANY)])
@pytest.mark.parametrize(
    "way", [blurred, *(pytest.param(way, marks=MANY) for way in WAYS if way is not blurred)]
)
def test_a_true_drawing_is_right_however_it_was_treated(
    way: Callable[[Pixels], Pixels], seed: int, drawings: int
) -> None:
    random = Random(seed)
    for _ in range(drawings):
        scene = scenes.single(random)
        assert judge(way(drawing.draw(scene, SIDE, SIDE, random)), scene).right, scene


@pytest.mark.parametrize(
    "way", [as_jpeg, pytest.param(as_it_is, marks=MANY), pytest.param(noisy, marks=MANY)]
)
def test_a_true_drawing_is_right_on_every_canvas(way: Callable[[Pixels], Pixels]) -> None:
    # Without a blur: one of 1.5 px makes stars of 8 px, on the smallest canvas, round to any eye.
    random = Random(2)
    wrong = []
    for index in range(72):
        scene = scenes.single(random)
        image = way(drawing.draw(scene, *OTHERS[index % len(OTHERS)], random))
        if not judge(image, scene).right:
            wrong.append(scene)
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(("seed", "drawings"), [(3, 15), pytest.param(13, 35, marks=MANY)])
@pytest.mark.parametrize("way", [blurred, pytest.param(as_it_is, marks=MANY)])
def test_a_true_pair_is_right_and_its_mirror_is_not(
    way: Callable[[Pixels], Pixels], seed: int, drawings: int
) -> None:
    random = Random(seed)
    for _ in range(drawings):
        scene = scenes.pair(random)
        image = way(drawing.draw(scene, SIDE, SIDE, random))
        assert judge(image, scene).right, scene
        first, second = scene.things
        if (first.shape, first.colour) != (second.shape, second.colour):
            mirrored = replace(scene, things=(second, first))
            assert not judge(image, mirrored).right, scene


def test_one_thing_is_no_pair_and_a_second_one_is_wrong_even_if_small() -> None:
    thing = Thing("circle", "blue", 0.27, 0.5, 0.19)
    alone = Scene("white", (thing,))
    twice = Scene("white", (thing, replace(thing, x=0.73)), "left of")
    with_small = Scene("white", (thing, replace(thing, x=0.8, radius=0.13 * 0.94)))
    assert not judge(draw(alone), twice).right
    assert not judge(draw(twice), alone).right
    assert not judge(draw(with_small), alone).right


def test_another_shape_is_wrong() -> None:
    for drawn, treat in product(SHAPES, (as_it_is, blurred)):
        image = treat(draw(scene_of(drawn)))
        for asked in others(SHAPES, drawn):
            verdict = judge(image, scene_of(asked))
            found = (verdict.shape, verdict.colour, verdict.background)
            assert found == (False, True, True), (drawn, asked, treat.__name__)


def test_another_colour_is_wrong() -> None:
    colours = others(COLOURS, "white")
    for drawn in colours:
        image = draw(scene_of(colour=drawn))
        assert judge(image, scene_of(colour=drawn)).right
        for asked in others(colours, drawn):
            verdict = judge(image, scene_of(colour=asked))
            assert verdict.colour is False
            assert verdict.shape


def test_grey_is_no_colour() -> None:
    image = draw(scene_of(background="black"))
    image[drawing.coverage(scene_of().things[0], SIDE, SIDE) > 0] = (128, 128, 128)
    found = found_thing(image)
    assert found is not None
    assert (found.shape, found.colour) == ("heart", None)


def test_another_background_is_wrong() -> None:
    colours = others(COLOURS, "red")
    for drawn in colours:
        image = draw(scene_of(background=drawn))
        assert judge(image, scene_of(background=drawn)).right
        for asked in others(colours, drawn):
            assert not judge(image, scene_of(background=asked)).background


def test_another_place_is_wrong_and_none_is_not_judged() -> None:
    for drawn, (x, y) in PLACES.items():
        thing = Thing("star", "blue", x, y, 0.2, None, drawn)
        image = draw(Scene("pink", (thing,)))
        assert judge(image, Scene("pink", (thing,))).right
        assert judge(image, Scene("pink", (replace(thing, place=None),))).place is None
        for asked in others(PLACES, drawn):
            verdict = judge(image, Scene("pink", (replace(thing, place=asked),)))
            assert verdict.place is False
            assert verdict.shape


def test_another_size_is_wrong_and_none_is_not_judged() -> None:
    for shape, drawn in product(SHAPES, RADII):
        thing = Thing(shape, "black", 0.5, 0.5, RADII[drawn], drawn)
        image = draw(Scene("yellow", (thing,)))
        assert judge(image, Scene("yellow", (thing,))).right, (shape, drawn)
        assert judge(image, Scene("yellow", (replace(thing, size=None),))).size is None
        for asked in others(RADII, drawn):
            assert not judge(image, Scene("yellow", (replace(thing, size=asked),))).size


def test_a_blot_is_no_shape() -> None:
    image = draw(Scene("white", ()))
    cv2.rectangle(image, (35, 30), (50, 95), COLOURS["blue"], -1)
    cv2.rectangle(image, (35, 80), (95, 95), COLOURS["blue"], -1)
    assert len(found_things(image)) == 1
    found = found_thing(image)
    assert found is not None
    assert found.colour == "blue"
    assert not any(judge(image, scene_of(shape, "blue")).shape for shape in SHAPES)


def test_an_empty_image_shows_no_thing_and_a_thing_is_not_empty() -> None:
    image = noisy(draw(Scene("cyan", ())))
    assert judge_empty(image, "cyan").right
    assert not judge_empty(image, "blue").right
    assert found_thing(image) is None
    assert not judge(image, scene_of(background="cyan")).right
    assert not judge_empty(draw(scene_of(background="cyan")), "cyan").right


def test_the_biggest_thing_is_found_with_its_name_place_and_radius() -> None:
    big, small = Thing("ring", "green", 0.3, 0.5, 0.25), Thing("cross", "pink", 0.8, 0.5, 0.15)
    image = draw(Scene("black", (small, big)))
    first, second = found_things(image)
    assert (first.shape, first.colour) == ("ring", "green")
    assert (second.shape, second.colour) == ("cross", "pink")
    assert (first.x, first.y, first.radius) == pytest.approx((0.3, 0.5, 0.25), abs=0.01)
    assert colour_under(image, drawing.coverage(big, SIDE, SIDE) == 1) == "green"
    assert colour_under(image, np.zeros((SIDE, SIDE), bool)) is None


def test_edges_are_found_within_the_tolerance_and_missed_elsewhere() -> None:
    random = Random(5)
    for _ in range(25):
        scene = scenes.single(random)
        edges = drawing.edges(draw(scene))
        assert edge_f1(draw(scene), edges) == pytest.approx(1.0)
        assert edge_f1(blurred(draw(scene)), edges) > 0.95
        assert edge_f1(noisy(draw(scene)), edges) > 0.95
    near, far = (Scene("white", (Thing("square", "red", x, 0.5, 0.2),)) for x in (0.5, 0.6))
    assert edge_f1(draw(far), drawing.edges(draw(near))) < 0.6
    both = Scene("white", (near.things[0], replace(near.things[0], x=0.2, radius=0.1)))
    assert edge_f1(draw(both), drawing.edges(draw(near))) < 0.85
    assert edge_f1(draw(near), drawing.edges(draw(both))) < 0.85
    shifted = np.roll(draw(near), 4, axis=1)
    assert edge_f1(shifted, drawing.edges(draw(near)), 5) == pytest.approx(1.0)


def test_edges_of_nothing_match_nothing_only() -> None:
    empty, thing = draw(Scene("white", ())), draw(scene_of())
    assert edge_f1(empty, drawing.edges(empty)) == 1.0
    assert edge_f1(empty, drawing.edges(thing)) == 0.0
    assert edge_f1(thing, drawing.edges(empty)) == 0.0


def test_untouched_counts_what_stayed_outside_of_the_mask() -> None:
    before = draw(Scene("orange", ()))
    after = before.copy()
    after[:32] = 0
    nowhere = np.zeros((SIDE, SIDE), bool)
    assert untouched(before, after, nowhere) == 0.75
    top = nowhere.copy()
    top[:64] = True
    assert untouched(before, after, top) == 1.0
    assert untouched(before, after, ~top) == 0.5
    assert untouched(before, after, ~nowhere) == 1.0
    drifted = np.clip(before.astype(int) - 8, 0, 255).astype(np.uint8)
    assert untouched(before, drifted, nowhere) == 1.0
    assert untouched(before, drifted, nowhere, tolerance=5) == 0.0


def test_colours_are_counted_without_the_mixed_ones_at_edges() -> None:
    random = Random(6)
    for _ in range(30):
        scene = scenes.single(random)
        for way in (as_it_is, blurred, noisy):
            assert colours_in(way(draw(scene))) == scene.colours, scene
    assert colours_in(draw(scene_of("star")), least_share=0.5) == {"white"}
