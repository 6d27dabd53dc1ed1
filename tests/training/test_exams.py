"""An evaluation must give full marks to the truth, and none to what was given back unchanged."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from training import captions, drawing, exams, tasks
from training.answers import Answers, Panel, Row
from training.asks import Ask, composite
from training.drawing import Pixels
from training.edits import Edit
from training.scenes import Scene
from training.sentences import Sentence, Wording
from training.sheets import IMAGE_PX, sheet

COUNT = 16


def marks(kind: str, draw: Callable[[list[Ask]], list[Pixels]]) -> dict[str, Row]:
    answers = exams.EXAMS[kind](draw, COUNT, Random(7))
    return {row.name: row for row in answers.rows(kind)}


def given_back(asks: list[Ask]) -> list[Pixels]:
    return [ask.given for ask in asks if ask.given is not None]


def grey(asks: list[Ask]) -> list[Pixels]:
    return [np.full((ask.height_px, ask.width_px, 3), 128, np.uint8) for ask in asks]


@pytest.fixture
def scenes_by_caption(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scene]:
    """Captions that are numbers, so that a drawer can look the scene up."""
    known: dict[str, Scene] = {}

    def caption(_random: Random, scene: Scene) -> str:
        known[str(len(known))] = scene
        return str(len(known) - 1)

    def reworded(random: Random, scene: Scene, _templates: object = None) -> Wording:
        sentence = Sentence((caption(random, scene),), (None,))
        return Wording(sentence, sentence)

    monkeypatch.setattr(captions, "caption", caption)
    monkeypatch.setattr(captions, "reworded", reworded)
    monkeypatch.setattr(captions, "GROUNDS", ("", ""))  # a number is said on any backdrop
    return known


def test_text2img_gives_full_marks_to_true_drawings(scenes_by_caption: dict[str, Scene]) -> None:
    def truth(asks: list[Ask]) -> list[Pixels]:
        return [
            drawing.draw(scenes_by_caption[ask.prompt], ask.width_px, ask.height_px, Random(0))
            for ask in asks
        ]

    rows = marks("text2img", truth)
    assert {row.value for row in rows.values()} == {1.0}
    assert {"all", "other canvases: all", "pairs: all", "backdrop: all"} <= rows.keys()
    assert rows["telegraphic: all"].reached
    assert rows["telegraphic, wordings never seen: all"].count == COUNT // 4
    assert rows["background"].reached
    assert rows["all"].reached is None


def test_text2img_gives_no_marks_to_grey_images() -> None:
    rows = marks("text2img", grey)
    assert rows["all"].value == 0
    assert rows["colour"].reached is False


def test_kontext_gives_full_marks_to_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tasks.Example] = []
    make = tasks.kontext_of

    def remember(edit: Edit, random: Random, width_px: int, height_px: int) -> tasks.Example:
        made.append(make(edit, random, width_px, height_px))
        return made[-1]

    monkeypatch.setattr(tasks, "kontext_of", remember)
    rows = marks("kontext", lambda asks: [example.target for example in made[-len(asks) :]])
    assert {row.value for row in rows.values()} == {1.0}
    assert {"edit done", "other words: edit done", "it: edit done"} <= rows.keys()


def test_kontext_sees_that_nothing_was_done_and_nothing_touched() -> None:
    rows = marks("kontext", given_back)
    assert rows["edit done"].value == rows["other words: edit done"].value == 0
    assert rows["rest untouched"].value == 1
    assert marks("kontext", grey)["rest untouched"].value == 0


def test_fill_gives_full_marks_to_the_whole_image() -> None:
    rows = marks("fill", given_back)
    shares = {row.value for name, row in rows.items() if "255" not in name}
    assert shares == {1.0}
    assert rows["outside: mean difference of 255"].reached


def test_fill_judges_the_hole_and_keeps_the_original_outside() -> None:
    rows = marks("fill", grey)
    assert rows["inside right"].value == 0
    assert rows["outpainting: background"].value == 0
    assert rows["outside: mean difference of 255"].value == 0
    assert rows["outside, as drawn: mean difference of 255"].value > 20


def test_control_measures_edges_against_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tasks.Example] = []
    make = tasks.control

    def remember(*arguments: object) -> tasks.Example:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(tasks, "control", remember)

    def truth(asks: list[Ask]) -> list[Pixels]:
        return [example.target for example in made[-len(asks) :]]

    assert {row.value for row in marks("control", truth).values()} == {1.0}
    assert marks("control", grey)["canny: edge F1"].value == 0


def test_redux_gives_full_marks_to_the_reference_itself() -> None:
    rows = marks("redux", lambda asks: [ask.references[0][0] for ask in asks])
    alone = {row.value for name, row in rows.items() if "two" not in name}
    assert alone == {1.0}
    assert rows["two references: colours of both"].value == 0


def test_redux_gives_no_marks_to_noise_of_every_colour() -> None:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 255, (COUNT, 8, 8, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    rows = marks("redux", lambda asks: list(blocks[: len(asks)]))
    assert rows["colours"].value < 0.2
    assert rows["two references: colours of both"].value == 0


def test_a_goal_without_images_is_not_reached_and_not_missed() -> None:
    rows = {row.name: row for row in Answers().rows("fill")}
    assert rows["inside right"].value is None
    assert rows["inside right"].reached is None
    assert Row("x", 3.0, 1, at_most=3.0).reached
    assert not Row("x", 3.1, 1, at_most=3.0).reached


def test_the_original_stays_where_the_mask_is_black() -> None:
    original, drawn = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    whole = composite(original, drawn, mask)
    assert (whole[:, :4] == 0).all()
    assert (whole[:, 4:] == 9).all()


def test_a_sheet_shows_examples_of_any_canvas_by_lot() -> None:
    tall, wide = (np.zeros((*size, 3), np.uint8) for size in ((192, 80), (80, 192)))
    panels = [Panel(f"image {i}", (tall, wide), right=i % 2 == 0) for i in range(60)]
    first, again, other = (np.asarray(sheet(panels, seed)) for seed in (1, 1, 2))
    assert first.shape[1] > 2 * IMAGE_PX
    assert (first == again).all()
    assert (first != other).any()
