"""LoRAs over MCP: found, drawn with, kept with the image, refused where they do not fit."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import ResourceTemplateReference, TextContent, TextResourceContents

from flux_mcp.gallery.provenance import from_png
from flux_mcp.server.app import build_server
from flux_mcp.service.answers import LoraAnswer
from flux_mcp.service.service import Service
from tests.compose.packs_on_disk import write_pack
from tests.models.lora_files import flux1, lokr_of, pair, put_striped, write

from .calls import FAST, call, job, whole

pytestmark = pytest.mark.anyio

ABOUT = 'title = "Stripes"\ntrigger_words = ["striped"]\n'


@pytest.fixture
async def client(shared_service: Service) -> AsyncIterator[Client]:
    async with Client(build_server(shared_service)) as client:
        yield client


@pytest.fixture
def folder(shared_service: Service) -> Path:
    """The folder of LoRAs, with the trained one and one for FLUX.1."""
    folder = shared_service.settings.paths.loras
    put_striped(folder)
    (folder / "striped.toml").write_text(ABOUT)
    write(folder / "ink.safetensors", flux1())
    return folder


@pytest.mark.usefixtures("folder")
async def test_an_image_is_drawn_with_one_and_says_so_everywhere(client: Client) -> None:
    plain = (await job(client, "flux_generate", **FAST)).images[0]
    result = await call(client, "flux_generate", **FAST, loras=[{"name": "striped", "weight": 0.8}])
    assert not result.is_error, result.content
    assert isinstance(result.content[0], TextContent)
    assert "model micro (demo), LoRAs striped 0.8, job" in result.content[0].text
    assert "Note: The LoRA 'striped' shows when" in result.content[0].text

    assert result.structured_content is not None
    assert result.structured_content["images"][0]["loras"] == [{"name": "striped", "weight": 0.8}]
    image = (await whole(client, result)).images[0]
    (used,) = image.loras
    assert (used.name, used.weight) == ("striped", 0.8)
    assert image.pixels_sha256 != plain.pixels_sha256
    assert plain.loras == ()

    provenance = from_png(Path(image.path))
    assert provenance.loras == [used.model_dump()]
    assert [one.sha256 for one in provenance.render_plan().loras] == [used.sha256]
    found = await call(client, "flux_search_gallery", limit=1)
    assert found.structured_content is not None
    assert found.structured_content["images"][0]["loras"] == [{"name": "striped", "weight": 0.8}]
    again = (await job(client, "flux_generate", **FAST)).images[0]
    assert again.pixels_sha256 == plain.pixels_sha256


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("tool", "more"),
    [
        ("flux_edit", {"images": ["$"]}),
        ("flux_fill", {"image": "$", "mask": {"box": {"x": 8, "y": 8, "width": 32, "height": 32}}}),
        ("flux_variation", {"images": ["$"]}),
        ("flux_structural", {"image": "$"}),
    ],
)
async def test_the_other_drawing_tools_draw_with_them_too(
    client: Client, tool: str, more: dict[str, Any]
) -> None:
    given = (await job(client, "flux_generate", **FAST)).images[0].id
    arguments = json.loads(json.dumps({**FAST, **more}).replace('"$"', json.dumps(given)))
    plain = await job(client, tool, **arguments)
    striped = await job(client, tool, **arguments, loras=["striped"])
    assert [lora.name for lora in striped.images[0].loras] == ["striped"]
    assert striped.images[0].pixels_sha256 != plain.images[0].pixels_sha256


@pytest.mark.usefixtures("folder")
async def test_a_dry_run_says_what_they_are(client: Client) -> None:
    result = await call(client, "flux_generate", **FAST, loras=["striped"], dry_run=True)
    assert isinstance(result.content[0], TextContent)
    assert "LoRA striped: weight 1, family micro, rank 8, trigger words: striped, sha256 " in (
        result.content[0].text
    )
    assert result.structured_content is not None
    (lora,) = result.structured_content["loras"]
    assert LoraAnswer.model_validate(lora).ranks == (8,)
    planned = result.structured_content["plan"]["loras"][0]
    assert f"sha256 {planned['sha256']}" in result.content[0].text


async def test_they_are_resources(client: Client, folder: Path) -> None:
    write(folder / "odd.safetensors", pair("transformer.odd", 8, 8))
    listed = {one.uri: one for one in (await client.list_resources()).resources}
    assert "flux://loras/odd" not in listed
    assert listed["flux://loras/striped"].title == "Stripes"
    assert listed["flux://loras/striped"].description == (
        "LoRA for models of the family micro. The prompt needs: striped."
    )
    assert "flux1" in (listed["flux://loras/ink"].description or "")
    (content,) = (await client.read_resource("flux://loras/striped")).contents
    assert isinstance(content, TextResourceContents)
    answer = LoraAnswer.model_validate_json(content.text)
    assert (answer.families, answer.ranks, answer.trigger_words) == (("micro",), (8,), ("striped",))
    with pytest.raises(MCPError, match="unknown_lora"):
        await client.read_resource("flux://loras/none")
    with pytest.raises(MCPError, match="fits no model known here"):
        await client.read_resource("flux://loras/odd")
    (folder / "odd.safetensors").unlink()


async def test_one_in_a_folder_is_a_resource_and_drawn_with(client: Client, folder: Path) -> None:
    name = "styles/my ink (v2)"
    lokr = lokr_of("lora_unet_double_blocks_0_img_attn_qkv", 128, 384)
    path = write(folder / f"{name}.safetensors", lokr, pair("lora_te1_x", 8, 8))
    uris = [one.uri for one in (await client.list_resources()).resources]
    (uri,) = [one for one in uris if "styles" in one]
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    answer = LoraAnswer.model_validate_json(content.text)
    assert (answer.name, answer.forms) == (name, ("lokr",))
    assert answer.left_out == ("1 layers of text encoders",)
    plain = await job(client, "flux_generate", **FAST)
    drawn = await job(client, "flux_generate", **FAST, loras=[name])
    assert [lora.name for lora in drawn.images[0].loras] == [name]
    assert drawn.images[0].pixels_sha256 != plain.images[0].pixels_sha256
    said = f"Of the LoRA '{name}' is not used: 1 layers of text encoders."
    assert said in drawn.notices
    path.unlink()


@pytest.mark.usefixtures("folder")
async def test_a_name_that_is_begun_is_completed(client: Client) -> None:
    reference = ResourceTemplateReference(type="ref/resource", uri="flux://loras/{name}")
    found = await client.complete(reference, {"name": "name", "value": "st"})
    assert found.completion.values == ["striped"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("loras", "says"),
    [
        (["stripy"], "[unknown_lora] There is no LoRA 'stripy'. Did you mean 'striped'? LoRAs: "),
        (["ink"], "[lora_mismatch] The LoRA 'ink' is made for flux1; micro is of the family micro"),
        ([{"name": "striped", "weight": 9}], "[invalid_request] loras.0.weight"),
        (["striped", "striped"], "[invalid_request] loras: one of them is named twice"),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_no_job(
    client: Client, shared_service: Service, loras: list[Any], says: str
) -> None:
    before = [one.id for one in await shared_service.recent_jobs(1)]
    result = await call(client, "flux_generate", **FAST, loras=loras)
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    assert result.content[0].text.startswith(says)
    assert [one.id for one in await shared_service.recent_jobs(1)] == before


@pytest.mark.usefixtures("folder")
async def test_a_pack_draws_with_its_loras_and_the_caller_may_leave_them_out(
    client: Client, shared_service: Service
) -> None:
    loras = [{"name": "striped", "weight": 0.5}]
    write_pack(shared_service.settings.paths.packs / "inked", loras=loras)
    asked = {key: value for key, value in FAST.items() if key != "prompt"}
    drawn = (await job(client, "flux_generate", **asked, pack="inked")).images[0]
    assert [(lora.name, lora.weight) for lora in drawn.loras] == [("striped", 0.5)]
    without = (await job(client, "flux_generate", **asked, pack="inked", loras=[])).images[0]
    assert without.loras == ()
    assert without.pixels_sha256 != drawn.pixels_sha256


async def test_a_file_that_changes_while_its_job_waits_fails_it(
    client: Client, shared_service: Service, folder: Path
) -> None:
    """The job was planned with what the file held; nothing else is drawn in its name."""
    layer = "transformer.transformer_blocks.0.attn.to_out.0"
    write(folder / "fresh.safetensors", pair(layer, 128, 128))
    request = {**FAST, "loras": ["fresh"], "wait_s": 0, "preview": "none"}
    # Something long is drawn first, so the file is exchanged before its turn.
    long = await job(client, "flux_generate", **{**FAST, "steps": 64, "count": 8, "wait_s": 0})
    waiting = await job(client, "flux_generate", **request)
    write(folder / "fresh.safetensors", pair(layer, 128, 128, rank=3))
    assert long.job_id is not None
    await call(client, "flux_cancel_job", job_id=long.job_id)
    result = await call(client, "flux_get_job", job_id=waiting.job_id, wait_s=200)
    assert result.structured_content is not None
    assert result.structured_content["error"]["code"] == "weights_invalid"
    assert "'fresh' was changed" in result.structured_content["error"]["message"]
    assert shared_service.workers()
