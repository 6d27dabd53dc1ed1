"""The examples of docs/masks.md do what stands under them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_mcp.gallery.files import ImageFiles
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.mask_arguments import MAX_POINTS, Area
from flux_mcp.requests.schemas import EditRequest, FillRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.image_models import ImageModels
from flux_mcp.service.inputs import InputReader
from flux_mcp.settings.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "masks.md").read_text(encoding="utf-8")
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
    return folder


def test_each_example_has_its_answer() -> None:
    assert len(EXAMPLES) == PAGE.count("```json") == PAGE.count("\n> ")


@pytest.mark.parametrize(("asked", "told"), EXAMPLES)
def test_an_example_answers_what_stands_under_it(asked: str, told: str, folder: Path) -> None:
    asked = asked.replace("img_...", f"{folder}/img.png").replace("/pictures/", f"{folder}/")
    settings = Settings(data_dir=folder.parent / "data", allowed_dirs=(folder,))
    reader = InputReader(
        settings, ImageFiles(settings.paths), ImageModels(settings, load_registry())
    )
    given: dict[str, Any] = json.loads(asked)
    incoming = reader.read(parse_request(FillRequest, given), {})
    notices = [notice for item in incoming for notice in item.image.notices]
    assert told in notices
    edit = {**given, "images": [given["image"]]}
    del edit["image"]
    again = reader.read(parse_request(EditRequest, edit), {})
    assert again[1].image.sha256 == incoming[1].image.sha256


def test_every_shape_and_its_bound_stands_there() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert named == set(Area.model_fields) - {"words", "threshold", "pick"}
    assert f"3 to {MAX_POINTS:,} corners" in PAGE
