"""The examples of docs/masks.md do what stands under them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from flux_mcp.gallery.files import ImageFiles
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.mask_arguments import MAX_POINTS, Area
from flux_mcp.requests.schemas import EditRequest, FillRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.image_models import ImageModels
from flux_mcp.service.inputs import InputReader
from flux_mcp.settings.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "masks.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
EXAMPLES = re.findall(r"```json\n(.+?)\n```\n\n> (.+)\n", PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (600, 400), "grey").save(folder / "img.png")
    sky = Image.new("L", (300, 200), 0)
    sky.paste(255, (0, 0, 300, 100))
    sky.save(folder / "sky.png")
    chair = Image.new("RGBA", (600, 400), "brown")
    chair.paste((0, 0, 0, 0), (0, 0, 600, 100))
    chair.save(folder / "chair.png")
    shapes = Image.new("RGB", (600, 400), "white")
    pen = ImageDraw.Draw(shapes)
    pen.ellipse((60, 120, 220, 280), fill=(220, 30, 30))
    pen.rectangle((380, 120, 540, 280), fill=(30, 60, 210))
    shapes.save(folder / "shapes.png")
    return folder


def test_each_example_has_its_answer() -> None:
    assert len(EXAMPLES) == PAGE.count("```json") == PAGE.count("\n> ")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageModels]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("models") / "data", torch_threads=1)
    made = ImageModels(settings, load_registry())
    yield made
    made.close()


@pytest.mark.parametrize(("asked", "told"), EXAMPLES)
def test_an_example_answers_what_stands_under_it(
    asked: str, told: str, folder: Path, models: ImageModels
) -> None:
    asked = asked.replace("img_...", f"{folder}/img.png").replace("/pictures/", f"{folder}/")
    settings = Settings(data_dir=folder.parent / "data", allowed_dirs=(folder,))
    reader = InputReader(settings, ImageFiles(settings.paths), models)
    given: dict[str, Any] = json.loads(asked)
    incoming = reader.read(parse_request(FillRequest, given), {}, for_demonstration=True)
    notices = [notice for item in incoming for notice in item.image.notices]
    if "words" in given["mask"]:
        # The last bits of a model's numbers depend on the processor, and so may an edge.
        assert any(is_nearly(told, one) for one in notices), notices
    else:
        assert told in notices
    edit = {**given, "images": [given["image"]]}
    del edit["image"]
    again = reader.read(parse_request(EditRequest, edit), {}, for_demonstration=True)
    assert again[1].image.sha256 == incoming[1].image.sha256


def is_nearly(told: str, notice: str) -> bool:
    """Whether two texts differ in their numbers alone, and by little."""
    numbers = [[float(one) for one in NUMBER.findall(text)] for text in (told, notice)]
    same = NUMBER.sub("", told) == NUMBER.sub("", notice)
    return same and all(abs(one - other) <= 3 for one, other in zip(*numbers, strict=True))


def test_every_shape_and_its_bound_stands_there() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert named == set(Area.model_fields) - {"words", "threshold", "pick"}
    assert all(f"`{name}`" in PAGE for name in ("words", "threshold", "pick"))
    assert f"3 to {MAX_POINTS:,} corners" in PAGE
