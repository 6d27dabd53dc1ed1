"""Images that are upscaled besides, and those that are upscaled alone, with one real worker."""

from pathlib import Path

import pytest
from mcp import Client
from mcp.types import TextContent
from PIL import Image

from flux_mcp.gallery.provenance import from_png
from flux_mcp.requests.upscaling import UpscaleRequest
from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service

from .calls import FAST, SOMEBODY, call, told, whole

pytestmark = pytest.mark.anyio


async def test_an_upscaled_image_is_one_of_its_own_and_can_be_made_again(
    shared_service: Service,
) -> None:
    async with Client(build_server(shared_service), client_info=SOMEBODY) as client:
        result = await call(client, "flux_generate", **FAST, upscale=2, wait_s=200)
        assert not result.is_error, result.content
        answer = await whole(client, result)
        assert told(result).total_steps == FAST["steps"]
        drawn, larger = answer.images
        text = next(one.text for one in result.content if isinstance(one, TextContent))
        assert f"upscaled from {drawn.id} by micro-upscaling" in text
    assert (drawn.kind, drawn.width, drawn.parents) == ("text2img", 64, ())
    assert (larger.kind, larger.model, larger.parents) == (
        "upscale",
        "micro-upscaling",
        (drawn.id,),
    )
    with Image.open(larger.path) as image:
        assert image.size == (larger.width, larger.height) == (128, 128)
    provenance = from_png(Path(larger.path))
    plan = provenance.render_plan()
    how = plan.upscale
    assert how is not None
    assert (how.upscaler, how.sha256, how.factor) == (
        "micro-upscaling",
        provenance.weights_sha256,
        2,
    )
    assert (provenance.prompt, provenance.seed) == (FAST["prompt"], FAST["seed"])
    # What it is made again from: the file of the image that was drawn.
    stored = shared_service.settings.paths.uploads / f"{plan.inputs[0].sha256}.png"
    assert stored.read_bytes() == Path(drawn.path).read_bytes()

    job = await shared_service.submit(UpscaleRequest(image=drawn.id, upscale=2))
    async for seen in shared_service.watch(job.id, 120):
        job = seen
    (again,) = (await shared_service.describe_job(job)).images
    assert (again.pixels_sha256, again.parents) == (larger.pixels_sha256, (drawn.id,))
    assert (job.kind, job.total_steps, job.step) == ("upscale", 1, 1)
