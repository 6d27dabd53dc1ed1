"""Which LoRAs a model is drawn with: those that fit, and which model where none is named."""

from typing import Any

import pytest
from safetensors.numpy import load_file

from flux_mcp.errors import (
    InvalidLoraError,
    LoraMismatchError,
    UnknownLoraError,
    UnsupportedOptionError,
)
from flux_mcp.models.loras.library import architecture_of, open_loras, require_fit
from flux_mcp.models.registry import Registry
from flux_mcp.requests.plan import as_asked
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.settings.settings import Settings
from tests.models.lora_files import STRIPED, flux1, pair, put_striped, write
from tests.service.test_planner import REGISTRY, decide, install

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
    with pytest.raises(InvalidLoraError, match=r"fits no model known here.*no layer 'odd'"):
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


async def test_what_a_file_has_and_is_not_used_is_told(settings: Settings) -> None:
    words = pair("lora_te1_text_model_x", 8, 8, ends="lora_down")
    put_striped(settings.paths.loras)
    path = settings.paths.loras / "styles" / "my (v2).safetensors"
    write(path, load_file(STRIPED), words)
    notices = (await decide(settings, asked("styles/my (v2)"))).notices
    said = "Of the LoRA 'styles/my (v2)' is not used: 1 layers of text encoders."
    assert said in notices


async def test_weights_that_take_no_loras_are_refused_before_a_job_is_queued(
    settings: Settings,
) -> None:
    put_striped(settings.paths.loras)
    rows = [
        row.model_copy(update={"precision": "fp8"}) if row.is_demonstration else row
        for row in REGISTRY
    ]
    registry = Registry(tuple(rows))
    with pytest.raises(UnsupportedOptionError, match="Weights in fp8 take no LoRAs"):
        await decide(settings, asked("striped"), registry=registry)
    off = asked({"name": "striped", "weight": 0})
    assert (await decide(settings, off, registry=registry)).plan.precision == "fp8"


async def test_a_lora_of_a_narrower_first_layer_is_used_and_told(settings: Settings) -> None:
    write(settings.paths.loras / "first.safetensors", pair("transformer.x_embedder", 32, 128))
    found = open_loras(settings, REGISTRY).find("first")
    folder = settings.weights_dir / str(REGISTRY.find("fill", "micro").folder)
    fill, text2img = (REGISTRY.find(kind, "micro") for kind in ("fill", "text2img"))
    (notice,) = require_fit(found, fill, architecture_of(fill, folder))
    assert "first layer of 32 inputs, that of micro has 288 more" in notice
    folder = settings.weights_dir / str(text2img.folder)
    assert require_fit(found, text2img, architecture_of(text2img, folder)) == ()


@pytest.mark.parametrize(
    ("base", "about", "is_told"),
    [
        ("chroma/lora", "", True),
        ("chroma/lora", 'family = "flux1"', False),
        ("flux-1-dev/lora", "", False),
        ("flux", "", False),
    ],
)
async def test_a_lora_that_says_it_is_for_another_model_is_told(
    settings: Settings, base: str, about: str, *, is_told: bool
) -> None:
    """Chroma has the layers of FLUX.1, and other numbers in them."""
    install(settings, "text2img", "flux1-dev")
    path = settings.paths.loras / "ink.safetensors"
    write(path, flux1(), **{"modelspec.architecture": base})
    path.with_suffix(".toml").write_text(about)
    notices = (await decide(settings, asked("ink"))).notices
    assert any("says it was made for 'chroma/lora'" in notice for notice in notices) == is_told
