"""Speed switches over MCP: asked for, told, kept with the image, refused where they cannot be."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client

from flux_mcp.gallery.provenance import from_png
from flux_mcp.models.switches import Switches
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.server.app import build_server
from flux_mcp.service.service import Service

from .calls import FAST, call, job

pytestmark = pytest.mark.anyio

SKIPPING = {**FAST, "steps": 12, "wait_s": 200}


@pytest.fixture
async def client(shared_service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(shared_service)) as client:
        yield client


async def test_a_draft_says_that_it_is_approximate_and_can_be_drawn_again(
    client: Client, shared_service: Service
) -> None:
    exact = await job(client, "flux_generate", **SKIPPING)
    draft = await job(client, "flux_generate", **SKIPPING, step_cache="taylorseer")
    again = await job(client, "flux_generate", **SKIPPING, step_cache="taylorseer")
    after = await job(client, "flux_generate", **SKIPPING)
    pixels = [answer.images[0].pixels_sha256 for answer in (exact, draft, again, after)]
    assert pixels[1] == pixels[2] != pixels[0] == pixels[3]
    assert any("approximate" in notice for notice in draft.notices)
    assert not any("approximate" in notice for notice in exact.notices)

    record = await shared_service.gallery.find_image(draft.images[0].id)
    planned = RenderPlan.model_validate(record.plan)
    assert planned.switches.step_cache == "taylorseer"
    assert planned.switches.step_cache_options["cache_interval"] == 3
    assert from_png(Path(draft.images[0].path)).render_plan() == planned


async def test_what_a_draft_took_is_not_learned_from(
    client: Client, shared_service: Service
) -> None:
    await job(client, "flux_generate", **SKIPPING)
    figures = await shared_service.runtime.learned("cpu")
    assert figures
    await job(client, "flux_generate", **{**SKIPPING, "seed": 8}, step_cache="first_block")
    assert await shared_service.runtime.learned("cpu") == figures
    await job(client, "flux_generate", **{**SKIPPING, "seed": 8})
    assert await shared_service.runtime.learned("cpu") != figures


async def test_a_step_cache_that_cannot_be_is_refused_and_nothing_is_queued(client: Client) -> None:
    result = await call(client, "flux_generate", **{**SKIPPING, "steps": 4}, step_cache="magcache")
    assert result.is_error
    said = result.content[0].text
    assert said.startswith("[unsupported_option] step_cache 'magcache' cannot be used: 4 steps")
    assert said.endswith("Leave step_cache out.")
    unknown = await call(client, "flux_generate", **SKIPPING, step_cache="teacache")
    assert unknown.is_error
    assert "first_block" in unknown.content[0].text


def test_a_plan_that_was_stored_before_there_were_switches_is_drawn_without() -> None:
    plan = RenderPlan(
        kind="text2img",
        model="micro",
        revision=None,
        quality="low",
        precision="fp32",
        prompt="a star",
        width=128,
        height=128,
        steps=4,
        guidance=3.5,
        seeds=(1,),
        max_sequence_length=64,
    )
    stored = plan.model_dump(mode="json")
    del stored["switches"]
    assert RenderPlan.model_validate(stored).switches == Switches()
    assert RenderPlan.model_validate(stored) == plan
