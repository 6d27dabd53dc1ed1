"""Edges of images: found in any light, and as OpenCV itself would find them."""

from random import Random

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flux_mcp.images.structure import LEAST_HIGH, Thresholds, _gradients, canny
from training import drawing, scenes

Pixels = NDArray[np.uint8]
SIDE_PX = 256
NEAR = np.ones((5, 5), np.uint8)
"""An edge counts as found within two pixels."""


def drawings() -> list[tuple[Pixels, NDArray[np.bool_]]]:
    """Drawings, each with the outlines of what it shows."""
    random = Random(8)
    made = []
    for _ in range(12):
        scene = scenes.scene(random, empties=0)
        lines = np.zeros((SIDE_PX, SIDE_PX), bool)
        for thing in scene.things:
            inside = (drawing.coverage(thing, SIDE_PX, SIDE_PX) > 0.5).astype(np.uint8)
            lines |= inside > cv2.erode(inside, np.ones((3, 3), np.uint8))
        made.append((drawing.draw(scene, SIDE_PX, SIDE_PX, random), lines))
    return made


def score(image: Pixels, lines: NDArray[np.bool_], *thresholds: int) -> float:
    """Return the F1 of the edges of an image."""
    found = np.asarray(canny(Image.fromarray(image), *thresholds).image)[:, :, 0] > 0
    right = (found & (cv2.dilate(lines.astype(np.uint8), NEAR) > 0)).sum() / max(1, found.sum())
    seen = (lines & (cv2.dilate(found.astype(np.uint8), NEAR) > 0)).sum() / lines.sum()
    return float(2 * right * seen / max(1e-9, right + seen))


def faint(image: Pixels) -> Pixels:
    return (image * 0.15 + 100).round().astype(np.uint8)


def dark(image: Pixels) -> Pixels:
    return (image * 0.2).round().astype(np.uint8)


def soft(image: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2), np.uint8)


def grainy(image: Pixels) -> Pixels:
    grain = np.random.default_rng(3).normal(0, 8, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("spoil", [lambda image: image, faint, dark, soft, grainy])
def test_the_edges_of_things_are_found_whatever_the_light(spoil):
    found = [score(spoil(image), lines) for image, lines in drawings()]
    assert np.mean(found) > 0.93


def test_the_thresholds_the_weights_learned_from_miss_what_is_faint():
    """Why they are not used for every image."""
    assert np.mean([score(faint(image), lines, 50, 200) for image, lines in drawings()]) < 0.2


def test_gradients_are_measured_as_opencv_measures_them():
    random = np.random.default_rng(1)
    image = cv2.GaussianBlur(random.integers(0, 256, (96, 128, 3), np.uint8), (0, 0), 1.5)
    gradients = _gradients(np.asarray(image, np.uint8))
    for threshold in (40, 120, 240):
        lines = cv2.Canny(image, threshold, threshold) > 0
        assert lines.any()
        assert gradients[lines].min() > threshold
    highest = int(gradients.max())
    assert not cv2.Canny(image, highest, highest).any()


def test_thresholds_are_taken_as_given_and_the_other_follows():
    image = Image.fromarray(drawings()[0][0])
    assert canny(image, 30, 70).thresholds == Thresholds(30, 70)
    assert canny(image, None, 80).thresholds == Thresholds(40, 80)
    assert canny(image, 33).thresholds == Thresholds(33, 66)
    assert canny(image, 1500).thresholds == Thresholds(1500, 2040)
    chosen = canny(image).thresholds
    assert chosen.low == pytest.approx(chosen.high / 2, abs=0.5)


def test_nothing_is_found_in_a_flat_image():
    edges = canny(Image.new("RGB", (64, 48), (90, 200, 40)))
    assert edges.thresholds.high == LEAST_HIGH
    assert edges.share == 0
    assert edges.image.size == (64, 48)
