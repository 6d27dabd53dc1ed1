"""The eight tools through the SDK's client, both protocol eras, one real worker."""

import asyncio
import base64
import hashlib
import io
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp import Client, MCPError
from mcp.types import ImageContent, ResourceLink, TextContent
from PIL import Image

from flux_mcp.gallery.provenance import from_png
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.server.app import FluxServer, build_server
from flux_mcp.service.answers import PageAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings

from .calls import (
    FAST,
    SLOW,
    SOMEBODY,
    call,
    cancel_call_while_drawing,
    draws,
    dry_run,
    is_final,
    job,
    job_until,
    queue,
)

pytestmark = pytest.mark.anyio

DEADLINE_S = 90


DRAWING = pytest.mark.parametrize(
    "client", ["auto", pytest.param("legacy", marks=pytest.mark.torture)], indirect=True
)
"""Of the older protocol only in the long run: test_router and test_repeats get images over both."""


@pytest.fixture(params=["auto", "legacy"])
async def client(request: pytest.FixtureRequest, shared_service: Service) -> AsyncIterator[Client]:
    server, mode = build_server(shared_service), request.param
    async with Client(server, mode=mode, client_info=SOMEBODY) as client:
        yield client


@pytest.fixture
async def modern(shared_service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(shared_service)) as client:
        yield client


@asynccontextmanager
async def client_of(service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(service)) as client:
        yield client


def data_uri(width: int = 64, height: int = 64, colour: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@DRAWING
async def test_a_prompt_goes_in_and_an_image_comes_out(client: Client) -> None:
    result = await call(client, "flux_generate", **FAST, wait_s=200, session="main job")
    assert not result.is_error
    answer = await job(client, "flux_get_job", job_id=result.structured_content["job_id"])
    assert (answer.status, answer.seed, answer.model, answer.kind) == (
        "completed",
        7,
        "micro",
        "text2img",
    )
    image = answer.images[0]
    with Image.open(image.path) as picture:
        assert picture.size == (64, 64)
        assert picture.mode == "RGB"
        assert hashlib.sha256(picture.tobytes()).hexdigest() == image.pixels_sha256
    assert hashlib.sha256(Path(image.path).read_bytes()).hexdigest() == image.sha256
    text = next(block.text for block in result.content if isinstance(block, TextContent))
    for fact in (image.id, "64x64", "seed 7", "model micro (demo)", image.path, image.uri):
        assert fact in text
    preview = next(block for block in result.content if isinstance(block, ImageContent))
    assert preview.mime_type == "image/webp"
    with Image.open(io.BytesIO(base64.b64decode(preview.data))) as shown:
        assert shown.format == "WEBP"
    link = next(block for block in result.content if isinstance(block, ResourceLink))
    assert str(link.uri) == image.uri
    read = await client.read_resource(image.uri)
    assert base64.b64decode(read.contents[0].blob) == Path(image.path).read_bytes()


async def test_the_demonstration_model_always_says_so(modern: Client) -> None:
    # What that means is explained once in a session: tests/server/test_results.py.
    for chosen in ({}, {"model": "micro"}):
        result = await modern.call_tool("flux_generate", {**FAST, **chosen, "wait_s": 200})
        (text,) = [block.text for block in result.content if isinstance(block, TextContent)]
        assert "model micro (demo)" in text


@pytest.mark.parametrize(
    ("tool", "arguments", "kind", "size"),
    [
        ("flux_generate", {"aspect_ratio": "16:9"}, "text2img", (176, 96)),
        ("flux_edit", {"images": [data_uri(96, 64)]}, "kontext", (96, 64)),
        (
            "flux_edit",
            {"images": [data_uri(90, 61)], "width": 96, "height": 80},
            "kontext",
            (96, 80),
        ),
        (
            "flux_fill",
            {
                "image": data_uri(96, 96),
                "mask": {"box": {"x": 8, "y": 8, "width": 40, "height": 40}},
            },
            "fill",
            (96, 96),
        ),
        (
            "flux_fill",
            {
                "image": data_uri(64, 96),
                "mask": {"image": data_uri(64, 96, "white")},
                "feather_px": 3,
            },
            "fill",
            (64, 96),
        ),
        ("flux_structural", {"image": data_uri(80, 64)}, "control", (80, 64)),
        (
            "flux_structural",
            {"control_image": data_uri(80, 64), "structure": "depth"},
            "control",
            (80, 64),
        ),
        ("flux_variation", {"images": [data_uri(50, 50)]}, "redux", (128, 128)),
        (
            "flux_variation",
            {
                "images": [
                    {"image": data_uri(50, 50), "weight": 0.5},
                    {"image": data_uri(90, 30, "blue")},
                ],
                "likeness": 0.8,
            },
            "redux",
            (128, 128),
        ),
        ("flux_variation", {"images": data_uri(80, 64), "strength": 1}, "img2img", (80, 64)),
    ],
)
async def test_all_five_kinds_draw(
    modern: Client, tool: str, arguments: dict[str, Any], kind: str, size: tuple[int, int]
) -> None:
    asked = {"prompt": "a green star", "steps": 4, "seed": 5, "wait_s": 200, **arguments}
    answer = await job(modern, tool, **asked)
    assert (answer.status, answer.kind, answer.step) == ("completed", kind, 4)
    assert (answer.images[0].width, answer.images[0].height) == size
    again = await job(modern, tool, **asked)
    assert again.images[0].pixels_sha256 == answer.images[0].pixels_sha256
    other = await job(modern, tool, **{**asked, "seed": 6})
    assert other.images[0].pixels_sha256 != answer.images[0].pixels_sha256


async def test_the_same_seed_gives_the_same_pixels_alone_or_among_several(modern: Client) -> None:
    several = await job(modern, "flux_generate", **FAST, count=3, wait_s=200)
    assert [image.seed for image in several.images] == [7, 8, 9]
    assert len({image.pixels_sha256 for image in several.images}) == 3
    alone = await job(modern, "flux_generate", **{**FAST, "seed": 9}, wait_s=200)
    assert alone.images[0].pixels_sha256 == several.images[2].pixels_sha256


async def test_a_batch_is_recorded_and_repeatable(modern: Client, shared_service: Service) -> None:
    batch = {**FAST, "count": 2, "batched": True, "wait_s": 200}
    one, two = [await job(modern, "flux_generate", **batch) for _ in range(2)]
    assert [i.pixels_sha256 for i in one.images] == [i.pixels_sha256 for i in two.images]
    assert any("one pass" in notice for notice in one.notices)
    record = await shared_service.gallery.find_image(one.images[0].id)
    assert RenderPlan.model_validate(record.plan).batched


async def test_an_image_knows_how_it_was_made(modern: Client, shared_service: Service) -> None:
    parent = (await job(modern, "flux_generate", **FAST, wait_s=200)).images[0]
    child = (
        await job(
            modern,
            "flux_edit",
            prompt="make it green",
            images=[parent.uri],
            steps=4,
            seed=1,
            session="family",
            wait_s=200,
        )
    ).images[0]
    assert child.parents == (parent.id,)
    record = await shared_service.gallery.find_image(child.id)
    facts = from_png(Path(child.path))
    assert facts.render_plan() == RenderPlan.model_validate(record.plan)
    assert (facts.id, facts.seed, facts.prompt) == (child.id, 1, "make it green")
    assert record.environment["torch"].startswith("2.")
    assert len(record.weights_sha256) == 64
    assert record.licence == "apache-2.0"
    assert (record.session, record.stage, record.rating) == ("family", None, None)


async def test_drafts_are_drawn_again_at_twice_the_size_and_show_the_same(
    modern: Client, shared_service: Service
) -> None:
    pack = {"name": "micro-shapes", "subject": "star", "variables": ["colour=red|blue"]}
    asked = {"pack": pack, "quality": "low", "count": 2, "seed": 3, "wait_s": 200}
    drafts = (await job(modern, "flux_generate", **asked)).images
    refined = await job(
        modern,
        "flux_generate",
        refine_from=[f"{drafts[1].id}.png", drafts[0].uri],
        refine_scale=2,
        wait_s=200,
    )
    assert (refined.kind, refined.quality, refined.total_steps) == ("img2img", "standard", 4)
    assert any("each draft's own words, seed and LoRAs" in one for one in refined.notices)
    for draft, image in zip(reversed(drafts), refined.images, strict=True):
        before, after = [await shared_service.gallery.find_image(x.id) for x in (draft, image)]
        assert (after.prompt, after.seed, after.composed) == (
            before.prompt,
            before.seed,
            before.composed,
        )
        assert before.composed is not None
        assert image.parents == (draft.id,)
        assert (image.width, image.height) == (2 * draft.width, 2 * draft.height)
        with Image.open(draft.path) as old, Image.open(image.path) as new:
            small = [np.asarray(one.resize((16, 16), Image.Resampling.BOX)) for one in (old, new)]
        assert np.abs(small[0].astype(int) - small[1]).mean() < 6
        again = await dry_run(modern, "flux_generate", refine_from=image.id, refine_strength=0.2)
        assert (again.plan.quality, again.plan.strength) == ("high", 0.2)
        assert again.composed[0].prompt == before.prompt


@pytest.mark.parametrize(
    ("drafts", "code", "hint"),
    [
        (["img_gone"], "unknown_image", ""),
        ([data_uri()], "invalid_request", "flux_variation"),
    ],
)
async def test_what_is_no_draft_is_not_drawn_again(
    modern: Client, drafts: list[str], code: str, hint: str
) -> None:
    result = await call(modern, "flux_generate", refine_from=drafts)
    assert result.is_error
    text = result.content[0].text
    assert f"[{code}]" in text
    assert hint in text


async def test_a_short_wait_gives_a_job_id_and_the_image_comes_later(modern: Client) -> None:
    result = await call(modern, "flux_generate", **FAST, wait_s=0)
    job_id = result.structured_content["job_id"]
    text = result.content[0].text
    if result.structured_content["status"] != "completed":
        assert "flux_get_job" in text
        assert job_id in text
    answer = await job(modern, "flux_get_job", job_id=job_id, wait_s=200)
    assert answer.status == "completed"


@DRAWING
async def test_progress_grows_until_the_image_is_there(client: Client) -> None:
    told: list[tuple[float, float | None]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        assert message
        told.append((progress, total))

    asked = {**FAST, "steps": 32, "count": 2, "wait_s": 200}
    result = await client.call_tool("flux_generate", asked, progress_callback=tell)
    assert result.structured_content["status"] == "completed"
    values = [value for value, _ in told]
    assert values == sorted(set(values))
    assert len(values) >= 2
    assert {total for _, total in told} == {64}


async def test_a_running_job_is_shown_with_a_preview(modern: Client) -> None:
    started = await job(modern, "flux_generate", **SLOW, wait_s=0)
    while True:
        shown = await call(modern, "flux_get_job", job_id=started.job_id, wait_s=0.1)
        assert shown.structured_content["status"] in ("queued", "running")
        if any(isinstance(block, ImageContent) for block in shown.content):
            break
    text = shown.content[0].text
    assert "not finished" in text
    assert "flux_get_job" in text
    await call(modern, "flux_cancel_job", job_id=started.job_id)
    await job_until(modern, started.job_id, is_final)


async def test_a_running_job_is_cancelled_and_the_pipeline_is_as_before(modern: Client) -> None:
    before = await job(modern, "flux_generate", **FAST, wait_s=200)
    started = await job(modern, "flux_generate", **SLOW, wait_s=0)
    assert started.job_id is not None
    await job_until(modern, started.job_id, draws)
    cancelled = await call(modern, "flux_cancel_job", job_id=started.job_id)
    assert cancelled.structured_content["stopping"] == [started.job_id]
    ended = await job_until(modern, started.job_id, is_final)
    assert ended.status == "cancelled"
    assert ended.images == ()
    again = await call(modern, "flux_cancel_job", job_id=started.job_id)
    assert again.structured_content["already_final"] == [started.job_id]
    after = await job(modern, "flux_generate", **FAST, wait_s=200)
    assert after.images[0].pixels_sha256 == before.images[0].pixels_sha256


async def test_a_waiting_job_never_starts_once_cancelled(
    modern: Client, shared_service: Service
) -> None:
    blocker = await job(modern, "flux_generate", **SLOW, wait_s=0)
    waiting = [
        await job(modern, "flux_generate", **FAST, wait_s=0, session="never") for _ in range(2)
    ]
    assert [answer.position for answer in waiting] == [1, 2]
    look = await queue(modern)
    assert look.depth == 2
    assert [line.job_id for line in look.jobs] == [
        blocker.job_id,
        *(answer.job_id for answer in waiting),
    ]
    result = await call(modern, "flux_cancel_job", session="never")
    assert result.structured_content["cancelled"] == [answer.job_id for answer in waiting]
    await call(modern, "flux_cancel_job", job_id=blocker.job_id)
    await job_until(modern, blocker.job_id, is_final)
    for answer in waiting:
        stored = await shared_service.find_job(answer.job_id)
        assert (stored.status, stored.started_at) == ("cancelled", None)


async def test_a_cancelled_call_cancels_its_job(client: Client, shared_service: Service) -> None:
    """The caller never had the id, so nobody could ever fetch the image."""
    key = f"gone {secrets.token_hex(4)}"
    asked = {**SLOW, "idempotency_key": key}
    await cancel_call_while_drawing(client, "flux_generate", **asked, wait_s=200)
    found = [
        stored for stored in await shared_service.recent_jobs(10) if stored.idempotency_key == key
    ]
    # Not over the client: a call with its id would make it somebody's before the server has read
    # that the first call was cancelled.
    ended = found[0]
    for _ in range(600):
        if (ended := await shared_service.find_job(ended.id)).is_final:
            break
        await asyncio.sleep(0.05)
    assert ended.status == "cancelled"
    # The key still names that job: repeating the request does not draw behind the caller's back.
    repeated = await call(client, "flux_generate", **asked, wait_s=0)
    assert repeated.structured_content["job_id"] == found[0].id


async def test_a_cancelled_poll_leaves_the_job_alone(modern: Client) -> None:
    started = await job(modern, "flux_generate", **SLOW, wait_s=0)
    await cancel_call_while_drawing(modern, "flux_get_job", job_id=started.job_id, wait_s=200)
    answer = await job(modern, "flux_get_job", job_id=started.job_id, wait_s=0)
    assert answer.status in ("running", "completed")
    await call(modern, "flux_cancel_job", job_id=started.job_id)
    await job_until(modern, started.job_id, is_final)


async def test_a_cancelled_call_leaves_a_job_whose_id_another_caller_has(
    modern: Client, shared_service: Service
) -> None:
    asked = {**SLOW, "idempotency_key": f"shared {secrets.token_hex(4)}"}
    started = await job(modern, "flux_generate", **asked, wait_s=0)
    await cancel_call_while_drawing(modern, "flux_generate", **asked, wait_s=200)
    assert not (await shared_service.find_job(started.job_id)).cancel_requested
    await call(modern, "flux_cancel_job", job_id=started.job_id)
    await job_until(modern, started.job_id, is_final)


async def test_a_cancelled_call_leaves_a_job_that_somebody_has_looked_at(
    settings: Settings,
) -> None:
    """Nothing draws here, so the job waits for as long as the test wants."""
    service = Service(settings, executes=False)
    server = build_server(service)
    async with Client(server) as client:
        asked = {**FAST, "wait_s": 200, "idempotency_key": "looked at"}
        waiting = asyncio.create_task(call(client, "flux_generate", **asked))
        await waits(server)
        (stored,) = await service.recent_jobs(5)
        assert not stored.id_given
        looked = await job(client, "flux_get_job", job_id=stored.id, wait_s=0)
        assert (looked.status, looked.position) == ("queued", 1)
        await cancel(waiting)
        # A call of its own: it is read after the cancellation, on the same connection.
        await call(client, "flux_get_job")
        kept = await service.find_job(stored.id)
        assert (kept.status, kept.id_given) == ("queued", True)
    await service.close()


async def test_a_job_ends_with_the_last_of_the_calls_that_wait_for_it(settings: Settings) -> None:
    """Nothing draws here, so the job waits for as long as the test wants."""
    service = Service(settings, executes=False)
    asked = {**FAST, "wait_s": 200, "idempotency_key": "two wait"}
    server = build_server(service)
    async with Client(server) as client:
        waiting = [asyncio.create_task(call(client, "flux_generate", **asked)) for _ in range(2)]
        await waits(server, 2)
        (stored,) = await service.recent_jobs(5)
        await cancel(waiting[0])
        # A call of its own: it is read after the cancellation, on the same connection.
        await call(client, "flux_get_job")
        assert (await service.find_job(stored.id)).status == "queued"
        await cancel(waiting[1])
        ends = [seen.status async for seen in service.watch(stored.id, 60)]
        assert ends[-1] == "cancelled"
    await service.close()


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def waits(server: FluxServer, count: int = 1) -> None:
    """Return once so many calls wait for the same job."""
    calls = (await server._handlers.get())._calls
    async with asyncio.timeout(DEADLINE_S):
        # The product needs no event for it.
        while max(calls._waiting.values(), default=0) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_repeating_a_call_with_its_key_draws_once(modern: Client) -> None:
    asked = {**FAST, "idempotency_key": f"once {secrets.token_hex(4)}", "wait_s": 200}
    one, two = [await job(modern, "flux_generate", **asked) for _ in range(2)]
    assert one.images == two.images


async def test_a_dry_run_decides_everything_and_queues_nothing(
    modern: Client, shared_service: Service
) -> None:
    newest = (await shared_service.recent_jobs(1))[:1]
    plan = (await dry_run(modern, "flux_generate", prompt="a star", aspect_ratio="3:2")).plan
    assert (plan.width, plan.height, plan.steps) == (160, 112, 8)
    assert (await shared_service.recent_jobs(1))[:1] == newest


async def test_the_gallery_is_searched_newest_first_in_pages(modern: Client) -> None:
    prompts = [f"a lighthouse number {number}" for number in range(5)]
    for prompt in prompts:
        await job(modern, "flux_generate", **{**FAST, "prompt": prompt}, session="sea", wait_s=200)
    found: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        result = await call(
            modern, "flux_search_gallery", query="lighthouse", session="sea", limit=2, **cursor
        )
        page = PageAnswer.model_validate(result.structured_content)
        found += [image.prompt for image in page.images]
        if page.next_cursor is None:
            break
        cursor = {"cursor": page.next_cursor}
    assert found == prompts[::-1]
    one = await call(modern, "flux_search_gallery", query="lighthouse 3", seed=7, kind="text2img")
    assert [image["prompt"] for image in one.structured_content["images"]] == [prompts[3]]
    none = await call(modern, "flux_search_gallery", query="lighthouse", kind="fill")
    assert none.structured_content["images"] == []
    assert "No image" in none.content[0].text


async def test_images_thumbnails_and_jobs_are_resources(client: Client) -> None:
    answer = await job(client, "flux_generate", **FAST, wait_s=200)
    image = answer.images[0]
    thumbnail = await client.read_resource(image.thumbnail_uri)
    with Image.open(io.BytesIO(base64.b64decode(thumbnail.contents[0].blob))) as shown:
        assert shown.format == "WEBP"
    stored = await client.read_resource(f"flux://jobs/{answer.job_id}")
    assert '"status":"completed"' in stored.contents[0].text
    listed = [str(one.uri) for one in (await client.list_resources()).resources]
    pictures = [uri for uri in listed if uri.startswith("flux://images/")]
    assert pictures[0] == image.uri
    assert "flux://packs/micro-shapes" in listed
    templates = (await client.list_resource_templates()).resource_templates
    assert {template.uri_template for template in templates} == {
        "flux://images/{image_id}",
        "flux://images/{image_id}/thumbnail",
        "flux://jobs/{job_id}",
        "flux://downloads/{download_id}",
        "flux://loras/{name}",
        "flux://packs/{name}",
    }
    for uri in ("flux://images/img_none", "flux://jobs/job_none", "flux://packs/none"):
        with pytest.raises(MCPError, match="There is no"):
            await client.read_resource(uri)


async def test_an_unknown_tool_is_a_protocol_error(client: Client) -> None:
    with pytest.raises(MCPError, match="Unknown tool"):
        await call(client, "flux_paint")


async def test_a_full_queue_refuses_with_a_number_and_a_time(
    settings: Settings, tmp_path: Path
) -> None:
    crowded = settings.model_copy(update={"queue_limit": 2})
    service = Service(crowded, executes=False)
    async with client_of(service) as client:
        for _ in range(2):
            await job(client, "flux_generate", **FAST, wait_s=0)
        refused = await call(client, "flux_generate", **FAST, wait_s=0)
        look = await queue(client)
    await service.close()
    assert refused.is_error
    text = refused.content[0].text
    assert text.startswith("[queue_full] 2 jobs are waiting")
    assert "Try again in about" in text
    assert look.depth == 2


async def test_kept_jobs_outlive_a_cancelled_call_where_settings_say_so(
    settings: Settings,
) -> None:
    service = Service(settings.model_copy(update={"on_disconnect": "keep"}), executes=False)
    server = build_server(service)
    async with Client(server) as client:
        waiting = asyncio.create_task(call(client, "flux_generate", **FAST, wait_s=200))
        await waits(server)
        await cancel(waiting)
        await call(client, "flux_get_job")
        assert [stored.status for stored in await service.recent_jobs(5)] == ["queued"]
    await service.close()
