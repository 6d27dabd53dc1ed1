"""Which LoRAs a model is drawn with: those that fit, and which model where none is named."""

from typing import Any

import pytest

from flux_mcp.errors import InvalidLoraError, LoraMismatchError, UnknownLoraError
from flux_mcp.requests.plan import as_asked
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.settings.settings import Settings
from tests.models.lora_files import flux1, pair, put_striped, write
from tests.service.test_planner import decide, install

pytestmark = pytest.mark.anyio


def asked(*loras: Any, **more: Any) -> GenerateRequest:
    return GenerateRequest.model_validate({"prompt": "a star", "loras": list(loras), **more})


async def test_a_plan_pins_the_content_of_each_file(settings: Settings) -> None:
    put_striped(settings.paths.loras)
    decision = await decide(settings, asked({"name": "striped", "weight": 0.8}))
    (planned,) = decision.plan.loras
    assert (planned.name, planned.weight) == ("striped", 0.8)
    assert planned.sha256 == decision.loras[0].sha256


async def test_a_request_without_any_asks_for_none(settings: Settings) -> None:
    put_striped(settings.paths.loras)
    request = GenerateRequest(prompt="a star")
    assert (await decide(settings, request)).plan.loras == ()
    assert "loras" not in as_asked(request)


async def test_an_unknown_one_is_refused_with_those_there_are(settings: Settings) -> None:
    put_striped(settings.paths.loras)
    with pytest.raises(UnknownLoraError) as refused:
        await decide(settings, asked("stripy"))
    assert "Did you mean 'striped'?" in refused.value.hint


async def test_one_that_is_wrong_is_refused_with_what_is_wrong(settings: Settings) -> None:
    write(settings.paths.loras / "odd.safetensors", pair("transformer.odd", 8, 8))
    with pytest.raises(InvalidLoraError, match="fit no model known here"):
        await decide(settings, asked("odd"))


async def test_one_of_another_family_is_refused_before_anything_is_loaded(
    settings: Settings,
) -> None:
    write(settings.paths.loras / "ink.safetensors", flux1())
    with pytest.raises(LoraMismatchError, match="'ink' is made for flux1; micro is of") as refused:
        await decide(settings, asked("ink"))
    assert "family flux1" in refused.value.hint


async def test_a_model_that_is_named_is_not_exchanged_for_one_that_fits(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    put_striped(settings.paths.loras)
    with pytest.raises(LoraMismatchError, match="made for micro; flux1-dev is of"):
        await decide(settings, asked("striped", model="flux1-dev"))


async def test_a_model_that_is_left_open_is_one_they_are_made_for(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    put_striped(settings.paths.loras)
    write(settings.paths.loras / "ink.safetensors", flux1())
    assert (await decide(settings, asked("striped"))).plan.model == "micro"
    assert (await decide(settings, asked("ink"))).plan.model == "flux1-dev"
    with pytest.raises(LoraMismatchError):
        await decide(settings, asked("ink", "striped"))


async def test_what_keeps_one_from_showing_is_told(settings: Settings) -> None:
    put_striped(settings.paths.loras)
    (settings.paths.loras / "striped.toml").write_text('trigger_words = ["zebra"]')
    notices = (await decide(settings, asked("striped"))).notices
    assert any("'zebra'" in notice for notice in notices)
