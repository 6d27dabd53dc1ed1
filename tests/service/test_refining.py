"""What drafts make of a request that draws them again."""

from typing import Any

import pytest

from flux_mcp.errors import InvalidRequestError
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.refining import REFINABLE, STRENGTHS, refine

REGISTRY = load_registry()
INK = {"name": "ink", "sha256": "a" * 64, "weight": 0.7}


def draft(number: int = 1, **changes: Any) -> ImageRecord:
    facts: dict[str, Any] = {
        "id": f"img_{number}",
        "job_id": "job",
        "index": 0,
        "kind": "text2img",
        "prompt": f"words {number}",
        "model": "flux2-klein-4b",
        "weights_sha256": "0" * 64,
        "precision": "bf16",
        "seed": 10 * number,
        "plan": {"quality": "low"},
        "width": 1024,
        "height": 768,
        "licence": "apache-2.0",
        "environment": {},
        "seconds": 1.0,
        "created_at": "2026-12-01T00:00:00.000000+00:00",
        "file": "images/a.png",
        "thumbnail": "images/a.webp",
        "sha256": "0" * 64,
        "pixels_sha256": "0" * 64,
        "size_bytes": 1,
    }
    return ImageRecord(**{**facts, **changes})


def asking(**arguments: Any) -> GenerateRequest:
    return parse_request(GenerateRequest, {"refine_from": ["img_1", "img_2"], **arguments})


def test_drafts_say_all_that_the_request_leaves_open() -> None:
    packed = {"composed": {"pack": "shapes"}, "negative_prompt": "a dog", "loras": [INK]}
    drafts = [draft(1, **packed), draft(2, **packed)]
    found = refine(asking(), drafts)
    made = found.request
    assert (found.texts, found.seeds) == (("words 1", "words 2"), (10, 20))
    assert found.composed == ({"pack": "shapes"},) * 2
    assert (made.width, made.height, made.count, made.quality) == (1024, 768, 2, "standard")
    assert (made.negative_prompt, made.refine_strength) == ("a dog", STRENGTHS[1])
    assert [(lora.name, lora.weight) for lora in made.loras or ()] == [("ink", 0.7)]
    (notice,) = found.notices
    assert "quality 'standard' at the same size" in notice
    assert "but for" not in notice
    assert made.drawn_kind == "img2img"


def test_what_the_request_says_goes_before_the_drafts_and_is_told() -> None:
    own = {"prompt": "other words", "seed": 5, "loras": [{"name": "wash"}], "quality": "low"}
    packed = {"composed": {"pack": "shapes"}, "loras": [INK]}
    found = refine(asking(**own, refine_scale=2), [draft(1, **packed), draft(2, **packed)])
    made = found.request
    assert (found.texts, found.seeds, found.composed) == (("other words",) * 2, (5, 6), ())
    assert (made.width, made.height, made.quality) == (2048, 1536, "low")
    assert [lora.name for lora in made.loras or ()] == ["wash"]
    assert made.refine_strength == STRENGTHS[2]
    assert found.lora_files == {}
    assert "2 times the width and height" in found.notices[0]
    assert "but for prompt and loras and seed" in found.notices[0]
    assert refine(asking(refine_strength=0.9), [draft(), draft(2)]).request.refine_strength == 0.9
    sized = refine(asking(width=512, height=384), [draft(), draft(2)])
    assert (sized.request.width, sized.request.height) == (512, 384)
    assert "at another size" in sized.notices[0]


@pytest.mark.parametrize(("before", "after"), [("low", "standard"), ("high", "high"), (None, "s")])
def test_a_draft_is_drawn_in_the_quality_above_its_own(before: str | None, after: str) -> None:
    made = refine(asking(), [draft(plan={"quality": before})] * 2).request
    assert made.quality.startswith(after)


def test_a_negative_prompt_of_a_draft_is_left_out_where_the_model_takes_none() -> None:
    klein, dev = (REGISTRY.find("img2img", name) for name in ("flux2-klein-4b", "flux1-dev"))
    drafts = [draft(1, negative_prompt="a dog"), draft(2, negative_prompt="a dog")]
    of_draft, own = refine(asking(), drafts), refine(asking(negative_prompt="a cat"), drafts)
    request, (notice,) = of_draft.for_model(klein)
    assert request.negative_prompt is None
    assert "left out: flux2-klein-4b" in notice
    assert of_draft.for_model(dev) == (of_draft.request, ())
    assert own.for_model(klein)[0].negative_prompt == "a cat", "refused later, not dropped"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"width": 512}, "differ in size"),
        ({"negative_prompt": "a dog"}, "differ in negative prompt"),
        ({"loras": [INK]}, "differ in LoRAs"),
        ({"composed": {"pack": "shapes"}}, "differ in pack"),
        *(({"kind": kind}, "flux_variation") for kind in ("kontext", "fill", "control", "redux")),
    ],
)
def test_drafts_that_cannot_be_drawn_together_are_refused(other: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        refine(asking(), [draft(1), draft(2, **other)])
    assert other.get("kind") not in REFINABLE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"count": 2}, "one image for each draft"),
        ({"aspect_ratio": "1:1"}, "keep their shape"),
        ({"pack": "shapes"}, "their own packs"),
        ({"width": 64, "height": 64, "refine_scale": 2}, "not both"),
        ({"refine_from": [], "prompt": "a", "refine_scale": 2}, "refine_from names none"),
        ({"refine_from": [], "prompt": "a", "refine_strength": 0.5}, "refine_from names none"),
        ({"refine_from": []}, "neither prompt nor pack"),
        ({"refine_scale": 3}, "refine_scale"),
        ({"refine_from": ["img_a"] * 9}, "refine_from"),
    ],
)
def test_what_does_not_go_with_drafts_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        asking(**arguments)
