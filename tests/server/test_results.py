"""A result is small enough for every client, whatever is asked, and says everything in words."""

import base64
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    ImageContent,
    Implementation,
    ResourceLink,
    TextContent,
)
from mcp.types.version import LATEST_MODERN_VERSION
from PIL import Image

from flux_mcp.errors import WeightsMissingError
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.previews import Sheets, preview_webp
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.jobs.downloads import Download, new_download_id
from flux_mcp.jobs.job import PreviewSize, utc_now
from flux_mcp.principals import acting_as
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.server.app import build_server
from flux_mcp.server.clients import ClientFit, PreviewBudget
from flux_mcp.server.handlers import Handlers
from flux_mcp.server.published import published_tools
from flux_mcp.server.redaction import FOR_THE_OWNER
from flux_mcp.server.resources import ResourceReader
from flux_mcp.server.results import (
    MAX_PREVIEWS,
    PREVIEW_BUDGET_BYTES,
    cancel_result,
    dry_run_result,
    error_result,
    fitted,
    job_result,
    overlay_limits,
    queue_result,
    search_result,
)
from flux_mcp.server.timeouts import CancelReasons
from flux_mcp.service.answers import (
    CancelAnswer,
    ImageAnswer,
    ImageCaption,
    JobAnswer,
    QueueAnswer,
    QueuedJobAnswer,
    SearchAnswer,
    longest_each,
)
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import ErrorInfo, Progress
from tests.compose.packs_on_disk import MANIFEST, write_pack
from tests.e2e.calls import SOMEBODY, whole
from tests.jobs.factories import make_plan_row
from tests.server.images import complete_job, keep_image, noise, queue_job, run_job

pytestmark = pytest.mark.anyio

MAX_CHARACTERS = 1_000_000
MAX_PREVIEW_BYTES = 300_000
WORST_PROMPTS = {"quotes": '"' * 2000, "emoji": "😀" * 2000}
"""What JSON doubles, and what is longest in UTF-8 and in UTF-16."""
NOWHERE = Path("/nowhere")


def closed(schema: Any) -> Any:
    """Return a published schema that also refuses keys it does not name, and null.

    Clients are promised less, so that keys may be added.
    """
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        return {**inner, "additionalProperties": False}
    return inner


SCHEMAS = {tool.name: closed(tool.output_schema) for tool in published_tools()}


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    """A service whose queue nobody runs: jobs stay as the test puts them."""
    service = Service(settings, executes=False)
    await service.open()
    yield service
    await service.close()


@pytest.fixture
async def client(service: Service, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of today's protocol, or of the mode that a test names."""
    mode = getattr(request, "param", "auto")
    async with Client(build_server(service), mode=mode, client_info=SOMEBODY) as client:
        yield client


BOTH_PROTOCOLS = pytest.mark.parametrize("client", ["auto", "legacy"], indirect=True)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """Noise with its thumbnail, at sizes up to the largest a model draws."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("noise"))
    files = ImageFiles(settings.paths)
    made = {}
    for width, height in ((1024, 1024), (4096, 1024)):
        saved = files.save(
            f"img_{width}x{height}",
            "2026-01-01T00:00:00.000000+00:00",
            Image.frombytes("RGB", (width, height), noise(width, height)),
            {},
        )
        made[width, height] = files.path_of(saved.file)
    return made


def image(number: int, path: Path, prompt: str, **facts: Any) -> ImageAnswer:
    image_id = f"img_{number:016d}"
    return ImageAnswer(
        **{
            "id": image_id,
            "uri": f"flux://images/{image_id}",
            "path": str(path),
            "thumbnail_uri": f"flux://images/{image_id}/thumbnail",
            "width": 1024,
            "height": 1024,
            "seed": 2**53 - 1,
            "model": "flux1-kontext-dev",
            "kind": "kontext",
            "prompt": prompt,
            "sha256": "0" * 64,
            "pixels_sha256": "0" * 64,
            "parents": tuple(f"img_{parent:016d}" for parent in range(8)),
            "job_id": "job_0123456789abcdef",
            "session": "s" * 100,
            "rating": 5,
            "seconds": 1.5,
            "licence": "flux-non-commercial",
            "created_at": "2026-01-01T00:00:00.000000+00:00",
            **facts,
        }
    )


def completed(images: list[ImageAnswer], prompt: str) -> JobAnswer:
    return JobAnswer(
        job_id="job_0123456789abcdef",
        status="completed",
        step=8,
        total_steps=8,
        kind="kontext",
        model="flux1-kontext-dev",
        quality="high",
        seed=7,
        prompt=prompt,
        session="s" * 100,
        notices=("Drawn by micro." * 20,) * 4,
        images=tuple(images),
    )


def texts(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def previews(result: CallToolResult) -> list[ImageContent]:
    return [block for block in result.content if isinstance(block, ImageContent)]


def size_of(picture: ImageContent) -> tuple[int, int]:
    data = base64.b64decode(picture.data)
    assert len(data) <= MAX_PREVIEW_BYTES
    with Image.open(io.BytesIO(data)) as opened:
        assert picture.mime_type == f"image/{(opened.format or '').lower()}"
        opened.load()
        return opened.size


def file_of(kept: ImageAnswer) -> bytes:
    return Path(kept.path).read_bytes()


def check_size(result: CallToolResult) -> None:
    """However a client counts: bytes of UTF-8, or the characters of JavaScript."""
    sent = result.model_dump_json(by_alias=True, exclude_none=True)
    assert len(sent.encode()) < MAX_CHARACTERS
    assert len(sent.encode("utf-16-le")) // 2 < MAX_CHARACTERS
    assert len(previews(result)) <= MAX_PREVIEWS
    for picture in previews(result):
        size_of(picture)


def check_schema(tool: str, result: CallToolResult) -> None:
    jsonschema.validate(json.loads(json.dumps(result.structured_content)), SCHEMAS[tool])


# --- the budget --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("quotes", MAX_PREVIEWS), ("emoji", 8)],
)
def test_a_finished_job_of_noise_stays_below_a_million_characters(
    noisy: dict[tuple[int, int], Path], prompt: str, count: int
) -> None:
    words = WORST_PROMPTS[prompt]
    images = [image(number, noisy[1024, 1024], words) for number in range(count)]
    result = job_result(completed(images, words), "normal", NOWHERE, Sheets())
    check_size(result)
    check_schema("flux_generate", result)
    assert len(previews(result)) == (count if count <= MAX_PREVIEWS else 1)


@pytest.mark.parametrize("count", [MAX_PREVIEWS, MAX_PREVIEWS + 1])
def test_previews_keep_to_the_budget_of_the_client(
    noisy: dict[tuple[int, int], Path], count: int
) -> None:
    images = [image(number, noisy[1024, 1024], "noise") for number in range(count)]
    answer = completed(images, "noise")
    result = job_result(answer, "normal", NOWHERE, Sheets(), budget=PreviewBudget(20_000))
    shown = previews(result)
    assert len(shown) == (count if count <= MAX_PREVIEWS else 1)
    assert sum(len(base64.b64decode(one.data)) for one in shown) <= 20_000
    text = result.content[0]
    assert isinstance(text, TextContent)
    numbered = [f"{number}. Image {one.id}:" for number, one in enumerate(images, start=1)]
    assert all((line in text.text) == (count > MAX_PREVIEWS) for line in numbered)
    assert "Colours:" not in text.text


@pytest.mark.parametrize("preview", ["small", "normal"])
@pytest.mark.parametrize("count", [1, MAX_PREVIEWS, MAX_PREVIEWS + 1, 8])
def test_previews_keep_to_the_pixels_of_the_client(
    noisy: dict[tuple[int, int], Path], count: int, preview: PreviewSize
) -> None:
    images = [image(number, noisy[1024, 1024], "noise") for number in range(count)]
    budget = PreviewBudget(pixels=100_000)
    mask = preview_webp(noisy[1024, 1024], 1024)
    for overlay in (None, mask):
        answer = completed(images, "noise")
        result = job_result(answer, preview, NOWHERE, Sheets(), overlay=overlay, budget=budget)
        sizes = [size_of(one) for one in previews(result)]
        assert 60_000 <= sum(width * height for width, height in sizes) <= 100_000


def test_who_is_shown_no_image_is_told_its_colours(noisy: dict[tuple[int, int], Path]) -> None:
    answer = completed([image(0, noisy[1024, 1024], "noise")], "noise")
    text = job_result(answer, "none", NOWHERE, Sheets()).content[0]
    assert isinstance(text, TextContent)
    assert re.search(r"^Colours: [a-z ]+ \d+ %", text.text, re.MULTILINE)


@pytest.mark.parametrize("principal", ["local", "guest"])
def test_a_caption_is_told_as_what_a_model_says(principal: str) -> None:
    caption = ImageCaption(model="Florence-2", text="a red circle on a white background.")
    drawn = image(0, NOWHERE / "a.png", "noise", caption=caption)
    with acting_as(principal):
        result = job_result(completed([drawn], "noise"), "none", NOWHERE, Sheets())
    told = "\nShows (by Florence-2): a red circle on a white background."
    assert told in texts(result)
    check_schema("flux_generate", result)


def test_the_largest_images_fit_as_well(noisy: dict[tuple[int, int], Path]) -> None:
    images = [image(number, noisy[4096, 1024], "noise") for number in range(MAX_PREVIEWS)]
    result = job_result(completed(images, "noise"), "normal", NOWHERE, Sheets())
    check_size(result)
    assert all(max(size_of(picture)) <= 1024 for picture in previews(result))


def test_the_overlay_of_a_mask_shares_the_budget_and_is_left_out_on_request(
    noisy: dict[tuple[int, int], Path],
) -> None:
    limits = overlay_limits("normal")
    assert limits is not None
    overlay = preview_webp(noisy[1024, 1024], limits.longest_px, limits.max_bytes)
    for count, shown in ((1, 2), (MAX_PREVIEWS - 1, MAX_PREVIEWS), (MAX_PREVIEWS, 2)):
        images = [image(number, noisy[1024, 1024], "noise") for number in range(count)]
        answer = completed(images, "noise")
        result = job_result(answer, "normal", NOWHERE, Sheets(), overlay=overlay)
        check_size(result)
        blocks = [block for block in result.content if isinstance(block, ImageContent)]
        assert len(blocks) == shown
        assert base64.b64decode(blocks[-1].data) == overlay
        assert sum(len(base64.b64decode(block.data)) for block in blocks) <= PREVIEW_BUDGET_BYTES
    assert overlay_limits("none") is None


@pytest.mark.parametrize("prompt", WORST_PROMPTS.values(), ids=WORST_PROMPTS)
def test_fifty_hits_stay_below_a_million_characters(
    noisy: dict[tuple[int, int], Path], prompt: str
) -> None:
    images = tuple(image(number, noisy[1024, 1024], prompt) for number in range(50))
    result = search_result(SearchAnswer(images=images, next_cursor="c" * 28), "normal", Sheets())
    check_size(result)
    check_schema("flux_search_gallery", result)
    assert len(previews(result)) == 1


def test_a_full_queue_and_a_cancelled_session_stay_below_a_million_characters() -> None:
    jobs = tuple(
        QueuedJobAnswer(
            job_id=f"job_{number:016d}",
            status="queued",
            kind="kontext",
            model="flux1-kontext-dev",
            step=0,
            total_steps=800,
            position=number + 1,
            session='"' * 100,
            created_at="2026-01-01T00:00:00.000000+00:00",
        )
        for number in range(Settings().queue_limit)
    )
    queue = queue_result(QueueAnswer(depth=len(jobs), limit=len(jobs), wait_s=3600, jobs=jobs))
    check_size(queue)
    check_schema("flux_get_job", queue)
    ids = tuple(job.job_id for job in jobs)
    check_size(cancel_result(CancelAnswer(cancelled=ids, stopping=ids[:1], already_final=())))


async def test_the_budget_holds_over_the_protocol_with_real_rows(service: Service) -> None:
    plan = make_plan_row(prompt=WORST_PROMPTS["emoji"], seeds=tuple(range(8)))
    pixels = noise(1024, 1024)
    job = await complete_job(service, [(pixels, 1024, 1024)] * 8, plan=plan)
    arguments = {"job_id": job.id, "preview": "normal"}
    for mode in ("auto", "legacy"):
        async with Client(build_server(service), mode=mode, client_info=SOMEBODY) as client:
            result = await client.call_tool("flux_get_job", arguments)
        check_size(result)
        check_schema("flux_get_job", result)
        (sheet,) = previews(result)
        assert min(size_of(sheet)) > 300, "a sheet, large enough to tell the images apart"


@pytest.mark.parametrize(("sign", "count"), [("😀", 8), ("\\", 1)], ids=["emoji", "backslashes"])
async def test_a_dry_run_of_the_worst_pack_stays_below_a_million_characters(
    service: Service, sign: str, count: int
) -> None:
    """Prompts as long as may be, all of each found by many patterns, told at length."""
    rows = [
        {
            "pattern": f"(?:{re.escape(sign)}){{{least},}}",
            "kind": "regex",
            "severity": "warn",
            "reason": sign * 250,
            "instead": sign * 250,
        }
        for least in range(100, 126)
    ]
    tag = {"description": "Tells the prompts apart.", "default": "t0"}
    variables = {**MANIFEST["variables"], "tag": tag}
    facts = {**MANIFEST, "variables": variables, "forbidden": rows}
    tags = "".join(f"[t{number}]\nnumber {number}\n" for number in range(300))
    write_pack(
        service.settings.paths.packs / "worst",
        {
            "pack.json": json.dumps(facts, ensure_ascii=False),
            "fixed_block.txt": "A {colour} sign.",
            "variable_tag.txt": tags,
        },
    )
    pack = {"name": "worst", "variables": {"tag": "*"}, "extra": sign * 1900}
    request = GenerateRequest.model_validate({"pack": pack, "count": count, "seed": 1})
    answer = await service.dry_run(request)
    result = dry_run_result(answer)
    check_size(result)
    check_schema("flux_generate", result)
    assert len(answer.composed) == count
    for one in answer.composed:
        assert len(one.prompt) > 1900
        assert len(one.findings) == 24 // count
        assert one.more_findings == 26 - 24 // count
    assert f"and {26 - 24 // count} more." in texts(result)
    assert len(answer.notices) < 20


async def test_of_many_findings_the_severest_are_told_in_their_order(
    service: Service, client: Client
) -> None:
    warned = [{"pattern": f"beast{number}", "severity": "warn"} for number in range(40)]
    write_pack(
        service.settings.paths.packs / "strict",
        forbidden=[*warned, {"pattern": "dragon"}, {"pattern": "griffin"}],
    )
    extra = ", ".join([*(one["pattern"] for one in warned), "dragon", "griffin"])
    pack = {"name": "strict", "extra": extra}
    result = await client.call_tool("flux_generate", {"pack": pack, "dry_run": True})
    assert result.structured_content is not None
    (composed,) = result.structured_content["composed"]
    found = [finding["pattern"] for finding in composed["findings"]]
    assert found == [*(f"beast{number}" for number in range(22)), "dragon", "griffin"]
    assert composed["more_findings"] == 18


def test_the_schemas_refuse_what_no_tool_answers() -> None:
    for tool, schema in SCHEMAS.items():
        for wrong in ({}, {"job_id": "job_x"}, {"error": None}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema)
        assert set(schema) >= {"type"}, tool


# --- what a model is not told ------------------------------------------------------------------


def nodes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of a JSON document with what it holds."""
    if isinstance(value, list):
        for item in value:
            yield from nodes(item)
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from nodes(item)


def test_structured_content_has_no_null_no_hash_and_nothing_empty_inside() -> None:
    first = image(0, NOWHERE, "a")
    bare = image(1, NOWHERE, "", parents=(), session=None)
    answer = completed([first, bare], "a").model_copy(update={"session": None, "notices": ()})
    told = job_result(answer, "none", NOWHERE, Sheets()).structured_content
    check_schema("flux_generate", job_result(answer, "none", NOWHERE, Sheets()))
    assert told is not None
    assert told["notices"] == [], "a list of the answer itself is always there"
    assert not {"session", "phase", "eta_s", "error", "next"} & set(told)
    kept, plain = told["images"]
    assert kept.keys() - plain.keys() == {"parents", "session"}
    assert not {"job_id", "kind", "model"} & set(plain), "the job says it"
    assert (kept["seed"], plain["seed"]) == (2**53 - 1,) * 2
    for key, value in nodes(told["images"]):
        assert value not in (None, "", [], {}), key
        assert "sha256" not in key


def test_a_page_of_twenty_is_short_whatever_the_prompts() -> None:
    """About 1,200 tokens: benchmarks/answers.py counts them."""
    prompts = [WORST_PROMPTS["quotes"], *["a red circle"] * 9, *["word " * 300] * 10]
    images = tuple(image(number, NOWHERE, prompt) for number, prompt in enumerate(prompts))
    answer = SearchAnswer(images=images, next_cursor="c" * 28)
    result = search_result(answer, "none", Sheets())
    check_schema("flux_search_gallery", result)
    told = result.structured_content
    assert told is not None
    assert len(json.dumps(told, ensure_ascii=False, separators=(",", ":"))) < 4100
    assert told["next"] == "Call flux_search_gallery again with next_cursor as cursor."
    shown = [hit["prompt"] for hit in told["images"]]
    assert shown[1:10] == ["a red circle"] * 9, "short ones are whole, and leave room for others"
    assert all(cut.endswith("word…") and 90 < len(cut) <= 100 for cut in shown[10:])
    assert len(texts(result)) < 4100
    alone = search_result(SearchAnswer(images=images[10:11]), "none", Sheets()).structured_content
    assert alone is not None
    assert len(alone["images"][0]["prompt"]) > 1100
    assert "next" not in alone


@pytest.mark.parametrize(
    ("lengths", "total", "least", "longest"),
    [
        ([], 100, 10, 10),
        ([50, 50], 100, 10, 50),
        ([60, 60], 100, 10, 50),
        ([0, 20, 500], 100, 10, 80),
        ([500] * 50, 100, 10, 10),
    ],
)
def test_short_texts_leave_room_for_long_ones(
    lengths: list[int], total: int, least: int, longest: int
) -> None:
    assert longest_each(lengths, total, least) == longest


def test_a_client_is_sent_what_it_can_use(noisy: dict[tuple[int, int], Path]) -> None:
    whole = job_result(
        completed([image(0, noisy[1024, 1024], "a")], "a"), "small", NOWHERE, Sheets()
    )
    for fit in (
        ClientFit(),
        ClientFit(links=False),
        ClientFit(structured=False),
        ClientFit(links=False, structured=False),
    ):
        kinds = [block.type for block in fitted(whole, fit).content]
        assert kinds == ["text", "image", *["resource_link"] * fit.links]
        assert (fitted(whole, fit).structured_content is not None) == fit.structured


@pytest.mark.parametrize(
    ("name", "version", "kinds"),
    [
        ("somebody", "2025-11-25", ["text", "image", "resource_link", "structured"]),
        ("somebody", "2025-06-18", ["text", "image", "resource_link", "structured"]),
        ("somebody", "2025-03-26", ["text", "image", "structured"]),
        ("codex-mcp-client", "2025-06-18", ["text", "image"]),
        ("codex-mcp-client", "2026-07-28", ["text", "image"]),
        ("google-adk", "2025-11-25", ["text", "resource_link"]),
        ("mcp", "2025-11-25", ["text", "structured"]),
    ],
)
async def test_a_client_gets_what_it_says_it_is(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    version: str,
    kinds: list[str],
) -> None:
    """Through the SDK's own client, which checks structured content against the output schema."""
    mode = "auto" if version == LATEST_MODERN_VERSION else "legacy"
    monkeypatch.setattr("mcp.client.session.LATEST_HANDSHAKE_VERSION", version)
    job = await complete_job(service, [(noise(64, 64), 64, 64)])
    client_info = Implementation(name=name, version="1")
    async with Client(build_server(service), mode=mode, client_info=client_info) as client:
        assert client.protocol_version == version
        tools = (await client.list_tools()).tools
        assert {tool.output_schema is not None for tool in tools} == {"structured" in kinds}
        result = await client.call_tool("flux_get_job", {"job_id": job.id})
        structured = [] if result.structured_content is None else ["structured"]
        assert [block.type for block in result.content] + structured == kinds
        assert f"File: {service.settings.data_dir}" in texts(result)
        small = await client.call_tool("flux_get_job", {"job_id": job.id, "preview": "small"})
        assert previews(small), "what a call asks for wins"
        found = await client.call_tool("flux_search_gallery", {})
        assert bool(previews(found)) == ("image" in kinds)
        refused = await client.call_tool("flux_get_job", {"job_id": "job_none"})
        assert refused.is_error


async def test_settings_decide_for_every_client(settings: Settings) -> None:
    chosen = settings.model_copy(update={"structured": "off", "links": "off", "preview": "none"})
    service = Service(chosen, executes=False)
    await service.open()
    job = await complete_job(service, [(noise(64, 64), 64, 64)])
    async with Client(build_server(service), client_info=SOMEBODY) as client:
        assert not any(tool.output_schema for tool in (await client.list_tools()).tools)
        result = await client.call_tool("flux_get_job", {"job_id": job.id})
    task = await Handlers(service, CancelReasons()).tasks.find(job.id)
    await service.close()
    assert task.outcome is not None
    assert [block["type"] for block in task.outcome["content"]] == ["text", "image"]
    assert "structuredContent" not in task.outcome
    assert [block.type for block in result.content] == ["text"]
    assert result.structured_content is None


async def test_a_job_is_found_by_the_id_of_its_image(service: Service, client: Client) -> None:
    job = await complete_job(service, [(noise(64, 64), 64, 64)])
    found = await client.call_tool("flux_search_gallery", {})
    assert found.structured_content is not None
    (hit,) = found.structured_content["images"]
    result = await client.call_tool("flux_get_job", {"job_id": hit["id"]})
    check_schema("flux_get_job", result)
    assert result.structured_content is not None
    assert result.structured_content["job_id"] == job.id
    assert result.structured_content["images"][0]["created_at"]
    unknown = await client.call_tool("flux_get_job", {"job_id": "img_none"})
    assert texts(unknown).startswith("[unknown_image]")


# --- for others than the owner -----------------------------------------------------------------


def test_who_has_a_named_token_gets_no_path_and_hints_it_can_follow() -> None:
    missing = WeightsMissingError("It is not here.", "Run: flux-mcp models pull x.")
    failed = completed([], "a").model_copy(
        update={
            "status": "failed",
            "error": ErrorInfo(code="x", message="It failed.", hint="Run: pip install x."),
            "notices": ("micro is a demo. Real models: flux-mcp models pull x",),
        }
    )
    done = completed([image(0, Path("/srv/x.png"), "a")], "a")
    done = done.model_copy(update={"structure": Path("/srv/edges.png")})
    assert "control_image: /srv/edges.png" in texts(job_result(done, "none", NOWHERE, Sheets()))
    with acting_as("ada"):
        refused = error_result(missing)
        told, shown = (job_result(one, "none", NOWHERE, Sheets()) for one in (failed, done))
    assert texts(refused) == (
        "[weights_missing] It is not here. For whoever runs this server: "
        "Run: flux-mcp models pull x."
    )
    assert "For whoever runs this server: Run: pip" in texts(told)
    assert told.structured_content is not None
    assert told.structured_content["error"]["hint"].startswith("For whoever")
    assert told.structured_content["notices"] == [
        "micro is a demo. For whoever runs this server: Real models: flux-mcp models pull x"
    ]
    assert shown.structured_content is not None
    assert "path" not in shown.structured_content["images"][0]
    assert "/srv" not in texts(shown)
    assert texts(error_result(missing)) == str(missing), "the owner reads what to do"


async def test_a_resource_that_is_not_there_is_told_to_others_as_a_tool_would(
    service: Service,
) -> None:
    with acting_as("ada"), pytest.raises(ResourceNotFoundError) as refused:
        await ResourceReader(service).read("lora", "none")
    assert FOR_THE_OWNER in str(refused.value)


# --- previews ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("preview", "longest"), [("none", None), ("small", 512), ("normal", 1024)])
def test_a_preview_is_as_large_as_asked(
    noisy: dict[tuple[int, int], Path], preview: Any, longest: int | None
) -> None:
    images = [image(0, noisy[4096, 1024], "noise")]
    pictures = previews(job_result(completed(images, "noise"), preview, NOWHERE, Sheets()))
    # Noise may be shrunk further to fit; flat images are not.
    assert [max(size_of(picture)) <= (longest or 0) for picture in pictures] == [True] * len(
        pictures
    )
    assert len(pictures) == (0 if longest is None else 1)


def test_a_flat_image_keeps_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (1536, 768), "teal").save(tmp_path / "flat.png")
    result = job_result(
        completed([image(0, tmp_path / "flat.png", "teal")], "teal"), "normal", NOWHERE, Sheets()
    )
    assert [size_of(picture) for picture in previews(result)] == [(1024, 512)]


async def test_beyond_three_images_one_sheet_shows_all(service: Service, client: Client) -> None:
    plan = make_plan_row(seeds=tuple(range(4)))
    colours = [bytes(colour) * 64 * 64 for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    job = await complete_job(service, [(c, 64, 64) for c in [*colours, colours[0]]], plan=plan)
    result = await client.call_tool("flux_get_job", {"job_id": job.id, "preview": "normal"})
    (sheet,) = previews(result)
    with Image.open(io.BytesIO(base64.b64decode(sheet.data))) as opened:
        seen = opened.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
    assert seen.size == (64, 64)
    strong = {
        max(range(3), key=pixel.__getitem__)
        for _, pixel in seen.getcolors(4096) or []
        if max(pixel) > 200 and min(pixel) < 60
    }
    assert strong == {0, 1, 2}
    assert len([b for b in result.content if isinstance(b, ResourceLink)]) == 4


async def test_a_running_job_shows_its_newest_preview(service: Service, client: Client) -> None:
    progress = Progress(
        job_id="", attempt=1, seq=1, phase="denoising", step=3, total_steps=4, eta_s=2.0
    )
    job = await run_job(service, progress)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "WEBP")
    ImageFiles(service.settings.paths).save_preview(job.id, buffer.getvalue())
    result = await client.call_tool("flux_get_job", {"job_id": job.id, "wait_s": 0})
    assert not result.is_error
    assert [size_of(picture) for picture in previews(result)] == [(64, 64)]
    assert texts(result).startswith(
        f"Job {job.id} is not finished: denoising, step 3 of 4, about 2 s left.\n"
        f'Call flux_get_job with job_id "{job.id}"'
    )
    without = await client.call_tool(
        "flux_get_job", {"job_id": job.id, "wait_s": 0, "preview": "none"}
    )
    assert previews(without) == []


# --- words -------------------------------------------------------------------------------------


async def test_the_demonstration_is_named_in_each_result_and_explained_once_in_a_session(
    client: Client,
) -> None:
    asked = {"prompt": "a circle", "dry_run": True, "seed": 3}
    first, second = [await client.call_tool("flux_generate", asked) for _ in range(2)]
    (line,) = [one for one in texts(first).splitlines() if one.startswith("Note: micro is a demo")]
    assert re.search(r"Real models: \S*flux-mcp models pull flux2-klein-4b", line)
    assert len(line.partition(" --data-dir ")[0]) <= 130
    assert "is a demo" not in texts(second)
    assert second.structured_content is not None
    assert second.structured_content["notices"] == []


@BOTH_PROTOCOLS
async def test_a_finished_job_says_every_fact_in_words_and_links_to_every_image(
    service: Service, client: Client
) -> None:
    plan = make_plan_row(seeds=(7, 8))
    pixels = noise(64, 64)
    job = await complete_job(
        service, [(pixels, 64, 64)] * 2, plan=plan, notices=("Drawn by micro.",)
    )
    result = await client.call_tool("flux_get_job", {"job_id": job.id})
    assert not result.is_error
    check_schema("flux_get_job", result)
    answer = await whole(client, result)
    assert [kept.seed for kept in answer.images] == [7, 8]
    links = [block for block in result.content if isinstance(block, ResourceLink)]
    for kept, link in zip(answer.images, links, strict=True):
        for fact in (
            kept.id,
            "64x64",
            f"seed {kept.seed}",
            f"model {kept.model} (demo)",
            kept.path,
            kept.uri,
            job.id,
        ):
            assert fact in texts(result)
        assert str(link.uri) == kept.uri
        assert (link.mime_type, link.size) == ("image/png", len(file_of(kept)))
        (content,) = (await client.read_resource(str(link.uri))).contents
        assert isinstance(content, BlobResourceContents)
        assert base64.b64decode(content.blob) == file_of(kept)
        (small,) = (await client.read_resource(kept.thumbnail_uri)).contents
        assert small.mime_type == "image/webp"
    assert texts(result).endswith("Note: Drawn by micro.")


async def test_a_failed_job_says_why_and_what_to_do(service: Service, client: Client) -> None:
    job = await run_job(service)
    error = ErrorInfo(code="out_of_memory", message="It does not fit.", hint="Ask for less.")
    assert await service._database.call(service._queue.fail, job, error)
    result = await client.call_tool("flux_get_job", {"job_id": job.id})
    check_schema("flux_get_job", result)
    assert texts(result) == f"[out_of_memory] Job {job.id} failed: It does not fit. Ask for less."
    assert result.structured_content is not None
    assert result.structured_content["error"] == error.model_dump()


async def test_a_cancelled_job_says_so(service: Service, client: Client) -> None:
    job = await queue_job(service, session="s")
    cancelled = await client.call_tool("flux_cancel_job", {"session": "s"})
    check_schema("flux_cancel_job", cancelled)
    assert texts(cancelled) == f"Cancelled: {job.id}."
    again = await client.call_tool("flux_cancel_job", {"session": "s"})
    assert texts(again) == "There was nothing to cancel."
    result = await client.call_tool("flux_get_job", {"job_id": job.id})
    assert texts(result) == f"Job {job.id} was cancelled; nothing was generated."


async def test_a_cancelled_job_is_stopping_and_nobody_is_told_to_wait_for_it(
    service: Service, client: Client
) -> None:
    job = await run_job(service)
    cancelled = await client.call_tool("flux_cancel_job", {"job_id": job.id})
    assert texts(cancelled) == f"Stopping at the next step: {job.id}."
    shown = await client.call_tool("flux_get_job", {"job_id": job.id, "wait_s": 0})
    check_schema("flux_get_job", shown)
    assert shown.structured_content is not None
    assert shown.structured_content["status"] == "stopping"
    assert "eta_s" not in shown.structured_content
    assert texts(shown) == (
        f"Job {job.id} is cancelled: it stops at its next step and makes no image."
    )
    queue = await client.call_tool("flux_get_job", {})
    check_schema("flux_get_job", queue)
    assert f"{job.id}: stopping, generate with micro" in texts(queue)


async def test_a_waiting_job_names_its_place_and_the_tool_to_call(
    service: Service, client: Client
) -> None:
    first, second = await queue_job(service), await queue_job(service)
    result = await client.call_tool("flux_get_job", {"job_id": second.id, "wait_s": 0})
    check_schema("flux_get_job", result)
    assert "it waits as number 2 in the queue" in texts(result)
    assert f'Call flux_get_job with job_id "{second.id}"' in texts(result)
    queue = await client.call_tool("flux_get_job", {})
    check_schema("flux_get_job", queue)
    head, *lines = texts(queue).splitlines()
    assert head.startswith("2 of at most 100 jobs wait.")
    assert lines == [
        f"{job.id}: queued, generate with micro, number {place}"
        for place, job in enumerate((first, second), start=1)
    ]


async def test_a_download_says_how_far_it_is_and_how_it_ended(
    service: Service, client: Client
) -> None:
    store, now = service.runtime.rooms.downloads, utc_now()
    download = Download(
        id=new_download_id(), models=("flux1-schnell",), heartbeat_at=now, created_at=now
    )
    await service._database.call(store.begin, download)
    asked = {"job_id": download.id, "wait_s": 0}
    running = await client.call_tool("flux_get_job", asked)
    check_schema("flux_get_job", running)
    assert running.structured_content is not None
    assert running.structured_content["download_id"] == download.id
    assert "job_id" not in running.structured_content
    assert f'Call flux_get_job with job_id "{download.id}" to wait for it.' in texts(running)
    error = ErrorInfo(code="hub", message="It broke off.", hint="Try again.")
    await service._database.call(store.end, download.id, "failed", error)
    failed = await client.call_tool("flux_get_job", asked)
    check_schema("flux_get_job", failed)
    assert texts(failed) == (
        f"[hub] It broke off. Try again. (download {download.id} of flux1-schnell)"
    )


async def test_a_dry_run_says_what_would_be_drawn(client: Client) -> None:
    arguments = {"prompt": "a circle", "dry_run": True, "seed": 3, "count": 2}
    result = await client.call_tool("flux_generate", arguments)
    check_schema("flux_generate", result)
    assert "Dry run, nothing queued: micro would generate 2" in texts(result)
    assert "128x128 in 8 steps" in texts(result)
    assert "first seed 3" in texts(result)
    assert "Note: micro is a demo and draws coloured shapes only." in texts(result)
    assert result.structured_content is not None
    assert result.structured_content["plan"]["seeds"] == [3, 4]
    assert previews(result) == []
    assert "\nPrompt: a circle\nAudit: pass.\nTokens of tokenizer: 4 of 77.\n" in texts(result)


async def test_a_dry_run_says_what_the_audit_found_and_what_to_write(client: Client) -> None:
    pack = {"name": "micro-shapes", "extra": "with a crowd, and no text"}
    result = await client.call_tool("flux_generate", {"pack": pack, "dry_run": True})
    check_schema("flux_generate", result)
    said = texts(result)
    assert "Prompt: a large red circle on a blue background in the center, with a crowd" in said
    assert "\nAudit: refuse.\n- refuse: 'crowd' in extra: 'people' is forbidden: micro" in said
    assert "Say instead: a red heart on a white background.\n" in said
    assert "- advice: 'no text' in extra: FLUX has no negative prompt" in said
    assert "Note: The audit refuses this prompt: without dry_run nothing would be queued." in said


async def test_the_words_of_a_pack_are_told_with_its_images(
    service: Service, client: Client
) -> None:
    report = {"pack": "shapes", "version": "1.0.0", "blocks": []}
    plain, packed = [
        await complete_job(service, [(noise(64, 64), 64, 64)], **facts)
        for facts in ({}, {"composed": (report,)})
    ]
    told = await client.call_tool("flux_get_job", {"job_id": packed.id})
    check_schema("flux_get_job", told)
    assert told.structured_content is not None
    assert told.structured_content["pack"] == "shapes 1.0.0"
    assert "\nPrompt: a red circle\n" in texts(told)
    known = await client.call_tool("flux_get_job", {"job_id": plain.id})
    assert "Prompt:" not in texts(known), "the caller wrote it"


async def test_hits_are_numbered_as_on_their_sheet(service: Service, client: Client) -> None:
    kept: list[ImageRecord] = []
    for number in range(3):
        pixels = noise(32, 32, number)
        kept.append(await keep_image(service, pixels, 32, 32, index=number, seed=number))
    result = await client.call_tool("flux_search_gallery", {"limit": 2})
    check_schema("flux_search_gallery", result)
    head, first, second, more = texts(result).splitlines()
    assert head == "2 images, newest first."
    assert first.startswith(f"1. {kept[2].id}: 32x32, micro, seed 2, ")
    assert second.startswith(f"2. {kept[1].id}: ")
    assert result.structured_content is not None
    assert more == f"More with cursor '{result.structured_content['next_cursor']}'."
    assert len(previews(result)) == 1
    nothing = await client.call_tool("flux_search_gallery", {"query": "zebra"})
    assert texts(nothing) == "No image fits."
    assert previews(nothing) == []
