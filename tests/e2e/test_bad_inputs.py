"""Whatever is sent, the caller is told what is wrong and what to do, and nothing is left behind."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import TextContent

from flux_mcp.server.app import build_server
from flux_mcp.server.tools import TOOLS
from flux_mcp.service.service import Service
from flux_mcp.settings.installation import own_command
from flux_mcp.settings.settings import Settings
from tests.e2e.bad_images import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    bomb_png,
    data_uri,
    write_images,
)
from tests.server.images import keep_image, noise

pytestmark = pytest.mark.anyio


@dataclass
class World:
    """A service without an executor, and the images and cursors the rows speak of."""

    service: Service
    images: Path
    image: str
    """Id of a gallery image of 64x64."""
    cursor: str
    """Of a search for everything, two rows a page."""
    job: str

    def file(self, name: str) -> str:
        return str(self.images / name)


Arguments = dict[str, Any]


@dataclass(frozen=True)
class Bad:
    """One bad input and what its answer must say."""

    tool: str
    arguments: Arguments | Callable[[World], Arguments]
    code: str
    says: str
    """A part of the answer: what is wrong, or the hint."""
    hint: str = ""
    """Another part, where one is not enough."""


@pytest.fixture(scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, weights_dir: Path
) -> AsyncIterator[World]:
    pictures = tmp_path_factory.mktemp("allowed")
    write_images(pictures, tmp_path_factory.mktemp("outside"))
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("bad") / "data",
        weights_dir=weights_dir,
        allowed_dirs=(pictures,),
        max_image_bytes=MAX_IMAGE_BYTES,
        max_image_pixels=MAX_IMAGE_PIXELS,
    )
    service = Service(settings, executes=False)
    await service.open()
    kept = [await keep_image(service, noise(64, 64, n), 64, 64, index=n) for n in range(3)]
    async with Client(build_server(service)) as client:
        asked = {"prompt": "a circle", "seed": 1, "wait_s": 0, "idempotency_key": "used"}
        first = await client.call_tool("flux_generate", asked)
        page = await client.call_tool("flux_search_gallery", {"limit": 2, "preview": "none"})
    assert first.structured_content is not None
    assert page.structured_content is not None
    yield World(
        service,
        pictures,
        kept[0].id,
        page.structured_content["next_cursor"],
        first.structured_content["job_id"],
    )
    await service.close()


@pytest.fixture(scope="module", params=["auto", "legacy"])
async def client(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """The SDK's client in one of the protocol's two eras."""
    async with Client(build_server(world.service), mode=request.param) as client:
        yield client


# --- the table ---------------------------------------------------------------------------------


def generate(code: str, says: str, hint: str = "", /, **arguments: Any) -> Bad:
    return Bad("flux_generate", {"prompt": "a circle", **arguments}, code, says, hint)


def edit(code: str, says: str, image: str, hint: str = "") -> Bad:
    """An edit of a file of the images folder, or of whatever reference is given."""

    def arguments(world: World) -> Arguments:
        return {"prompt": "make it red", "images": [image.format(**names(world))]}

    return Bad("flux_edit", arguments, code, says, hint)


def names(world: World) -> dict[str, str]:
    return {"folder": str(world.images), "image": world.image}


def fill(code: str, says: str, hint: str = "", /, **arguments: Any) -> Bad:
    def filled(world: World) -> Arguments:
        return _named(
            {"prompt": "a hat", "image": "{image}", "mask": {"box": BOX}, **arguments}, world
        )

    return Bad("flux_fill", filled, code, says, hint)


def vary(code: str, says: str, hint: str = "", /, **arguments: Any) -> Bad:
    return Bad(
        "flux_variation",
        lambda world: _named({"images": ["{image}"], **arguments}, world),
        code,
        says,
        hint,
    )


def follow(code: str, says: str, hint: str = "", /, **arguments: Any) -> Bad:
    return Bad(
        "flux_structural",
        lambda world: _named({"prompt": "a house", **arguments}, world),
        code,
        says,
        hint,
    )


def compose(code: str, says: str, hint: str = "", /, **choices: Any) -> Bad:
    """Choose in a pack; `prompt` goes beside it."""
    beside = {"prompt": choices.pop("prompt")} if "prompt" in choices else {}
    pack = {"name": "micro-shapes", **choices}
    return Bad("flux_generate", {"pack": pack, **beside}, code, says, hint)


def search(code: str, says: str, hint: str = "", /, **arguments: Any) -> Bad:
    return Bad("flux_search_gallery", arguments, code, says, hint)


def get_job(code: str, says: str, hint: str = "", /, **arguments: Any) -> Bad:
    return Bad("flux_get_job", arguments, code, says, hint)


def cancel(code: str, says: str, hint: str = "", /, **arguments: Any) -> Bad:
    return Bad("flux_cancel_job", arguments, code, says, hint)


def _named(value: Any, world: World) -> Any:
    """Put real ids and folders where a row says {image} or {folder}."""
    if isinstance(value, str):
        return value.format(**names(world)) if value.startswith("{") else value
    if isinstance(value, list):
        return [_named(item, world) for item in value]
    if isinstance(value, dict):
        return {key: _named(item, world) for key, item in value.items()}
    return value


BOX = {"x": 0, "y": 0, "width": 32, "height": 32}
REQUEST, SIZE, OPTION = "invalid_request", "invalid_size", "unsupported_option"
IMAGE, PATH = "invalid_image", "path_not_allowed"

SIZES = [
    generate(SIZE, "multiples of 16", "Ask for 96x96.", width=100, height=100),
    generate(SIZE, "multiples of 16", "Ask for 64x64.", width=65, height=64),
    generate(SIZE, "at least 64 px", "Ask for 64x64.", width=16, height=16),
    generate(SIZE, "at most 256 px", "Ask for 256x256.", width=512, height=512),
    generate(SIZE, "at most 256 px", "Ask for 256x64.", width=100_000, height=1600),
    generate(SIZE, "cannot be drawn by micro", "Ask for 256x256.", width=10**30, height=10**30),
    generate(SIZE, "at most 256 px", "Ask for 256x256.", width=512, height=512, dry_run=True),
    generate(REQUEST, "must be given together", "aspect_ratio", width=0, height=64),
    generate(SIZE, "height: ", "a multiple of 16", width=64, height=-64),
    generate(SIZE, "width: ", "a multiple of 16", width=64.5, height=64),
    generate(SIZE, "width: ", "Width in pixels", width="wide", height=64),
    generate(SIZE, "width: ", "Width in pixels", width=[64], height=64),
    generate(SIZE, "aspect_ratio: ", "'16:9'", aspect_ratio="16:10"),
    generate(REQUEST, "Width and height must be given together", "aspect_ratio", width=64),
    generate(REQUEST, "not both", "Leave one way out", width=64, height=64, aspect_ratio="4:3"),
    fill(SIZE, "the result is 64x64; it cannot become 63x64", "outpaint", width=63, height=64),
    fill(SIZE, "it cannot become 16:9", "outpaint", aspect_ratio="16:9"),
    fill(SIZE, "it cannot become 16:9", "outpaint", aspect_ratio="16:9", dry_run=True),
    fill(SIZE, "width: ", "size of the image", width=-1, height=64),
    vary(SIZE, "at most 256 px", "Ask for 256x256.", width=1024, height=1024),
    follow(SIZE, "multiples of 16", "Ask for 80x64.", image="{image}", width=81, height=47),
]

PROMPTS = [
    Bad("flux_generate", {}, REQUEST, "There is neither prompt nor pack.", "Give prompt or pack."),
    generate("prompt_too_long", "2000 characters", "Say it shorter", prompt="word " * 401),
    generate("prompt_too_long", "2000 characters", "Say it shorter", prompt="😀" * 2001),
    generate("prompt_too_long", "negative_prompt", "Say it", negative_prompt="a" * 2001),
    generate(REQUEST, "prompt: is blank.", "Say in words", prompt=" \n\t "),
    generate(REQUEST, "neither prompt nor pack", "What to show", prompt=""),
    generate(REQUEST, "control characters", "Remove them", prompt="a\x00circle"),
    generate(REQUEST, "control characters", "Remove them", prompt="a \x1b[31mcircle"),
    generate(REQUEST, "control characters", "Remove them", prompt="a \x9b31mcircle"),
    generate(REQUEST, "neither prompt nor pack", "What to show", prompt=None),
    generate(REQUEST, "prompt: ", "What to show", prompt=["a", "circle"]),
    generate(REQUEST, "prompt: ", "What to show", prompt=7),
    generate(REQUEST, "control characters", "Remove them", session="a\x07b"),
    fill(OPTION, "negative prompt", "Say in the prompt", negative_prompt="hats"),
    vary(OPTION, "negative prompt", "Say in the prompt", negative_prompt="hats"),
    follow("prompt_too_long", "prompt", "Say it shorter", prompt="a" * 2001, image="{image}"),
]

LONG = "dusk " * 390
PACKS = [
    compose(REQUEST, "either prompt or pack, not both", "pack.extra", prompt="a circle"),
    compose("unknown_pack", "'micro-shape'", "Did you mean 'micro-shapes'?", name="micro-shape"),
    compose("unknown_pack", "'../micro-shapes'", "Packs: blog-pin", name="../micro-shapes"),
    compose(REQUEST, "pack.name: ", "Name of the pack", name="", subject="star"),
    compose(REQUEST, "pack.name: ", "Name of the pack", name="p" * 101),
    compose(REQUEST, "'pack.subjct'", "Did you mean 'subject'?", subjct="star"),
    compose(REQUEST, "pack.subject: ", "or your own words", subject="s" * 2001),
    compose(REQUEST, "'starr' is no choice of subject", "Did you mean 'star'?", subject="starr"),
    compose(REQUEST, "is no choice of subject", "Choices: circle", subject=LONG),
    compose(REQUEST, "is not a choice with a weight", "3|pastel:1", subject=f"star|{LONG}"),
    compose(REQUEST, "is no choice", "Choices: circle", subject="star|" + "dusk" * 400),
    compose(REQUEST, "not a choice with a weight", "numbers", subject="|star:" + "9" * 1900),
    compose(REQUEST, "must be whole numbers up to 100", "Write", subject="star:0|ring:0"),
    compose(REQUEST, "no variable 'color'", "Did you mean 'colour'?", variables={"color": "red"}),
    compose(REQUEST, "no choice of colour", "Did you mean 'red'?", variables={"colour": "rad"}),
    compose(REQUEST, "no choice of colour", "Choices: red", variables={"colour": LONG}),
    compose(REQUEST, "pack.variables.size: ", "Each 'variable=choice'", variables={"size": 1}),
    compose(REQUEST, "pack.variables: ", "Each 'variable=choice'", variables="small"),
    compose(REQUEST, "too long", "100 characters at most", variables={"v" * 101: "x"}),
    compose(REQUEST, "pack.variables: ", "Each", variables={f"v{n}": "x" for n in range(51)}),
    compose(REQUEST, "control characters", "Remove them", extra="rain\x1b[31m"),
    compose(REQUEST, "in place of {colur}", "Did you mean {colour}?", extra="a {colur} hat"),
    compose(REQUEST, "in place of {", "Placeholders: ", extra=f"a {{{LONG}}}"),
    compose("prompt_too_long", "and may have 2000 at most", "Shorten extra", extra="rain " * 395),
    compose("prompt_refused", "refuses 'crowd' in extra", "a red heart", extra="with a crowd"),
    compose("prompt_refused", "refuses 'crowd' in extra", "heart", extra="crowd " * 300),
    compose(
        "prompt_refused", "refuses 'circle' in", "Leave out one", extra=f"no circle, {LONG[:1900]}"
    ),
    compose("prompt_refused", "refuses", "Leave", extra="without a circle, " + "a hat, " * 270),
]

NUMBERS = [
    generate(REQUEST, "steps: ", "model's own number", steps=-1),
    generate(REQUEST, "micro takes at most 64", "Ask for 64 or fewer.", steps=65),
    generate(REQUEST, "must not be true or false", "Denoising steps", steps=True),
    generate(REQUEST, "steps: ", "Denoising steps", steps="many"),
    generate(REQUEST, "steps: ", "Denoising steps", steps=4.5),
    generate(REQUEST, "steps: ", "Denoising steps", steps={"low": 4}),
    generate(REQUEST, "guidance: ", "How strongly", guidance=-2),
    generate(REQUEST, "seed: ", "Same seed", seed=-2),
    generate(REQUEST, "seed: ", "Same seed", seed=2**53),
    generate(REQUEST, "count: ", "How many images", count=0),
    generate(REQUEST, "count: ", "less than or equal to 8", count=9),
    generate(REQUEST, "wait_s: ", "less than or equal to 230", wait_s=231),
    generate(REQUEST, "wait_s: ", "Longest wait", wait_s=-2),
    generate(REQUEST, "dry_run: ", "generate and queue nothing", dry_run="perhaps"),
    generate(REQUEST, "session: ", "at most 100 characters", session="s" * 101),
    generate(REQUEST, "idempotency_key: ", "Repeating a call", idempotency_key=["k"]),
    # All mistakes of a call, in its arguments or in what they name.
    generate(REQUEST, "There are 3 mistakes. (1) steps: ", "(3) ", steps=-1, count=9, width=64),
    Bad(
        "flux_edit",
        {"prompt": "redder", "images": ["https://example.org/a.png"], "model": "micr0"},
        REQUEST,
        "URLs are not fetched",
        "Did you mean 'micro'?",
    ),
    generate(
        REQUEST,
        "micro takes at most 64",
        "multiples of 16",
        model="micro",
        steps=65,
        width=100,
        height=100,
    ),
    fill(REQUEST, "feather_px: ", "Soften", feather_px=257),
    vary(REQUEST, "strength: ", "how much of one image is drawn again", strength=0),
    vary(REQUEST, "not both", "likeness makes new ones", strength=0.5, likeness=1),
]

NAMES = [
    generate("unknown_model", "'micr0'", "Did you mean 'micro'?", model="micr0"),
    generate("unknown_model", "for generate", "flux1-dev", model="sdxl"),
    generate("unknown_model", "for generate", "micro", model="flux1-fill-dev"),
    generate("weights_missing", "flux1-dev", "Run: ", model="flux1-dev"),
    generate(REQUEST, "quality: ", "Use 'low', 'standard' or 'high'.", quality="best"),
    generate(REQUEST, "preview: ", "Use 'none', 'small' or 'normal'.", preview="large"),
    generate(REQUEST, "'num_inference_steps'", "mean 'steps'?", num_inference_steps=8),
    generate(REQUEST, "'guidance_scale'", "mean 'guidance'?", guidance_scale=3.5),
    generate(REQUEST, "'num_images_per_prompt'", "mean 'count'?", num_images_per_prompt=2),
    generate(REQUEST, "'generator'", "mean 'seed'?", generator=7),
    generate(REQUEST, "'promt'", "mean 'prompt'?", promt="a circle"),
    generate(REQUEST, "'Width'", "mean 'width'?", Width=64),
    generate(REQUEST, "'__class__'", "Arguments: ", __class__="x"),
    fill(REQUEST, "'mask_image'", "mean 'mask'?", mask_image="{image}"),
    follow(REQUEST, "structure: ", "Use 'canny' or 'depth'.", image="{image}", structure="pose"),
    Bad("flux_edit", {"prompt": "redder", "photo": "img_x"}, REQUEST, "'photo'", "Arguments: "),
    search(REQUEST, "'text'", "mean 'query'?", text="red"),
    search(REQUEST, "kind: ", "'text2img'", kind="text2image"),
    get_job(REQUEST, "'id'", "mean 'job_id'?", id="job_x"),
    generate(
        "idempotency_conflict",
        "asked for something else",
        "Use a new key",
        idempotency_key="used",
        seed=2,
    ),
]

REFERENCES = [
    edit("unknown_image", "'img_nowhere'", "img_nowhere", "flux_search_gallery"),
    edit("unknown_image", "'img_nowhere'", "img_nowhere", "flux-mcp import FILE"),
    edit("unknown_image", f"'upl_{'0' * 32}'", f"upl_{'0' * 32}", "flux_search_gallery"),
    edit("unknown_image", "'upl_00'", "flux://images/upl_00", "flux_search_gallery"),
    edit("unknown_image", "'img_nowhere'", "flux://images/img_nowhere", "flux_search_gallery"),
    edit(REQUEST, "not the URI of an image", "flux://jobs/job_x", "flux://images/img_"),
    edit(REQUEST, "neither an image id nor an absolute path", "good.png", "gallery image id"),
    edit(REQUEST, "neither an image id nor an absolute path", "../good.png", "absolute path"),
    edit(REQUEST, "neither an image id nor an absolute path", "good.png", "flux-mcp import FILE"),
    edit(PATH, "outside the folders", "{folder}/../outside0/secret.png", "Copy the file into"),
    edit(PATH, "outside the folders", "{folder}/link.png", "Copy the file into"),
    edit(PATH, "outside the folders", "/etc/passwd", "Copy the file into"),
    edit(PATH, "outside the folders", "/etc/passwd", "flux-mcp import FILE"),
    edit(PATH, "outside the folders", "file:///etc/passwd", "Copy the file into"),
    edit(PATH, "outside the folders", "/nowhere/at/all.png", "Copy the file into"),
    edit(REQUEST, "URLs are not fetched", "https://example.org/a.png", "Download it"),
    edit(REQUEST, "URLs are not fetched", "https://example.org/a.png", "flux-mcp import FILE"),
    edit(REQUEST, "the setting 'ask_page' is off", "ask", "FLUX_MCP_ASK_PAGE=link"),
    edit(REQUEST, "URLs are not fetched", "http://169.254.169.254/latest", "Download it"),
    edit(REQUEST, "network path", "//server/share/a.png", "Copy the file"),
    edit(REQUEST, "NUL", "{folder}/a\0.png", "gallery image id"),
    edit(IMAGE, "cannot be read", "{folder}/missing.png", "Check the path"),
    edit(IMAGE, "not a regular file", "{folder}/folder", "PNG, JPEG, WebP"),
    edit(IMAGE, "not a regular file", "{folder}/pipe.png", "PNG, JPEG, WebP"),
    edit(IMAGE, "cannot be decoded", "{folder}/truncated.png", "Save it again"),
    edit(IMAGE, "too many pixels", "{folder}/bomb.png", "Scale it down to at most 300,000"),
    edit(IMAGE, "more than 300,000 pixels", "{folder}/wide.png", "Scale it down"),
    edit(IMAGE, "larger than 200,000 bytes", "{folder}/huge.png", "Send a smaller one"),
    edit(IMAGE, "no image of a format", "{folder}/text.png", "Use a PNG"),
    edit(IMAGE, "no image of a format", "{folder}/empty.png", "Use a PNG"),
    edit(IMAGE, "no image of a format", "{folder}/icon.ico", "Use a PNG"),
    edit(IMAGE, "no image of a format", "{folder}/vector.svg", "Use a PNG"),
    edit(IMAGE, "too small", "{folder}/tiny.png", "at least 8 px"),
    edit(IMAGE, "base64", "data:image/png;base64,@@@@", "standard alphabet"),
    edit(REQUEST, "not base64", "data:image/png,abc", "data:image/png;base64"),
    edit(IMAGE, "'image/svg+xml'", data_uri(b"<svg/>", "image/svg+xml"), "Use a PNG"),
    edit(IMAGE, "no image of", data_uri(b"hello"), "Use a PNG"),
    edit(IMAGE, "larger than 200,000", data_uri(bytes(MAX_IMAGE_BYTES * 10)), "smaller one"),
    edit(IMAGE, "too many pixels", data_uri(bomb_png(30_000)), "Scale it down"),
    edit(REQUEST, "images: Field required", "", "The image to change"),
    Bad("flux_edit", {"prompt": "redder", "images": []}, REQUEST, "images: ", "The image"),
    Bad("flux_edit", {"prompt": "redder"}, REQUEST, "images: Field required", "The image"),
    Bad("flux_edit", {"prompt": "redder", "images": 7}, REQUEST, "images: ", "The image"),
    Bad(
        "flux_edit",
        {"prompt": "redder", "images": ["img_a"], "feather_px": 3},
        REQUEST,
        "there is none",
        "Give a mask",
    ),
    Bad("flux_edit", {"prompt": "redder", "images": [7]}, REQUEST, "images.0: ", "The image"),
    Bad("flux_edit", {"prompt": "redder", "images": "[1"}, REQUEST, "images: ", "The image"),
    Bad(
        "flux_edit",
        lambda world: {"prompt": "redder", "images": [world.image] * 5},
        OPTION,
        "at most 4 images for edit, not 5",
        "Leave some out",
    ),
]

MASKS = [
    Bad("flux_fill", {"prompt": "a hat", "image": "img_x"}, REQUEST, "mask: Field required", "box"),
    Bad("flux_fill", {"prompt": "a hat", "mask": {"box": BOX}}, REQUEST, "image: Field", "gallery"),
    fill(REQUEST, "outside the image", "The image is 64x64", mask={"box": {**BOX, "x": 40}}),
    fill(REQUEST, "mask.box.width: ", "Width of the box", mask={"box": {**BOX, "width": 0}}),
    fill(REQUEST, "mask.box.x: ", "Left edge", mask={"box": {**BOX, "x": -1}}),
    fill(REQUEST, "must not be true", "Top edge", mask={"box": {**BOX, "y": True}}),
    fill(
        REQUEST,
        "mask.box.height: Field required",
        "Height",
        mask={"box": {"x": 0, "y": 0, "width": 9}},
    ),
    fill(REQUEST, "'mask.box.widht'", "mean 'width'?", mask={"box": {**BOX, "widht": 9}}),
    fill(REQUEST, "its second corner", '{"box": {"x": 10, ', mask={"box": [10, 0, 9, 9]}),
    fill(REQUEST, "neither all pixels nor", "whole numbers", mask={"box": [0.1, 0, 9, 9]}),
    fill(REQUEST, "smaller than a pixel", "larger", mask={"box": [0.1, 0.1, 0.101, 0.2]}),
    fill(REQUEST, "ellipse reaches", "64x64", mask={"ellipse": [0, 0, 65, 9]}),
    fill(REQUEST, "polygon reaches", "64x64", mask={"polygon": [[0, 0], [70, 0], [0, 70]]}),
    fill(REQUEST, "holds no pixel", "larger", mask={"polygon": [[0, 0], [9, 9], [20, 20]]}),
    fill(REQUEST, "'mask.circle'", "Arguments: image, ", mask={"circle": 3}),
    fill(REQUEST, "mask: Field required", "The area to change", mask={"box": {}}),
    fill(REQUEST, "say how words", "Give words", mask={"box": BOX, "pick": "all"}),
    fill("unknown_image", "'img_x'", "flux_search", mask="img_x"),
    fill(REQUEST, "mask: Input should be an object", "{'box'", mask=5),
    fill(REQUEST, "mask: Field required", "The area to change", mask=None),
    fill(REQUEST, "mask: Input should be an object", "The area to change", mask="[1"),
    fill(
        IMAGE,
        "The mask is 32x16 and the image is 64x64",
        "Send a mask of 64x64",
        mask={"image": "{folder}/small_mask.png"},
    ),
    fill(
        REQUEST, "nothing to generate", "White is generated", mask={"image": "{folder}/black.png"}
    ),
    fill(
        REQUEST,
        "nothing to generate",
        "invert swaps",
        mask={"image": "{folder}/white.png"},
        invert=True,
    ),
    fill(
        REQUEST,
        "nothing to generate",
        "feather_px",
        mask={"box": {**BOX, "x": 2, "width": 1, "height": 1}},
        feather_px=200,
    ),
    fill(IMAGE, "transparent", "Use white", mask={"image": "{folder}/glass.png"}),
    fill("unknown_image", "'img_nowhere'", "flux_search", mask={"image": "img_nowhere"}),
    fill(PATH, "outside", "Copy the file", mask={"image": "/etc/passwd"}),
]

OTHERS = [
    Bad("flux_variation", {}, REQUEST, "images: Field required", "The images to vary"),
    vary(REQUEST, "images.0.weight: ", "Its share", images=[{"image": "{image}", "weight": 3}]),
    vary(REQUEST, "images.0.image: Field", "Give a value", images=[{"weight": 1}]),
    vary(
        REQUEST, "'images.0.wieght'", "mean 'weight'?", images=[{"image": "{image}", "wieght": 1}]
    ),
    vary(REQUEST, "weight above 0", "Leave weight out", images=[{"image": "{image}", "weight": 0}]),
    vary(OPTION, "at most 4 images for vary, not 5", "Leave some", images=["{image}"] * 5),
    vary(REQUEST, "images: ", "at most 8", images=["{image}"] * 9),
    follow(REQUEST, "exactly one of image and control_image", "whose structure is taken"),
    follow(REQUEST, "exactly one", "structure is taken", image="{image}", control_image="{image}"),
    follow(REQUEST, "Canny_low is 90", "Swap them", image="{image}", canny_low=90, canny_high=50),
    follow(REQUEST, "Canny_low and", "Leave them", image="{image}", structure="depth", canny_low=9),
    follow(IMAGE, "no image of", "Use a PNG", control_image="{folder}/text.png"),
    follow(REQUEST, "image: ", "An image whose structure", image={"path": "x"}),
    search("invalid_cursor", "does not belong to this search", "leave it out", cursor="nonsense"),
    Bad(
        "flux_search_gallery",
        lambda world: {"cursor": "A" + world.cursor[1:-1] + "A"},
        "invalid_cursor",
        "does not belong to this search",
        "next_cursor unchanged",
    ),
    Bad(
        "flux_search_gallery",
        lambda world: {"cursor": world.cursor, "query": "circle"},
        "invalid_cursor",
        "does not belong",
        "same query and filters",
    ),
    search("invalid_cursor", "does not belong", "leave it out", cursor="\x00"),
    search(REQUEST, "created_after: 'yesterday'", "2026-01-31", created_after="yesterday"),
    search(REQUEST, "created_before: '2026-13-40'", "2026-01-31", created_before="2026-13-40"),
    search(REQUEST, "created_after: ", "ISO 8601", created_after=1_700_000_000),
    search(REQUEST, "limit: ", "Most images in one answer", limit=0),
    search(REQUEST, "limit: ", "less than or equal to 50", limit=51),
    search(REQUEST, "limit: must not be true", "Most images in one answer", limit=True),
    search(REQUEST, "seed: ", "Exact seed", seed=-5),
    search(REQUEST, "query: ", "at most 500", query="red " * 200),
    get_job("unknown_job", "'job_nowhere'", "without an id", job_id="job_nowhere"),
    get_job("unknown_job", "'; DROP TABLE jobs", "without an id", job_id="'; DROP TABLE jobs"),
    get_job(REQUEST, "job_id: ", "whole queue", job_id=7),
    get_job(REQUEST, "job_id: ", "Remove them", job_id="job_\x00"),
    get_job(REQUEST, "wait_s: ", "Longest wait", wait_s=1e9),
    cancel(REQUEST, "exactly one of job_id and session", "flux_get_job"),
    cancel(REQUEST, "exactly one", "flux_get_job", job_id="job_x", session="s"),
    cancel("unknown_job", "'job_nowhere'", "without an id", job_id="job_nowhere"),
    cancel(REQUEST, "'all'", "Arguments: job_id, session.", all=True),
    cancel(REQUEST, "job_id: ", "The job, or download of weights, to cancel", job_id=["job_x"]),
]

TABLE = [*SIZES, *PROMPTS, *PACKS, *NUMBERS, *NAMES, *REFERENCES, *MASKS, *OTHERS]


def _row_id(row: Bad) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{row.says} {row.hint}").strip("-")
    return f"{row.tool}-{words[:60]}"


# --- the tests ---------------------------------------------------------------------------------


async def traces(world: World) -> tuple[object, ...]:
    """Everything a refused call could have left behind."""
    service = world.service

    def rows() -> tuple[object, ...]:
        database = service._database._database
        assert database is not None
        return tuple(list(database[name].rows) for name in TABLES)

    folders = (service.settings.paths.uploads, service.settings.paths.images, world.images)
    files = sorted(path for folder in folders for path in folder.rglob("*"))
    return await service._database.call(rows), files


TABLES = ("jobs", "images")
_PATHS = re.compile(r"(?<![\w:/.])/[\w.-]+(?:/[\w.-]+)+")


# The arguments are read by the same code in both eras: the older one is asked once for each tool
# and code.
ASKED = [("auto", row) for row in TABLE] + [
    ("legacy", row) for row in {(row.tool, row.code): row for row in TABLE}.values()
]


@pytest.mark.parametrize(
    ("client", "row"),
    ASKED,
    indirect=["client"],
    ids=[f"{mode}-{_row_id(row)}" for mode, row in ASKED],
)
async def test_a_bad_input_is_refused_with_advice_and_leaves_no_trace(
    world: World, client: Client, row: Bad
) -> None:
    arguments = row.arguments(world) if callable(row.arguments) else row.arguments
    before = await traces(world)
    result = await client.call_tool(row.tool, arguments)
    (block,) = result.content
    assert isinstance(block, TextContent)
    text = block.text
    assert result.is_error, text
    assert text.startswith(f"[{row.code}] "), text
    assert row.says in text
    assert row.hint in text
    assert text.endswith((".", "?")), "the hint is a sentence"
    assert len(text) < 1200, "an answer to read, not the input sent back"
    for leak in ("Traceback", "pydantic", "site-packages", "object at 0x", "flux_mcp/"):
        assert leak not in text
    # Commands that install weights, or bring a file in, name their own program and folder; nothing
    # else may.
    brings_in = own_command("import FILE", world.service.settings.data_dir)
    paths = _PATHS.findall(text.replace(brings_in, ""))
    paths = [] if row.code == "weights_missing" else paths
    allowed = tuple(map(str, world.service.settings.readable_dirs))
    for path in paths:
        assert path in str(arguments) or path.startswith(allowed), f"{path} is nobody's business"
    assert await traces(world) == before


def test_the_table_covers_every_tool_and_every_code_a_request_can_earn() -> None:
    assert len(TABLE) >= 75
    assert len({_row_id(row) for row in TABLE}) >= 75
    assert {row.tool for row in TABLE} == {row.name for row in TOOLS}
    assert {row.code for row in TABLE} >= {
        REQUEST,
        SIZE,
        OPTION,
        IMAGE,
        PATH,
        "prompt_too_long",
        "prompt_refused",
        "unknown_model",
        "unknown_pack",
        "unknown_job",
        "unknown_image",
        "invalid_cursor",
        "idempotency_conflict",
        "weights_missing",
    }


async def test_an_unknown_tool_is_a_protocol_error_that_names_the_tools(client: Client) -> None:
    with pytest.raises(MCPError, match="flux_generate"):
        await client.call_tool("flux_genrate", {})


async def test_the_same_key_with_the_same_request_is_no_mistake(
    world: World, client: Client
) -> None:
    asked = {"prompt": "a circle", "seed": 1, "wait_s": 0, "idempotency_key": "used"}
    result = await client.call_tool("flux_generate", asked)
    assert result.structured_content is not None
    assert result.structured_content["job_id"] == world.job
