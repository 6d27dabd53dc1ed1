"""Masks as anybody may send them: read rightly or refused, and nothing is left behind."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_mcp.errors import RequestError, WeightsMissingError
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.images.decoding import open_image
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.schemas import EditRequest, FillRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.image_models import ImageModels
from flux_mcp.service.inputs import Incoming, InputReader
from flux_mcp.settings.settings import Settings

SIZE = Size(48, 32)
MAX_PIXELS = 20_000


class World:
    """A reader and some files, and what lies in their folders."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "images"
        self.folder.mkdir()
        grain = np.random.default_rng(0).integers(0, 256, (32, 48, 4), np.uint8)
        Image.fromarray(grain).save(self.folder / "cutout.png")
        Image.fromarray(grain[:, :, :3].copy()).save(self.folder / "photo.png")
        for name, size in (("mask", (48, 32)), ("small", (24, 16)), ("square", (32, 32))):
            Image.new("L", size, 255).save(self.folder / f"{name}.png")
        (self.folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
        found = Settings(
            data_dir=root / "data", allowed_dirs=(self.folder,), max_image_pixels=MAX_PIXELS
        )
        self.reader = InputReader(
            found, ImageFiles(found.paths), ImageModels(found, load_registry())
        )
        self.files = self.listed()

    def listed(self) -> set[Path]:
        return set(self.root.rglob("*"))

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.png")

    def read(self, asked: dict[str, Any], image: str = "photo") -> tuple[Incoming, Incoming]:
        """Return the image and the mask of a fill."""
        fill = parse_request(FillRequest, {"prompt": "a", "image": self.path(image), **asked})
        first, mask = self.reader.read(fill, {})
        edit = {"prompt": "a", "images": [self.path(image), self.path("photo")], **asked}
        assert self.reader.read(parse_request(EditRequest, edit), {})[2] == mask
        return first, mask


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("masks"))
    yield made
    assert made.listed() == made.files


def whole(first: Incoming) -> Rectangle:
    return Rectangle(0, 0, first.image.width, first.image.height)


@pytest.mark.parametrize(
    ("asked", "image", "says"),
    [
        ({"box": [0.25, 0.25, 0.75, 0.75]}, "photo", "from (12, 8) to (36, 24), 25 % of"),
        ([[0, 0, 24, 32], [36, 0, 48, 32]], "photo", "from (0, 0) to (48, 32), 75 % of"),
        ({"image": "small"}, "photo", "from (0, 0) to (48, 32), 100 % of"),
        ({"outpaint": {"right": 1}}, "photo", "from (48, 0) to (96, 32), 50 % of the image of 96x"),
        ({"outpaint": "3:1", "box": [0, 0, 0.5, 1]}, "photo", "from (0, 0) to (96, 32), 75 % of"),
        ("alpha", "cutout", "from (0, 0) to (48, 32), 48 % of"),
    ],
)
def test_the_first_notice_says_where_the_mask_lies(
    world: World, asked: Any, image: str, says: str
) -> None:
    if isinstance(asked, dict) and "image" in asked:
        asked = {**asked, "image": world.path(asked["image"])}
    _, mask = world.read({"mask": asked, "feather_px": 0}, image)
    assert says in mask.image.notices[0]


# --- hostile -----------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.floats(0, 1),
    st.integers(-3, 60),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([10**400, -(10**400), 1e308, 2**63, True, None, "5", "nan", "0.5", ""]),
)
LISTS = st.one_of(
    st.lists(NUMBERS, max_size=6),
    st.lists(st.lists(NUMBERS, max_size=3), max_size=6),
    st.lists(st.dictionaries(st.sampled_from(["x", "y", "z"]), NUMBERS), max_size=4),
)
NAMES = [
    *("x", "y", "width", "height", "w", "h", "left", "top", "right", "bottom"),
    *("x0", "y0", "x1", "y1", "cx", "cy", "rx", "ry", "aspect_ratio", "anchor"),
]
RATIOS = st.sampled_from(["16:9", "1:1", "0:0", "1:999", "999:1", "16:9 left", "left=8", "top=1e9"])
OBJECTS = st.dictionaries(st.sampled_from(NAMES), st.one_of(NUMBERS, RATIOS), max_size=5)
JSON = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=8), st.booleans()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
FILES = st.sampled_from(
    ["mask", "small", "square", "broken", "photo", "cutout", "absent", "../../../etc/passwd"]
)
PLAUSIBLE = st.fixed_dictionaries(
    {},
    optional={
        "box": st.one_of(LISTS, OBJECTS),
        "polygon": st.one_of(
            st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=2), min_size=3, max_size=9),
            LISTS,
        ),
        "ellipse": st.one_of(LISTS, OBJECTS),
        "image": FILES.map(lambda name: f"FOLDER/{name}.png") | st.just("alpha"),
        "alpha": st.booleans(),
        "outpaint": st.one_of(RATIOS, OBJECTS, st.integers(0, 40).map(lambda px: {"left": px})),
        "words": st.text(max_size=5),
        "pick": st.one_of(st.sampled_from(["all", "largest"]), NUMBERS),
        "more": JSON,
    },
)
CORNERS = st.tuples(*[st.floats(0, 0.4)] * 2, *[st.floats(0.5, 1)] * 2).map(list)
GOOD = st.fixed_dictionaries(
    {"box": CORNERS},
    optional={
        "ellipse": CORNERS,
        "polygon": st.lists(
            st.tuples(st.integers(0, 48), st.integers(0, 32)).map(list), min_size=3, max_size=9
        ),
        "image": st.sampled_from(["FOLDER/mask.png", "FOLDER/small.png"]),
        "outpaint": st.integers(2, 40).map(lambda px: {"left": px, "bottom": px}),
    },
)
MASKS = st.one_of(
    GOOD,
    GOOD,
    GOOD.map(lambda mask: [mask, {"box": [0, 0, 9, 9]}]),
    PLAUSIBLE,
    st.lists(PLAUSIBLE, max_size=4),
    LISTS,
    OBJECTS,
    JSON,
    LISTS.map(lambda value: json.dumps(value, default=str)),
    st.text(max_size=20),
)
MORE = st.fixed_dictionaries(
    {},
    optional={
        "invert": st.booleans(),
        "grow_px": st.integers(-40, 40) | st.integers(-300, 300),
        "feather_px": st.integers(-1, 30) | st.integers(-2, 300),
    },
)


def named(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace("FOLDER", str(folder))
    if isinstance(value, list):
        return [named(one, folder) for one in value]
    if isinstance(value, dict):
        return {key: named(one, folder) for key, one in value.items()}
    return value


def survives(world: World, mask: Any, more: dict[str, Any], image: str) -> None:
    """Read a mask: it is refused deliberately, or it is a mask of its image."""
    try:
        first, found = world.read({"mask": named(mask, world.folder), **more}, image)
    except (RequestError, WeightsMissingError):  # the second: nothing here finds words
        return
    finished = found.mask
    assert finished is not None
    assert (found.image.width, found.image.height) == (first.image.width, first.image.height)
    assert first.image.width * first.image.height <= MAX_PIXELS
    assert 0 < finished.share <= 1
    assert whole(first).holds(finished.touched)
    assert finished.touched.holds(finished.changed)
    assert open_image(found.image).getbbox() == finished.touched.edges


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MASKS, MORE, st.sampled_from(["photo", "cutout"]))
def test_a_mask_is_read_or_refused(
    world: World, mask: Any, more: dict[str, Any], image: str
) -> None:
    survives(world, mask, more, image)


@pytest.mark.torture
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MASKS, MORE, st.sampled_from(["photo", "cutout"]))
def test_any_of_many_masks_is_read_or_refused(
    world: World, mask: Any, more: dict[str, Any], image: str
) -> None:
    survives(world, mask, more, image)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param({"polygon": [[0.5, 0.5]] * 100_000}, id="many points"),
        pytest.param({"polygon": [0.5] * 200_000}, id="many numbers"),
        pytest.param(json.dumps({"polygon": [[0.5, 0.5]] * 20_000}), id="many points as text"),
        pytest.param([{"polygon": [[0, 0], [1, 0], [1, 1]] * 300}] * 2, id="several of many"),
        pytest.param([{"box": [0, 0, 9, 9]}] * 100_000, id="many boxes"),
        pytest.param({"box": [0, 0, 9, 9], "more": [{"alpha": True}] * 100_000}, id="many more"),
        pytest.param(nested(300), id="deep"),
        pytest.param("[" * 100_000, id="deep text"),
        pytest.param({"outpaint": {"left": 1_000_000, "top": 1_000_000}}, id="large canvas"),
        pytest.param({"outpaint": "999:1"}, id="long canvas"),
        pytest.param({"outpaint": "1" * 100_000}, id="long text"),
        pytest.param({"box": [0, 0, 10**400, 10**400]}, id="large numbers"),
        pytest.param({"ellipse": {"cx": 1e308, "cy": 1e308, "rx": 1e308, "ry": 1}}, id="overflow"),
        pytest.param("x" * 1_000_000, id="long name"),
    ],
)
def test_what_is_too_much_is_refused_before_it_takes_memory(world: World, mask: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            world.read({"mask": mask})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 64 * 1024 * 1024
