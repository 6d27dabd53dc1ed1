"""Words in masks, found by micro's CLIPSeg in its own process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flux_mcp.errors import NothingFoundError, WeightsMissingError
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.images.decoding import open_image
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.schemas import EditRequest, FillRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.image_models import ImageModels
from flux_mcp.service.inputs import Incoming, InputReader
from flux_mcp.settings.settings import Settings

SIZE = (320, 200)
LEFT, RIGHT = (30, 60, 110, 140), (210, 60, 290, 140)


class Finding:
    """A reader, and a drawing of a red circle at the left and a blue square at the right."""

    def __init__(self, folder: Path) -> None:
        drawing = Image.new("RGB", SIZE, "white")
        pen = ImageDraw.Draw(drawing)
        pen.ellipse(LEFT, fill=(220, 30, 30))
        pen.rectangle(RIGHT, fill=(30, 60, 210))
        self.path = folder / "drawing.png"
        drawing.save(self.path)
        settings = Settings(data_dir=folder / "data", allowed_dirs=(folder,), torch_threads=1)
        self.models = ImageModels(settings, load_registry())
        self.reader = InputReader(settings, ImageFiles(settings.paths), self.models)

    def mask(self, mask: Any, *, is_demo: bool = True, **more: Any) -> tuple[Incoming, np.ndarray]:
        asked = {"prompt": "a", "image": str(self.path), "mask": mask, "feather_px": 0, **more}
        _, found = self.reader.read(
            parse_request(FillRequest, asked), {}, for_demonstration=is_demo
        )
        return found, np.asarray(open_image(found.image)) > 0


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finding]:
    made = Finding(tmp_path_factory.mktemp("words"))
    yield made
    made.models.close()


def drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return the true mask: the circle for the left box, the square for the right one."""
    canvas = Image.new("L", SIZE, 0)
    pen = ImageDraw.Draw(canvas)
    for box in boxes:
        (pen.ellipse if box == LEFT else pen.rectangle)(box, fill=255)
    return np.asarray(canvas) > 0


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(
    ("mask", "boxes"),
    [
        ({"words": "the red circle"}, [LEFT]),
        ({"words": "the blue square"}, [RIGHT]),
        ({"words": "the shapes"}, [LEFT, RIGHT]),
        ({"words": "the shapes", "pick": 1}, [LEFT]),
        ({"words": "the shapes", "pick": 2}, [RIGHT]),
        ([{"words": "the red circle"}, {"words": "the blue square"}], [LEFT, RIGHT]),
        ({"words": "the red circle", "box": [210, 60, 291, 141]}, [LEFT, RIGHT]),
    ],
)
def test_words_find_what_they_say(finding: Finding, mask: Any, boxes: list[Any]) -> None:
    _, found = finding.mask(mask)
    assert iou(found, drawn(*boxes)) >= 0.9


def test_what_was_found_is_said_and_what_can_be_picked(finding: Finding) -> None:
    found, _ = finding.mask({"words": "the shapes"})
    told = " ".join(found.image.notices)
    assert "'the shapes', found by micro's CLIPSeg (threshold 0.5), from left to right: 1." in told
    assert "; 2. (" in told
    assert "pick takes one by its number" in told
    found, _ = finding.mask({"words": "the shapes", "pick": "largest"})
    assert " Taken: " in " ".join(found.image.notices)


def test_what_words_find_is_grown_inverted_and_softened_like_all_of_a_mask(
    finding: Finding,
) -> None:
    _, plain = finding.mask({"words": "the red circle"})
    _, grown = finding.mask({"words": "the red circle"}, grow_px=10)
    assert grown.sum() > plain.sum()
    assert (grown | ~plain).all()
    _, inverted = finding.mask({"words": "the red circle"}, invert=True)
    assert (inverted == ~plain).all()
    asked = {"prompt": "a", "images": [str(finding.path)], "mask": {"words": "the red circle"}}
    edit = parse_request(EditRequest, asked)
    mask = finding.reader.read(edit, {}, for_demonstration=True)[1]
    assert any("is softened by" in notice for notice in mask.image.notices)


def test_a_higher_threshold_finds_less(finding: Finding) -> None:
    masks = [finding.mask({"words": "the red circle", "threshold": one})[1] for one in (0.2, 0.9)]
    assert masks[1].sum() < masks[0].sum()
    assert not (masks[1] & ~masks[0]).any()


def test_the_same_words_find_the_same_pixels(finding: Finding) -> None:
    first, again = (finding.mask({"words": "the blue square"})[0] for _ in range(2))
    assert first.image.sha256 == again.image.sha256


@pytest.mark.parametrize("words", ["a green star", "the car", "the yellow heart"])
def test_nothing_found_is_an_error_that_says_how_near_it_was(finding: Finding, words: str) -> None:
    with pytest.raises(NothingFoundError, match="at most, and the threshold is") as refused:
        finding.mask({"words": words})
    assert "lower threshold" in refused.value.hint


def test_a_number_that_is_too_high_is_an_error_that_lists_what_there_is(finding: Finding) -> None:
    with pytest.raises(NothingFoundError, match=r"pick is 3, and .* finds 2") as refused:
        finding.mask({"words": "the shapes", "pick": 3})
    assert "1. (" in refused.value.hint


def test_micros_model_is_for_micro_alone(finding: Finding) -> None:
    with pytest.raises(WeightsMissingError, match="finds words in an image") as refused:
        finding.mask({"words": "the red circle"}, is_demo=False)
    assert "models pull clipseg-rd64" in refused.value.hint
