"""What the words of a request come to: its own, or those a pack composes, image by image."""

import json
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.compose.audit import audit
from flux_mcp.compose.library import PackLibrary
from flux_mcp.compose.packs import Pack
from flux_mcp.errors import (
    InvalidRequestError,
    PromptRefusedError,
    PromptTooLongError,
)
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    FillRequest,
    GenerateRequest,
    VariationRequest,
)
from flux_mcp.service.prompts import MAX_WARNINGS, Wording, compose_request, judge_plain, plain
from tests.compose.packs_on_disk import MANIFEST, write_pack

DEFAULT = "A photograph in red tones. a tabby cat on a chair. The light is soft."
DRAGON = {"pattern": "dragon", "reason": "No dragons here.", "instead": "a small lizard"}


def pack(tmp_path: Path, **changes: Any) -> Pack:
    folder = write_pack(tmp_path / "pets", **changes)
    return PackLibrary(folder.parent, judge=audit).find("pets")


def request(variables: dict[str, str] | None = None, **arguments: Any) -> GenerateRequest:
    choice = {"name": "pets", "variables": variables or {}}
    for name in ("subject", "extra"):
        if name in arguments:
            choice[name] = arguments.pop(name)
    return GenerateRequest.model_validate({"pack": choice, **arguments})


def worded(pack: Pack, asked: DrawRequest, seed: int = 0, *, refuse: bool = True) -> Wording:
    return compose_request(asked, pack, seed, refuse=refuse)


# --- plain words -------------------------------------------------------------------------------


def test_plain_words_are_taken_as_they_are_for_every_image() -> None:
    asked = GenerateRequest(prompt="a {cat},  twice ,", count=3)
    assert plain(asked) == Wording(asked, ("a {cat},  twice ,",) * 3)
    assert plain(asked).reports() == ()


def test_the_parts_of_a_prompt_are_told_apart(tmp_path: Path) -> None:
    assert plain(GenerateRequest(prompt="a cat", count=3)).parts() == ("a cat",)
    composed = worded(pack(tmp_path), request(extra="mit einer Katze auf dem Dach"))
    assert "mit einer Katze auf dem Dach" in composed.parts()
    assert composed.notices == (), "a pack that forbids nothing needs no audit"


def test_words_that_the_audit_cannot_read_are_told(tmp_path: Path) -> None:
    forbidding = pack(tmp_path, forbidden=[DRAGON])
    (notice,) = worded(forbidding, request(extra="mit einer Katze auf dem Dach")).notices
    assert notice.startswith("The audit reads English. This seems to be German")
    assert worded(forbidding, request(extra="with a cat called Äpfelchen")).notices == ()


def test_a_variation_without_words_has_an_empty_prompt() -> None:
    assert plain(VariationRequest.model_validate({"images": ["img_a"]})).texts == ("",)


def test_plain_words_are_judged_by_no_pattern_but_told_of_negations() -> None:
    judged = judge_plain("a street without people and a dragon")
    assert judged.prompt == "a street without people and a dragon"
    assert judged.audit.verdict == "pass"
    assert [finding.code for finding in judged.audit.findings] == ["negated_wording"]


# --- defaults ----------------------------------------------------------------------------------


def test_what_the_pack_wants_fills_what_the_caller_left_open(tmp_path: Path) -> None:
    found = pack(tmp_path, model="flux1-dev", quality="high", aspect_ratio="4:5")
    filled = worded(found, request()).request
    assert (filled.model, filled.quality, filled.aspect_ratio) == ("flux1-dev", "high", "4:5")
    assert (filled.width, filled.height) == (None, None)


def test_what_the_caller_says_goes_before_the_pack(tmp_path: Path) -> None:
    found = pack(tmp_path, model="flux1-dev", quality="high", aspect_ratio="4:5")
    said = request(model="micro", quality="standard", aspect_ratio="1:1")
    assert worded(found, said).request == said


def test_a_size_in_pixels_goes_before_the_packs_shape_and_the_other_way_round(
    tmp_path: Path,
) -> None:
    shaped = pack(tmp_path / "shaped", aspect_ratio="4:5")
    sized = worded(shaped, request(width=64, height=128)).request
    assert (sized.width, sized.height, sized.aspect_ratio) == (64, 128, None)
    measured = pack(tmp_path / "measured", width=96, height=64)
    filled = worded(measured, request()).request
    assert (filled.width, filled.height, filled.aspect_ratio) == (96, 64, None)
    wide = worded(measured, request(aspect_ratio="16:9")).request
    assert (wide.width, wide.height, wide.aspect_ratio) == (None, None, "16:9")


def test_another_tool_gets_the_words_but_not_the_defaults_and_is_told(tmp_path: Path) -> None:
    found = pack(tmp_path, model="flux1-dev", quality="high", aspect_ratio="4:5")
    asked = EditRequest.model_validate({"pack": "pets", "images": ["img_a"]})
    wording = worded(found, asked)
    assert wording.request == asked
    assert wording.texts == (DEFAULT,)
    assert "The pack 'pets' is made for flux_generate." in wording.notices


def test_the_packs_own_kind_is_told_nothing(tmp_path: Path) -> None:
    found = pack(tmp_path, kind="kontext", quality="low")
    asked = EditRequest.model_validate({"pack": "pets", "images": ["img_a"]})
    wording = worded(found, asked)
    assert (wording.request.quality, wording.notices) == ("low", ())


def test_the_packs_size_is_not_for_an_image_with_a_mask_and_that_is_told(tmp_path: Path) -> None:
    found = pack(tmp_path, kind="fill", aspect_ratio="4:5")
    box = {"x": 0, "y": 0, "width": 8, "height": 8}
    asked = FillRequest.model_validate({"pack": "pets", "image": "img_a", "mask": {"box": box}})
    wording = worded(found, asked)
    assert wording.request == asked
    assert wording.notices == ("The size of the pack 'pets' is not used: the image keeps its own.",)


def test_what_was_asked_is_not_changed(tmp_path: Path) -> None:
    asked = request()
    before = asked.model_dump_json()
    worded(pack(tmp_path, quality="high"), asked)
    assert asked.model_dump_json() == before


# --- LoRAs of a pack ---------------------------------------------------------------------------

LORAS = [{"name": "ink"}, {"name": "grain", "weight": 0.5}]


def test_a_packs_loras_count_where_the_caller_names_none(tmp_path: Path) -> None:
    loras = worded(pack(tmp_path, loras=LORAS), request()).request.loras
    assert loras is not None
    assert [(one.name, one.weight) for one in loras] == [("ink", 1.0), ("grain", 0.5)]


@pytest.mark.parametrize("own", [[], [{"name": "wash", "weight": 0.2}]], ids=["none", "another"])
def test_the_callers_loras_count_instead_of_the_packs(tmp_path: Path, own: list[Any]) -> None:
    loras = worded(pack(tmp_path, loras=LORAS), request(loras=own)).request.loras
    assert [one.model_dump() for one in loras or ()] == own


# --- several images --------------------------------------------------------------------------


def test_a_star_varies_from_image_to_image(tmp_path: Path) -> None:
    wording = worded(pack(tmp_path), request({"light": "*", "colour": "*"}, subject="*", count=8))
    assert len(wording.texts) == 8
    assert 2 < len(set(wording.texts)) <= 8
    chosen = [report["chosen"] for report in wording.reports()]
    assert {one["subject"] for one in chosen} == {"cat", "dog"}
    assert {one["light"] for one in chosen} == {"soft", "hard"}
    assert all(report["drawn"] == ["subject", "light", "colour"] for report in wording.reports())


def test_image_n_alone_with_its_own_seed_has_the_same_words(tmp_path: Path) -> None:
    found = pack(tmp_path)
    variables = {"light": "soft:2|hard", "colour": "*"}
    together = worded(found, request(variables, subject="*", count=8), 1000)
    for index in range(8):
        alone = worded(found, request(variables, subject="*"), 1000 + index)
        assert alone.texts == together.texts[index : index + 1]
        assert alone.reports() == together.reports()[index : index + 1]


def test_the_same_seed_gives_the_same_words_and_another_seed_others(tmp_path: Path) -> None:
    found = pack(tmp_path)
    asked = request({"light": "*", "colour": "*"}, subject="*", count=6)
    assert worded(found, asked, 5).texts == worded(found, asked, 5).texts
    assert worded(found, asked, 5).texts != worded(found, asked, 500).texts


def test_each_report_fits_its_prompt_and_is_json(tmp_path: Path) -> None:
    wording = worded(pack(tmp_path), request({"light": "*"}, count=4, extra="in the {light} rain"))
    for text, report in zip(wording.texts, wording.reports(), strict=True):
        assert json.loads(json.dumps(report)) == report
        assert [text[one["start"] : one["end"]] for one in report["blocks"]] == [
            one["text"] for one in report["blocks"]
        ]


# --- the audit ---------------------------------------------------------------------------------


def test_a_refused_prompt_is_an_error_with_the_words_and_a_positive_wording(
    tmp_path: Path,
) -> None:
    with pytest.raises(PromptRefusedError) as refused:
        worded(pack(tmp_path, forbidden=[DRAGON]), request(extra="and a dragon"))
    assert "'dragon' in extra" in refused.value.message
    assert "No dragons here" in refused.value.message
    assert "a small lizard" in refused.value.hint


def test_a_dry_run_returns_the_refused_prompt_and_says_so(tmp_path: Path) -> None:
    found = pack(tmp_path, forbidden=[DRAGON])
    wording = worded(found, request(extra="and a dragon"), refuse=False)
    assert wording.texts[0].endswith("and a dragon")
    assert wording.compositions[0].audit.verdict == "refuse"
    assert wording.reports()[0]["verdict"] == "refuse"
    assert any("nothing would be queued" in notice for notice in wording.notices)


def test_one_refused_image_of_several_refuses_all(tmp_path: Path) -> None:
    """Which seeds draw the forbidden choice is not the caller's to know."""
    choices = {"none": "-", "dragon": "with a dragon"}
    beast = {"description": "A beast.", "default": "none", "choices": choices}
    # Without a judge: a library refuses a pack whose own choices are forbidden.
    folder = write_pack(
        tmp_path / "pets", variables={**MANIFEST["variables"], "beast": beast}, forbidden=[DRAGON]
    )
    found = PackLibrary(folder.parent).find("pets")
    seeds = range(40)
    asked = request({"beast": "*"})
    draws = [worded(found, asked, seed, refuse=False).texts[0] for seed in seeds]
    clean = next(n for n in seeds if "dragon" not in draws[n] and "dragon" in draws[n + 1])
    assert worded(found, asked, clean).texts == (draws[clean],)
    with pytest.raises(PromptRefusedError, match="dragon"):
        worded(found, request({"beast": "*"}, count=2), clean)


def test_a_warning_draws_and_is_told_once_for_all_images(tmp_path: Path) -> None:
    found = pack(tmp_path, forbidden=[{**DRAGON, "severity": "warn"}])
    wording = worded(found, request(extra="and a dragon", count=4))
    (notice,) = wording.notices
    assert notice == "'dragon' in extra: 'dragon' is forbidden: No dragons here."


def test_many_warnings_are_counted_not_listed(tmp_path: Path) -> None:
    beasts = [f"beast{number}" for number in range(MAX_WARNINGS + 3)]
    forbidden = [{"pattern": beast, "severity": "warn"} for beast in beasts]
    wording = worded(pack(tmp_path, forbidden=forbidden), request(extra=", ".join(beasts)))
    assert len(wording.notices) == MAX_WARNINGS + 1
    assert wording.notices[-1] == "The audit has 3 more warnings."


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("refuse", [True, False], ids=["draw", "dry run"])
def test_what_the_pack_does_not_have_and_what_is_too_long_is_an_error_in_a_dry_run_too(
    tmp_path: Path, *, refuse: bool
) -> None:
    found = pack(tmp_path)
    with pytest.raises(InvalidRequestError, match="no variable 'ligth'"):
        worded(found, request({"ligth": "soft"}), refuse=refuse)
    with pytest.raises(PromptTooLongError, match="extra"):
        worded(found, request(extra="rain " * 399), refuse=refuse)


def test_what_a_composition_notes_is_told(tmp_path: Path) -> None:
    wording = worded(pack(tmp_path), request(subject="catt"))
    assert wording.notices == ("subject 'catt' is taken as own words; 'cat' is a choice.",)
