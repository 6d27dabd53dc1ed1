"""Words for parts of an image mean the right pixels, and the exams of the helpers are fair."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from training import exams, regions, scenes
from training.evaluate import SEED, evaluate_helper
from training.regions import Region
from training.scenes import Scene, Thing

WEIGHTS = Path(__file__).resolve().parents[2] / "src" / "flux_mcp" / "weights" / "micro"
SIDE_PX = 64
SCENE = Scene(
    "green",
    (
        Thing("circle", "red", 0.28, 0.28, 0.2),
        Thing("square", "red", 0.74, 0.28, 0.12),
        Thing("circle", "blue", 0.34, 0.4, 0.12),
    ),
)
"""The last lies over the first."""


def taken(asked: Region) -> set[int]:
    """Return which parts a region takes: the numbers of things, or 3 for the background."""
    parts = regions.covers(SCENE, SIDE_PX, SIDE_PX)
    mask = regions.mask(asked, SCENE, parts)
    found = {i for i, part in enumerate(parts) if mask[part > 0.99].mean() > 0.99}
    assert np.allclose(mask, sum(parts[i] for i in found)) if found else not mask.any()
    return found


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (Region("circle"), {0, 2}),
        (Region("circle", "red"), {0}),
        (Region(colour="red"), {0, 1}),
        (Region("square", "blue"), set()),
        (Region("circle", size="small"), {2}),
        (Region("circle", size="large"), set()),
        (Region(colour="red", place="right"), {1}),
        (Region(place="top left"), {0}),
        (Region("circle", place="left"), {0, 2}),
        (Region(), {0, 1, 2}),
        (Region(what="ground"), {3}),
        (Region(what="ground", colour="red"), set()),
        (Region(what="colour", colour="green"), {3}),
        (Region(what="colour", colour="red"), {0, 1}),
        (Region(what="nobody"), set()),
    ],
)
def test_a_region_takes_what_its_words_mean(asked, parts):
    assert taken(asked) == parts


def test_parts_are_what_is_seen_and_make_up_the_image():
    parts = regions.covers(SCENE, SIDE_PX, SIDE_PX)
    assert np.allclose(sum(parts), 1)
    assert parts[0][round(0.4 * SIDE_PX), round(0.34 * SIDE_PX)] == 0, "the blue circle hides it"


def test_words_say_each_attribute_and_nothing_else():
    random = Random(5)
    for _ in range(300):
        asked = regions.region(random, SCENE)
        said = regions.words(random, asked).lower().rstrip(".").replace(",", "").split()
        colours = set(said) & set(scenes.COLOURS)
        assert colours == ({asked.colour} if asked.colour else set())
        if asked.shape:
            nouns = regions.NOUNS[asked.shape]
            assert any(word in (noun, noun + "s", noun + "es") for word in said for noun in nouns)


def test_training_keeps_out_of_what_the_exam_asks():
    random = Random(6)
    assert not any(scenes.has_held_out(regions.scene(random)) for _ in range(200))
    assert all(scenes.has_held_out(regions.held_out(random)) for _ in range(50))


@pytest.fixture
def asked_regions(monkeypatch):
    """Words that are numbers, so that a finder can look up what they mean."""
    known, at = {}, {}

    def words(_random, asked):
        known[str(len(known))] = asked
        return str(len(known) - 1)

    def held_out(random):
        at["scene"] = scenes.held_out_single(random)
        return at["scene"]

    monkeypatch.setattr(regions, "words", words)
    monkeypatch.setattr(regions, "held_out", held_out)
    return known, at


def test_the_truth_gets_full_marks(asked_regions):
    known, at = asked_regions

    def truth(image, phrases):
        parts = regions.covers(at["scene"], image.shape[1], image.shape[0])
        return [regions.mask(known[phrase], at["scene"], parts) for phrase in phrases]

    rows = {row.name: row for row in exams.segmentation(truth, 24, Random(1)).rows("segmentation")}
    assert rows["IoU"].value == 1
    assert rows["absent: share marked"].value == 0
    assert rows["absent: share marked"].count > 10


@pytest.mark.parametrize(("level", "iou", "absent"), [(0.0, 0, 0), (1.0, None, 1)])
def test_marking_nothing_or_everything_is_not_rewarded(level, iou, absent):
    def blind(image, phrases):
        return [np.full(image.shape[:2], level, np.float32)] * len(phrases)

    rows = {row.name: row for row in exams.segmentation(blind, 24, Random(1)).rows("segmentation")}
    assert rows["IoU"].value == iou if iou is not None else rows["IoU"].value < 0.5
    assert rows["absent: share marked"].value == absent
    assert not (rows["IoU"].reached and rows["absent: share marked"].reached)


@pytest.mark.parametrize("helper", ["segmentation", "depth"])
def test_the_shipped_helpers_reach_their_goals(helper):
    report = evaluate_helper(helper, WEIGHTS, 8, SEED, "cpu")
    goals = [row for row in report.rows if row.reached is not None]
    assert goals
    assert all(row.reached for row in goals), goals
