"""Images larger than the model draws: filled and edited in a region, given back whole."""

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp import Client
from numpy.typing import NDArray
from PIL import Image

from flux_mcp.gallery.provenance import PARAMETERS_KEY, from_png
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.server.app import build_server
from flux_mcp.service.answers import DryRunAnswer, ImageAnswer
from flux_mcp.service.service import Service

from .calls import call, dry_run, job

pytestmark = pytest.mark.anyio

Pixels = NDArray[np.uint8]

BOX = Rectangle(260, 140, 80, 64)
FEATHER_PX = 6
COMMON: dict[str, Any] = {
    "mask": {"box": {"x": BOX.x, "y": BOX.y, "width": BOX.width, "height": BOX.height}},
    "feather_px": FEATHER_PX,
    "model": "micro",
    "seed": 3,
    "steps": 4,
    "preview": "none",
}
FILL: dict[str, Any] = {**COMMON, "prompt": "a yellow star on a blue background"}


@pytest.fixture
async def client(shared_service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(shared_service)) as client:
        yield client


def photograph(size: Size) -> Pixels:
    """A sky: light that falls off slowly, with the grain of a camera; the same every 400x300."""
    down = np.linspace(0, 20, 300, dtype=np.float32)[:, None]
    across = np.linspace(0, 20, 400, dtype=np.float32)[None, :]
    light = np.stack([38 + down + across, 78 + across - down, 210 - down - across], axis=-1)
    grain = np.random.default_rng(0).normal(0, 4, (300, 400, 1))
    sky = (light + grain).clip(0, 255).astype(np.uint8)
    times = (-(-size.height // 300), -(-size.width // 400), 1)
    return np.tile(sky, times)[: size.height, : size.width]


def saved(service: Service, image: Pixels) -> str:
    """Return the path of a file that the service may read."""
    folder = service.settings.allowed_dirs[0]
    height, width, _ = image.shape
    path = folder / f"{width}x{height}.png"
    Image.fromarray(image).save(path, compress_level=1)
    return str(path)


def pixels(image: ImageAnswer) -> Pixels:
    with Image.open(image.path) as opened:
        return np.asarray(opened.convert("RGB"))


def kept(size: Size, grown_px: int) -> NDArray[np.bool_]:
    """All but the box and some pixels around it."""
    mask = np.ones((size.height, size.width), bool)
    left, top, right, bottom = BOX.edges
    mask[top - grown_px : bottom + grown_px, left - grown_px : right + grown_px] = False
    return mask


def steps_across(image: Pixels, at_px: int) -> float:
    """Mean step of brightness from pixel to pixel across the box's sides, `at_px` outside them."""
    left, top, right, bottom = BOX.edges
    part = image[top - 40 : bottom + 40, left - 40 : right + 40].astype(float).mean(axis=2)
    height, width = part.shape
    near, far = 40 - at_px, 40 - at_px
    columns = [part[40:-40, x] - part[40:-40, x - 1] for x in (near, width - far)]
    rows = [part[y, 40:-40] - part[y - 1, 40:-40] for y in (near, height - far)]
    return float(np.mean([np.abs(step).mean() for step in (*columns, *rows)]))


async def test_a_photograph_of_12_megapixels_is_filled_in_a_region_and_comes_back_whole(
    client: Client, shared_service: Service
) -> None:
    size = Size(4000, 3000)
    before = photograph(size)
    asked = {**FILL, "image": saved(shared_service, before)}
    answer = await job(client, "flux_fill", **asked, wait_s=200)
    (image,) = answer.images
    after = pixels(image)

    assert (image.width, image.height) == (4000, 3000)
    assert after.shape == before.shape
    outside = kept(size, FEATHER_PX)
    assert np.array_equal(after[outside], before[outside])
    inside = ~kept(size, -FEATHER_PX)
    assert np.abs(after[inside].astype(int) - before[inside]).mean() > 10
    # No seam: across the edge of the mask the image steps no more than the grain beside it.
    beside = max(steps_across(after, at_px) for at_px in range(FEATHER_PX + 1, 30))
    along_the_edge = max(steps_across(after, at_px) for at_px in range(-FEATHER_PX, FEATHER_PX + 1))
    assert along_the_edge <= 1.3 * beside

    notice = "Drawn: 128x128 at (236, 108) of the image of 4000x3000, pixel for pixel."
    assert notice in answer.notices
    looked = await call(client, "flux_get_job", job_id=answer.job_id)
    assert notice in looked.structured_content["notices"]
    assert "4000x3000" in looked.content[0].text

    facts = from_png(Path(image.path))
    assert (facts.width, facts.height) == (4000, 3000)
    assert facts.render_plan().region == Rectangle(236, 108, 128, 128)
    with Image.open(image.path) as opened:
        line = opened.info[PARAMETERS_KEY]
    assert "Size: 4000x3000, Drawn region: 128x128 at (236, 108), Drawn size: 128x128" in line


async def test_each_image_of_a_region_can_be_made_again_and_is_planned_as_it_is_drawn(
    client: Client, shared_service: Service
) -> None:
    asked = {**FILL, "image": saved(shared_service, photograph(Size(600, 400)))}
    planned = await dry_run(client, "flux_fill", **asked)
    several = await job(client, "flux_fill", **asked, count=3, wait_s=200)
    assert [image.seed for image in several.images] == [3, 4, 5]
    assert len({image.pixels_sha256 for image in several.images}) == 3
    alone = await job(client, "flux_fill", **{**asked, "seed": 5}, wait_s=200)
    assert alone.images[0].pixels_sha256 == several.images[2].pixels_sha256
    drawn = from_png(Path(several.images[0].path)).render_plan()
    assert drawn == planned.plan.model_copy(update={"seeds": (3, 4, 5)})
    said = "Drawn: 128x128 at (236, 108) of the image of 600x400, pixel for pixel."
    assert said in planned.notices
    assert said in several.notices
    record = await shared_service.gallery.find_image(several.images[0].id)
    assert RenderPlan.model_validate(record.plan) == drawn


@pytest.mark.parametrize("tool", ["flux_fill", "flux_edit"])
async def test_a_box_has_a_soft_edge_unless_asked_otherwise_and_says_so(
    client: Client, shared_service: Service, tool: str
) -> None:
    path = saved(shared_service, photograph(Size(600, 400)))
    given: dict[str, Any] = {"image": path} if tool == "flux_fill" else {"images": [path]}
    asked = {**FILL, **given}
    del asked["feather_px"]
    by_default = await dry_run(client, tool, **asked)
    # 64 px are the shorter side of the box.
    said = "The edge of the mask is softened by 4 px on each side, so that no seam is seen;"
    assert [one.startswith(said) for one in by_default.notices].count(True) == 1
    masks = {}
    for feather_px in (0, 4):
        chosen = await dry_run(client, tool, **asked, feather_px=feather_px)
        assert not any("softened" in one for one in chosen.notices)
        masks[feather_px] = mask_of(chosen)
    assert mask_of(by_default) == masks[4] != masks[0]


def mask_of(answer: DryRunAnswer) -> str:
    (mask,) = [one.sha256 for one in answer.plan.inputs if one.role == "mask"]
    return mask


async def test_an_edit_gives_back_the_size_it_was_given(
    client: Client, shared_service: Service
) -> None:
    size = Size(1000, 700)
    before = photograph(size)
    asked: dict[str, Any] = {
        **COMMON,
        "prompt": "change the background to red",
        "images": [saved(shared_service, before)],
        "wait_s": 200,
    }
    masked = await job(client, "flux_edit", **asked)
    after = pixels(masked.images[0])
    outside = kept(size, FEATHER_PX)
    assert after.shape == before.shape
    assert np.array_equal(after[outside], before[outside])
    assert (after[~outside] != before[~outside]).any()

    for name in ("mask", "feather_px"):
        del asked[name]
    whole = await job(client, "flux_edit", **asked)
    assert (whole.images[0].width, whole.images[0].height) == (1000, 700)
    assert pixels(whole.images[0]).shape == before.shape
    said = "The image of 1000x700 is extended to 1050x700 by its mirrored edges, drawn at 144x96"
    assert any(notice.startswith(said) for notice in whole.notices), whole.notices
    small = await job(client, "flux_edit", **asked, width=96, height=64)
    assert (small.images[0].width, small.images[0].height) == (96, 64)


@pytest.mark.parametrize("tool", ["flux_fill", "flux_edit"])
async def test_an_image_is_extended_and_its_own_pixels_stay(
    client: Client, shared_service: Service, tool: str
) -> None:
    before = photograph(Size(150, 90))
    path = saved(shared_service, before)
    given: dict[str, Any] = {"image": path} if tool == "flux_fill" else {"images": [path]}
    asked = {**FILL, **given, "mask": {"outpaint": "left=32, bottom=24"}}
    answer = await job(client, tool, **asked, wait_s=200)
    after = pixels(answer.images[0])
    assert after.shape == (114, 182, 3)
    assert (answer.images[0].width, answer.images[0].height) == (182, 114)
    kept = after[: 90 - FEATHER_PX, 32 + FEATHER_PX :]
    assert np.array_equal(kept, before[: 90 - FEATHER_PX, FEATHER_PX:])
    told = "The image of 150x90 becomes 182x114: 32 px left, 24 px bottom are generated."
    assert told in answer.notices
    # In the margin stands what was drawn, and not what the canvas was filled with.
    filled = np.pad(before, ((0, 24), (32, 0), (0, 0)), "edge")[: after.shape[0]]
    new = np.ones(after.shape[:2], bool)
    new[: 90 + FEATHER_PX, 32 - FEATHER_PX :] = False
    assert (after[new] != filled[new]).any(axis=1).mean() > 0.9


async def test_the_mask_is_shown_over_the_image_before_and_after(
    client: Client, shared_service: Service
) -> None:
    before = photograph(Size(150, 90))
    asked = {**FILL, "image": saved(shared_service, before), "feather_px": 0}
    asked["mask"] = [{"box": [0, 0, 0.2, 0.5]}, {"ellipse": [100, 40, 140, 80]}]
    words = "Mask: from (0, 0) to (140, 80), 19 % of the image of 150x90."
    for tool_asks, images in (
        ({"dry_run": True}, 1),
        ({"dry_run": True, "preview": "none"}, 0),
        ({"wait_s": 200}, 2),
        ({"wait_s": 200, "preview": "none"}, 0),
    ):
        result = await call(client, "flux_fill", **{**asked, "preview": "small", **tool_asks})
        shown = [block for block in result.content if block.type == "image"]
        assert len(shown) == images
        assert words in result.content[0].text
        assert ("The last image shows" in result.content[0].text) is bool(images)
        if "dry_run" in tool_asks:
            mask = result.structured_content["mask"]
            assert mask["box"] == [0, 0, 140, 80]
            assert mask["share"] == pytest.approx((30 * 45 + np.pi * 400) / (150 * 90), abs=0.002)
            assert "overlay" not in result.structured_content
        if images:
            with Image.open(io.BytesIO(base64.b64decode(shown[-1].data))) as overlay:
                seen = np.asarray(overlay.convert("RGB")).astype(int)
            assert seen.shape == before.shape
            redder = seen[:, :, 0] - before[:, :, 0] > 40
            assert redder[20, 15]
            assert redder[60, 120]
            assert not redder[70, 20]
            assert not redder[10, 120]


async def test_the_transparent_parts_of_an_image_are_its_mask(
    client: Client, shared_service: Service
) -> None:
    cutout = np.dstack([photograph(Size(120, 80)), np.full((80, 120), 255, np.uint8)])
    cutout[20:60, 30:70, 3] = 0
    cutout[20:60, 30:40, 3] = 128
    path = shared_service.settings.allowed_dirs[0] / "cutout.png"
    Image.fromarray(cutout).save(path)
    given = {"prompt": "a star", "image": str(path), "model": "micro", "seed": 3}
    planned = await dry_run(client, "flux_fill", **given, mask="alpha")
    assert "Mask: from (40, 20) to (70, 60), 12 % of the image of 120x80." in planned.notices
    assert not any("became white" in notice for notice in planned.notices)
    solid = await call(
        client,
        "flux_fill",
        **{**given, "image": saved(shared_service, photograph(Size(120, 80)))},
        mask={"alpha": True},
    )
    assert solid.is_error
    assert "no transparent parts" in solid.content[0].text


async def test_another_shape_is_refused_with_a_mask(
    client: Client, shared_service: Service
) -> None:
    asked = {**FILL, "image": saved(shared_service, photograph(Size(600, 400)))}
    for more in ({"aspect_ratio": "16:9"}, {"width": 128, "height": 128}):
        result = await call(client, "flux_fill", **asked, **more, dry_run=True)
        assert result.is_error
        assert result.content[0].text.startswith("[invalid_size]")
        assert "600x400" in result.content[0].text
        assert "outpaint" in result.content[0].text
