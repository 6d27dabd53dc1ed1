"""Edges of an image: made with the plan, shown, kept as an input, and followed."""

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from mcp import Client
from PIL import Image

from flux_mcp.images.structure import canny
from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service
from training import drawing
from training.scenes import Scene, Thing

from .calls import call, dry_run, job

pytestmark = pytest.mark.anyio

SCENE = Scene("white", (Thing("star", "blue", 0.4, 0.5, 0.3),))
ASKED: dict[str, Any] = {"prompt": "a yellow star on a purple background", "steps": 4, "seed": 3}


@pytest.fixture
async def client(shared_service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(shared_service)) as client:
        yield client


@pytest.fixture
def photo(shared_service: Service) -> str:
    """Return a file of 200x120: it is drawn at another size."""
    path = shared_service.settings.allowed_dirs[0] / "star.png"
    Image.fromarray(drawing.draw(SCENE, 200, 120)).save(path)
    return str(path)


def shown(result: Any) -> list[Image.Image]:
    blocks = [block for block in result.content if block.type == "image"]
    return [Image.open(io.BytesIO(base64.b64decode(block.data))) for block in blocks]


async def test_the_edges_are_shown_kept_and_followed(
    client: Client, shared_service: Service, photo: str
) -> None:
    asked = {**ASKED, "image": photo, "preview": "small", "wait_s": 200}
    planned = await call(client, "flux_structural", **asked, dry_run=True)
    (before,) = shown(planned)
    assert "The last image shows the structure" in planned.content[0].text
    assert "canny_high" in planned.content[0].text

    result = await call(client, "flux_structural", **asked)
    _, after = shown(result)
    assert np.array_equal(np.asarray(before), np.asarray(after))
    done = await shared_service.look(result.structured_content["job_id"])
    record = await shared_service.gallery.find_image(done.images[0].id)
    given, control = record.plan["inputs"]
    assert (given["role"], given["width"], given["height"]) == ("image", 200, 120)
    size = (record.width, record.height)
    assert (control["role"], control["width"], control["height"]) == ("control", *size)

    # What was followed is a file that can be followed again.
    path = shared_service.settings.paths.uploads / f"{control['sha256']}.png"
    assert str(path) in result.content[0].text
    with Image.open(photo) as opened:
        scaled = opened.resize(size, Image.Resampling.LANCZOS)
    with Image.open(path) as kept:
        lines = np.asarray(kept)
    assert set(np.unique(lines)) == {0, 255}
    assert abs(int((lines > 0).sum()) - int((np.asarray(canny(scaled).image) > 0).sum())) < 200
    again = await job(client, "flux_structural", **ASKED, control_image=str(path), wait_s=200)
    assert again.images[0].pixels_sha256 == record.pixels_sha256


async def test_depth_is_estimated_shown_and_followed(
    client: Client, shared_service: Service
) -> None:
    near, far = Thing("circle", "red", 0.3, 0.5, 0.36), Thing("square", "blue", 0.82, 0.5, 0.14)
    path = shared_service.settings.allowed_dirs[0] / "near and far.png"
    Image.fromarray(drawing.draw(Scene("yellow", (near, far)), 192, 128)).save(path)
    asked = {**ASKED, "image": str(path), "structure": "depth", "preview": "small", "wait_s": 200}
    result = await call(client, "flux_structural", **asked)
    _, depth = shown(result)
    assert "The depth of the image was estimated by micro's depth model" in result.content[0].text
    levels = np.asarray(depth.convert("L")).astype(int)
    height, width = levels.shape
    at = [levels[height // 2, round(x * width)] for x in (near.x, far.x)] + [levels[4, 4]]
    assert at[0] > at[1] + 40 > at[2] + 80
    done = await shared_service.look(result.structured_content["job_id"])
    record = await shared_service.gallery.find_image(done.images[0].id)
    assert record.plan["structure"] == "depth"
    assert [one["role"] for one in record.plan["inputs"]] == ["image", "control"]
    kept = shared_service.settings.paths.uploads / f"{record.plan['inputs'][1]['sha256']}.png"
    asked |= {"control_image": str(kept)}
    del asked["image"]
    again = await job(client, "flux_structural", **asked)
    assert again.images[0].pixels_sha256 == record.pixels_sha256


async def test_thresholds_decide_how_much_is_followed(client: Client, photo: str) -> None:
    told_of = {}
    for high in (None, 40, 2000):
        asked = {**ASKED, "image": photo} | ({} if high is None else {"canny_high": high})
        answer = await dry_run(client, "flux_structural", **asked)
        (told,) = [one for one in answer.notices if "canny_high" in one]
        assert ("chosen for it" in told) is (high is None)
        assert high is None or f"canny_low {high // 2} and canny_high {high}" in told
        told_of[high] = told
    assert "nothing of it is followed" in told_of[2000]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"canny_low": 90, "canny_high": 50}, "Canny_low is 90, more than canny_high"),
        ({"control_image": "$", "image": None, "canny_high": 50}, "edges that are taken from"),
        ({"canny_high": 3000}, "2040"),
    ],
)
async def test_thresholds_that_mean_nothing_are_refused(
    client: Client, photo: str, arguments: dict[str, Any], says: str
) -> None:
    asked = {**ASKED, "image": photo, "dry_run": True, **arguments}
    asked = {key: photo if value == "$" else value for key, value in asked.items() if value}
    result = await call(client, "flux_structural", **asked)
    assert result.is_error
    assert says in result.content[0].text
