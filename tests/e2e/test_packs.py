"""Drawing with prompt packs: over MCP, with one real worker, into a real gallery."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp import Client
from mcp.types import CallToolResult, TextContent

from flux_mcp.compose.choices import Choice
from flux_mcp.compose.composer import compose
from flux_mcp.gallery.provenance import from_png
from flux_mcp.requests.lookups import SearchRequest
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.server.app import build_server
from flux_mcp.service.answers import ComposedAnswer, DryRunAnswer, JobAnswer
from flux_mcp.service.service import Service
from tests.compose.packs_on_disk import MANIFEST, write_pack
from training.finding import background_of

from .calls import FAST, call, dry_run, job, told
from .test_semantics import colour, drawn_by_us, given, pixels, scene

pytestmark = pytest.mark.anyio

QUICK: dict[str, Any] = {"width": 64, "height": 64, "steps": 4, "preview": "none", "wait_s": 200}
SHAPES = "micro-shapes"
CROWD = {"pack": {"name": SHAPES, "extra": "with a crowd"}}


@pytest.fixture
async def client(shared_service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(shared_service)) as client:
        yield client


@pytest.fixture
def own(shared_service: Service) -> Path:
    """The folder of the user's own packs."""
    return shared_service.settings.paths.packs


def said(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def shapes(**variables: str) -> dict[str, Any]:
    """Choose in the pack that knows what micro knows."""
    subject = variables.pop("subject", "circle")
    return {"name": SHAPES, "subject": subject, "variables": variables}


async def composed_of(client: Client, tool: str = "flux_generate", **asked: Any) -> ComposedAnswer:
    """Return what a dry run says about the one prompt of a request."""
    (composed,) = (await dry_run(client, tool, **asked)).composed
    return composed


async def left_alone(service: Service) -> tuple[list[str], list[str]]:
    """Return the newest jobs and images: what a call that queues nothing leaves as they are."""
    jobs = [one.id for one in await service.recent_jobs(5)]
    images = [one.id for one in (await service.gallery.search(SearchRequest(limit=5))).images]
    return jobs, images


# --- images ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "background"),
    [
        ("red", "white"),
        ("yellow", "black"),
        pytest.param("green", "blue", marks=pytest.mark.torture),
    ],
)
async def test_what_is_chosen_is_drawn(client: Client, wanted: str, background: str) -> None:
    pack = shapes(colour=wanted, background=background)
    for seed in (11, 12):
        answer = await job(
            client, "flux_generate", pack=pack, seed=seed, preview="none", wait_s=200
        )
        picture = pixels(answer.images[0])
        assert picture.shape == (128, 128, 3), "the pack asks for 1:1"
        assert (background_of(picture), colour(picture)) == (background, wanted)


async def test_the_answer_says_what_was_composed_and_by_which_pack(client: Client) -> None:
    pack = shapes(colour="green", background="white", place="left")
    result = await call(client, "flux_generate", pack=pack, **QUICK, seed=3)
    answer = told(result)
    words = "a large green circle on a white background on the left"
    assert (answer.prompt, answer.images[0].prompt) == (words, words)
    assert answer.pack == f"{SHAPES} 1.0.0"
    assert f"Prompt: {words}\n" in said(result)


async def test_row_and_file_keep_what_the_prompt_is_made_of(
    client: Client, shared_service: Service
) -> None:
    pack = {**shapes(colour="pink", background="*"), "extra": "and nothing else"}
    answer = await job(client, "flux_generate", pack=pack, **QUICK, seed=5)
    record = await shared_service.gallery.find_image(answer.images[0].id)
    made = compose(
        shared_service.packs, Choice(SHAPES, "circle", pack["variables"], pack["extra"]), 5
    )
    assert record.composed == json.loads(json.dumps(made.report()))
    assert record.composed is not None
    assert record.composed["drawn"] == ["background"]
    assert [block["name"] for block in record.composed["blocks"]] == ["fixed", "extra"]
    for block in record.composed["blocks"]:
        assert record.prompt[block["start"] : block["end"]] == block["text"]
    facts = from_png(Path(answer.images[0].path))
    assert (facts.composed, facts.prompt) == (record.composed, record.prompt)
    plain = await job(client, "flux_generate", **FAST, wait_s=200, preview="none")
    assert (await shared_service.gallery.find_image(plain.images[0].id)).composed is None
    assert plain.pack is None


async def test_a_composed_prompt_is_found_in_the_gallery(client: Client) -> None:
    pack = {**shapes(), "extra": "beside a zeppelin"}
    drawn = await job(client, "flux_generate", pack=pack, **QUICK, seed=5)
    found = await call(client, "flux_search_gallery", query="zeppelin", limit=1)
    assert [image["id"] for image in found.structured_content["images"]] == [drawn.images[0].id]


async def test_what_the_pack_wants_is_planned_unless_the_caller_says_otherwise(
    client: Client, own: Path
) -> None:
    write_pack(own / "wide", quality="low", aspect_ratio="16:9", model="micro")

    async def plan(**asked: Any) -> RenderPlan:
        return (await dry_run(client, "flux_generate", pack="wide", **asked)).plan

    wanted = await plan()
    assert (wanted.quality, wanted.width, wanted.height) == ("low", 176, 96)
    said_so = await plan(quality="standard", width=64, height=64)
    assert (said_so.quality, said_so.width, said_so.height) == ("standard", 64, 64)


# --- several images --------------------------------------------------------------------------


async def test_each_image_of_several_has_its_own_words_and_is_the_one_drawn_alone(
    client: Client, shared_service: Service
) -> None:
    asked = {**QUICK, "pack": shapes(colour="*", background="*")}
    several = await job(client, "flux_generate", **asked, seed=40, count=3)
    prompts = [image.prompt for image in several.images]
    assert len(set(prompts)) == 3
    assert several.prompt == prompts[0]
    for index, image in enumerate(several.images):
        alone = await job(client, "flux_generate", **asked, seed=40 + index)
        assert (alone.images[0].prompt, alone.images[0].seed) == (image.prompt, image.seed)
        assert alone.images[0].pixels_sha256 == image.pixels_sha256
        rows = [await shared_service.gallery.find_image(one.id) for one in (image, alone.images[0])]
        assert rows[0].composed == rows[1].composed is not None
        assert RenderPlan.model_validate(rows[0].plan).texts == tuple(prompts)


async def test_the_seed_of_a_result_repeats_words_and_pixels_where_none_was_asked(
    client: Client,
) -> None:
    asked = {**QUICK, "pack": shapes(colour="*", background="*")}
    drawn = await job(client, "flux_generate", **asked, count=2)
    for image in drawn.images:
        again = (await job(client, "flux_generate", **asked, seed=image.seed)).images[0]
        assert (again.prompt, again.pixels_sha256) == (image.prompt, image.pixels_sha256)


async def test_a_batch_has_a_prompt_for_each_image_too(
    client: Client, shared_service: Service
) -> None:
    asked = {**QUICK, "pack": shapes(colour="*", background="*"), "seed": 40, "count": 3}
    one_by_one = await job(client, "flux_generate", **asked)
    together = await job(client, "flux_generate", **asked, batched=True)
    assert any("one pass" in notice for notice in together.notices)
    for single, batched in zip(one_by_one.images, together.images, strict=True):
        assert (batched.prompt, batched.seed) == (single.prompt, single.seed)
        assert np.abs(pixels(single).astype(int) - pixels(batched)).mean() < 1.5
        rows = [await shared_service.gallery.find_image(one.id) for one in (single, batched)]
        assert rows[0].composed == rows[1].composed
    assert len({image.prompt for image in together.images}) == 3


async def test_repeating_a_call_with_its_key_draws_once_whatever_the_seed(client: Client) -> None:
    asked = {**QUICK, "pack": shapes(colour="*"), "idempotency_key": "packs once"}
    one, two = [await job(client, "flux_generate", **asked) for _ in range(2)]
    assert one.images == two.images
    other = await call(client, "flux_generate", **{**asked, "pack": shapes(colour="red")})
    assert said(other).startswith("[idempotency_conflict]")


async def test_repeating_a_call_with_its_key_finds_its_job_whatever_became_of_its_pack(
    client: Client, own: Path
) -> None:
    write_pack(own / "fleeting")
    asked = {**QUICK, "pack": "fleeting", "idempotency_key": "packs fleeting"}
    drawn = await job(client, "flux_generate", **asked)
    (own / "fleeting" / "pack.json").unlink()
    again = await job(client, "flux_generate", **asked)
    assert again.images == drawn.images
    other = await call(client, "flux_generate", **{**asked, "idempotency_key": "packs fleeting 2"})
    assert said(other).startswith("[invalid_pack]")


# --- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_refused_prompt_never_reaches_the_queue(shared_service: Service, mode: str) -> None:
    before = await left_alone(shared_service)
    async with Client(build_server(shared_service), mode=mode) as client:
        result = await call(client, "flux_generate", **CROWD, wait_s=200)
    assert result.is_error
    assert said(result) == (
        "[prompt_refused] The pack 'micro-shapes' refuses 'crowd' in extra: 'people' is forbidden: "
        "micro knows coloured shapes and nothing else. "
        "Say instead: a red heart on a white background."
    )
    assert await left_alone(shared_service) == before


async def test_what_is_negated_is_not_refused(client: Client) -> None:
    pack = {"name": SHAPES, "extra": "without people"}
    composed = await composed_of(client, pack=pack)
    assert (composed.verdict, [one.code for one in composed.findings]) == (
        "pass",
        ["negated_wording"],
    )
    drawn = await job(client, "flux_generate", pack=pack, **QUICK, seed=1)
    assert drawn.status == "completed"


async def test_a_warning_is_drawn_and_told(client: Client) -> None:
    pack = {"name": SHAPES, "extra": "with a gradient"}
    drawn = await job(client, "flux_generate", pack=pack, **QUICK, seed=1)
    assert drawn.status == "completed"
    assert any("'gradient' in extra" in notice for notice in drawn.notices)


# --- dry runs ----------------------------------------------------------------------------------


async def test_a_dry_run_shows_prompt_audit_report_and_tokens_and_queues_nothing(
    client: Client, shared_service: Service
) -> None:
    before = await left_alone(shared_service)
    composed = await composed_of(client, pack=shapes(colour="cyan"), seed=1)
    assert composed.prompt == "a large cyan circle on a blue background in the center"
    assert (composed.verdict, composed.findings, composed.more_findings) == ("pass", (), 0)
    assert composed.report["chosen"]["colour"] == "cyan"
    assert composed.report["blocks"][0]["source"] == "fixed_block.txt"
    counts = {count.encoder: count for count in composed.tokens}
    assert set(counts) == {"tokenizer", "tokenizer_2"}
    assert all(count.exact and 10 < count.tokens <= count.limit for count in composed.tokens)
    assert await left_alone(shared_service) == before


async def test_a_dry_run_shows_a_refused_prompt_with_what_refuses_it(
    client: Client, shared_service: Service
) -> None:
    before = await left_alone(shared_service)
    composed = await composed_of(client, **CROWD)
    assert composed.verdict == "refuse"
    (finding,) = composed.findings
    assert composed.prompt[finding.start : finding.end] == finding.text == "crowd"
    assert (finding.verdict, finding.code, finding.block) == ("refuse", "forbidden", "extra")
    assert finding.rewording == "a red heart on a white background"
    assert composed.report["verdict"] == "refuse"
    assert await left_alone(shared_service) == before


async def test_a_dry_run_judges_plain_words_as_well(client: Client) -> None:
    composed = await composed_of(client, prompt="a street, no people")
    assert (composed.prompt, composed.verdict, composed.report) == (
        "a street, no people",
        "pass",
        {},
    )
    assert [(one.verdict, one.text) for one in composed.findings] == [("advice", "no people")]
    assert all(count.exact for count in composed.tokens)


async def test_a_dry_run_without_words_has_nothing_to_judge(client: Client) -> None:
    images = [given(drawn_by_us(scene("blue", "circle", "red")))]
    answer = await dry_run(client, "flux_variation", images=images)
    assert (answer.composed, answer.plan.prompt) == ((), "")


async def test_a_dry_run_of_several_shows_each_different_prompt_once(client: Client) -> None:
    asked = {"pack": shapes(size="*"), "seed": 2, "count": 8}
    answer = await dry_run(client, "flux_generate", **asked)
    prompts = answer.plan.prompts
    assert len(prompts) == 8
    assert [one.prompt for one in answer.composed] == list(dict.fromkeys(prompts))
    assert 1 < len(answer.composed) <= 3


@pytest.mark.parametrize("ask", [dry_run, job])
async def test_a_prompt_the_model_cuts_is_told_with_the_words_it_never_reads(
    client: Client, ask: Callable[..., Awaitable[DryRunAnswer | JobAnswer]]
) -> None:
    words = ", ".join(f"shape number {number}" for number in range(90))
    for asked in ({"prompt": words}, {"pack": {"name": SHAPES, "extra": words}}):
        answer = await ask(client, "flux_generate", **QUICK, **asked, seed=1)
        (notice,) = [one for one in answer.notices if "tokens of a prompt" in one]
        assert "it is cut" in notice
        assert "number" in notice
    short = await ask(client, "flux_generate", **QUICK, prompt="a star", seed=1)
    assert not any("tokens" in notice for notice in short.notices)


# --- the argument ------------------------------------------------------------------------------


def picture() -> str:
    return given(drawn_by_us(scene("blue", "circle", "red")))


BOX = {"box": {"x": 16, "y": 16, "width": 64, "height": 64}}


@pytest.mark.parametrize(
    ("kind", "tool", "arguments"),
    [
        ("text2img", "flux_generate", {}),
        ("kontext", "flux_edit", {"images": [picture()]}),
        ("fill", "flux_fill", {"image": picture(), "mask": BOX}),
        ("redux", "flux_variation", {"images": [picture()]}),
        ("control", "flux_structural", {"image": picture()}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_all_five_tools_draw_with_a_pack(
    client: Client, own: Path, shared_service: Service, kind: str, tool: str, arguments: Any
) -> None:
    """The words are the pack's: drawn from the same words without it, the image is the same."""
    name = f"for-{kind}"
    write_pack(own / name, {"fixed_block.txt": "make it {colour}"}, kind=kind, quality="low")
    asked = {**arguments, "steps": 4, "seed": 5, "preview": "none", "wait_s": 200}
    drawn = await job(client, tool, pack={"name": name, "variables": {"colour": "blue"}}, **asked)
    words = "make it blue, a tabby cat on a chair. The light is soft."
    assert (drawn.status, drawn.kind, drawn.quality) == ("completed", kind, "low")
    assert drawn.images[0].prompt == words
    assert not any("is made for" in notice for notice in drawn.notices)
    record = await shared_service.gallery.find_image(drawn.images[0].id)
    assert record.composed is not None
    assert record.composed["pack"] == name
    plain = await job(client, tool, prompt=words, quality="low", **asked)
    assert plain.images[0].pixels_sha256 == drawn.images[0].pixels_sha256


async def test_a_pack_of_another_kind_gives_its_words_and_says_whose_it_is(
    client: Client,
) -> None:
    answer = await dry_run(client, "flux_edit", pack=SHAPES, images=[picture()])
    assert answer.plan.kind == "kontext"
    assert answer.plan.prompt == "a large red circle on a blue background in the center"
    assert "The pack 'micro-shapes' is made for flux_generate." in answer.notices


@pytest.mark.parametrize(
    "pack",
    [
        shapes(colour="green"),
        json.dumps(shapes(colour="green")),
        {**shapes(), "variables": json.dumps({"colour": "green"})},
    ],
    ids=["object", "text", "text inside"],
)
async def test_a_pack_may_be_an_object_or_its_json_text(client: Client, pack: Any) -> None:
    composed = await composed_of(client, pack=pack)
    assert composed.prompt == "a large green circle on a blue background in the center"


async def test_a_pack_may_be_its_name_alone(client: Client) -> None:
    composed = await composed_of(client, pack=SHAPES)
    assert composed.prompt == "a large red circle on a blue background in the center"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": "a star", "pack": SHAPES}, "[invalid_request] Give either prompt or pack, not"),
        ({}, "[invalid_request] There is neither prompt nor pack."),
        ({"pack": "micro-shape"}, "[unknown_pack] There is no pack 'micro-shape'. Did you mean"),
        ({"pack": shapes(color="red")}, "no variable 'color'. Did you mean 'colour'?"),
        ({"pack": shapes(colour="gren")}, "'gren' is no choice of colour in the pack"),
        ({"pack": shapes(subject="a cat")}, "'a cat' is no choice of subject"),
        ({"pack": {"name": SHAPES, "subjct": "star"}}, "'pack.subjct'. Did you mean 'subject'?"),
        ({"pack": {"name": SHAPES, "extra": "x" * 1990}}, "[prompt_too_long]"),
        ({"pack": {"subject": "star"}}, "pack.name: Field required"),
        ({"pack": {}}, "There is neither prompt nor pack."),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_mistake_is_told_with_what_there_is_and_leaves_no_trace(
    client: Client, shared_service: Service, arguments: dict[str, Any], says: str
) -> None:
    before = await left_alone(shared_service)
    result = await call(client, "flux_generate", **arguments)
    assert result.is_error
    assert says in said(result)
    assert await left_alone(shared_service) == before


async def test_a_wrong_pack_is_out_of_use_and_no_other(client: Client, own: Path) -> None:
    write_pack(own / "torn", {"fixed_block.txt": "A {colur} photograph."})
    write_pack(own / "whole", variables=MANIFEST["variables"])
    torn = await call(client, "flux_generate", pack="torn")
    assert said(torn).startswith(
        "[invalid_pack] The pack 'torn' cannot be used: torn/fixed_block.txt:1: Nothing fills"
    )
    assert "Did you mean 'colour'?" in said(torn)
    for name in (SHAPES, "whole"):
        assert (await composed_of(client, pack=name)).verdict == "pass"
    (own / "torn" / "fixed_block.txt").write_text("A {colour} photograph.", encoding="utf-8")
    fixed = await composed_of(client, pack="torn")
    assert fixed.prompt == "A red photograph. a tabby cat on a chair. The light is soft."
