"""What makes images larger here, and what is said and refused before anything is queued."""

from pathlib import Path
from typing import Any

import pytest

from flux_mcp.errors import (
    ExtraMissingError,
    InvalidRequestError,
    InvalidSizeError,
    RequestError,
    UnknownModelError,
    WeightsInvalidError,
    WeightsMissingError,
)
from flux_mcp.models import upscalers
from flux_mcp.models.registry import load_registry
from flux_mcp.models.upscalers import find_upscaler
from flux_mcp.requests.render_plan import PlanUpscale, RenderPlan
from flux_mcp.requests.schemas import FillRequest, GenerateRequest, JobRequest
from flux_mcp.requests.upscaling import UpscaleRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.planner import Decision, StoredFacts
from flux_mcp.settings.settings import Settings
from tests.models.hub import COMMIT

from .test_planner import data_uri, found, planner_for
from .test_refining import draft

pytestmark = pytest.mark.anyio

REGISTRY = load_registry()
REAL = REGISTRY.helpers["swin2sr-x2"]
FILL = {"prompt": "a star", "mask": {"box": [0, 0, 32, 32]}}


@pytest.fixture
def settings(tmp_path: Path, weights_dir: Path) -> Settings:
    (tmp_path / "upscalers").mkdir()
    return Settings(data_dir=tmp_path, weights_dir=weights_dir)


def install(settings: Settings) -> None:
    """Put the real upscaler where a pull puts it."""
    cached = settings.paths.hub / f"models--{(REAL.repository or '').replace('/', '--')}"
    snapshot = cached / "snapshots" / COMMIT
    for folder in (snapshot, cached / "refs"):
        folder.mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(b"{}")


def own(settings: Settings, name: str) -> None:
    (settings.paths.upscalers / name).write_bytes(name.encode())


async def decide(settings: Settings, request: JobRequest) -> Decision:
    return await planner_for(settings).decide(request)


def asking(image: str = "", **more: Any) -> UpscaleRequest:
    return parse_request(UpscaleRequest, {"image": image or data_uri(96, 64), **more})


def with_upscaler(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"upscaler": name})


# --- which -------------------------------------------------------------------------------------


async def test_micros_own_is_for_its_drawings_and_the_real_one_for_all(settings: Settings) -> None:
    drawing = GenerateRequest(prompt="a star", upscale=2, model="micro")
    decision = await decide(settings, drawing)
    assert decision.plan.upscale is not None
    assert decision.plan.upscale.upscaler == "micro-upscaling"
    assert any("is a demo" in notice for notice in decision.notices)
    with pytest.raises(WeightsMissingError) as refused:
        await decide(settings, asking())
    assert "models pull swin2sr-x2" in refused.value.hint
    install(settings)
    for request in (drawing, asking()):
        plan = (await decide(settings, request)).plan
        assert plan.upscale is not None
        assert (plan.upscale.upscaler, plan.upscale.revision) == ("swin2sr-x2", COMMIT)


async def test_an_image_of_micro_is_upscaled_by_micros_own(settings: Settings) -> None:
    from flux_mcp.gallery.files import ImageFiles

    async def read_stored(references: Any, _request: Any) -> StoredFacts:
        images = found(references)
        return StoredFacts(
            images={
                reference: type(one)(
                    one.image_id, one.file, draft(id=one.image_id, model="micro", prompt="a star")
                )
                for reference, one in images.items()
            }
        )

    path = ImageFiles(settings.paths).path_of("images/img_a.png")
    path.parent.mkdir(parents=True)
    import base64

    path.write_bytes(base64.b64decode(data_uri(96, 64).partition(",")[2]))
    planner = planner_for(settings, read_stored=read_stored)
    plan = (await planner.decide(asking("img_a", upscale=4))).plan
    assert plan.parents == ("img_a",)
    assert (plan.kind, plan.model, plan.prompt, plan.seeds) == (
        "upscale",
        "micro-upscaling",
        "a star",
        (10,),
    )
    assert (plan.width, plan.height, plan.total_steps, plan.images) == (384, 256, 2, 1)


async def test_the_setting_names_a_model_a_file_or_lanczos(settings: Settings) -> None:
    own(settings, "4x-sharp.safetensors")
    for name in ("micro-upscaling", "4x-sharp", "lanczos"):
        plan = (await decide(with_upscaler(settings, name), asking())).plan
        assert plan.upscale is not None
        assert (plan.model, plan.upscale.upscaler) == (name, name)
        assert (plan.upscale.sha256 is None) == (name == "lanczos")


async def test_what_cannot_be_used_is_refused_with_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own.pth", "old.ckpt", "swin2sr-x2.safetensors", "good.safetensors"):
        own(settings, name)

    def refused(name: str, error: type[Exception]) -> str:
        with pytest.raises(error) as caught:
            find_upscaler(REGISTRY, settings, name, for_demonstration=True)
        return str(caught.value)

    for name in ("own", "own.pth", "old"):
        assert "a pickle, which may contain code" in refused(name, WeightsInvalidError)
    unknown = refused("nothing", UnknownModelError)
    assert "micro-upscaling, swin2sr-x2" in unknown.replace(
        "swin2sr-x2, micro-upscaling", "micro-upscaling, swin2sr-x2"
    )
    assert "good" in unknown
    assert "lanczos" in unknown
    for name in ("../good", "/etc/passwd", "good.safetensors", ""):
        refused(name, UnknownModelError)
    assert "and of a file" in refused("swin2sr-x2", InvalidRequestError)
    (settings.paths.upscalers / "swin2sr-x2.safetensors").unlink()
    assert "models pull swin2sr-x2" in refused("swin2sr-x2", WeightsMissingError)
    monkeypatch.setattr(upscalers, "find_spec", lambda _: None)
    assert "--no-deps" in refused("good", ExtraMissingError)


# --- what is said ------------------------------------------------------------------------------


async def test_what_is_done_is_said(settings: Settings) -> None:
    own(settings, "sharp.safetensors")

    async def told(name: str, factor: int) -> str:
        decision = await decide(with_upscaler(settings, name), asking(upscale=factor))
        return " ".join(decision.notices)

    assert "of 96x64 is upscaled 2 times to 192x128 by micro" in await told("micro-upscaling", 2)
    assert "In two passes" in await told("micro-upscaling", 4)
    assert "In two passes" not in await told("micro-upscaling", 2)
    assert "only interpolates" in await told("lanczos", 4)
    assert "made by halving" in await told("sharp", 2)
    drawn = await decide(settings, GenerateRequest(prompt="a star", upscale=4, model="micro"))
    assert any("is kept as drawn" in notice for notice in drawn.notices)
    assert any("without upscaling" in notice for notice in drawn.notices)


async def test_what_becomes_too_large_is_refused_before_it_begins(settings: Settings) -> None:
    limited = with_upscaler(settings, "lanczos").model_copy(update={"max_image_pixels": 65_536})
    assert (await decide(limited, asking(upscale=2))).plan.width == 192
    with pytest.raises(InvalidSizeError, match="384x256") as refused:
        await decide(limited, asking(upscale=4))
    assert refused.value.hint == "Ask for upscale 2."
    # Of a region that is drawn, the whole image counts.
    filling = parse_request(
        FillRequest, {**FILL, "image": data_uri(256, 256), "model": "micro", "upscale": 2}
    )
    with pytest.raises(InvalidSizeError, match="256x256 becomes 512x512"):
        await decide(limited, filling)


@pytest.mark.parametrize(
    ("given", "factor"), [(2, 2), ("4", 4), ("x2", 2), ("4x", 4), (2.0, 2), (0, None), ("", None)]
)
def test_a_factor_is_read_as_it_is_meant(given: Any, factor: int | None) -> None:
    request = parse_request(GenerateRequest, {"prompt": "a", "upscale": given})
    assert request.upscale == factor


@pytest.mark.parametrize("given", [1, 3, 8, "big", True, [2]])
def test_another_factor_is_refused(given: Any) -> None:
    with pytest.raises(RequestError, match="upscale"):
        parse_request(GenerateRequest, {"prompt": "a", "upscale": given})


# --- plans -------------------------------------------------------------------------------------


async def test_a_plan_of_parts_that_do_not_fit_is_none(settings: Settings) -> None:
    plan = (await decide(with_upscaler(settings, "lanczos"), asking())).plan
    assert RenderPlan.model_validate_json(plan.model_dump_json()) == plan
    for changes in ({"upscale": None}, {"width": 100}, {"seeds": (1, 2)}, {"inputs": ()}):
        with pytest.raises(ValueError, match=r"upscale|size"):
            RenderPlan(**{**dict(plan), **changes})
    how = dict(plan.upscale or {})
    for wrong in ({"upscaler": "x"}, {"sha256": "0" * 64}, {"factor": 3}, {"overlap_px": 256}):
        with pytest.raises(ValueError, match="PlanUpscale"):
            PlanUpscale(**{**how, **wrong})
