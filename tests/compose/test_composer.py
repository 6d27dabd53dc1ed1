"""Composing: choices, defaults, random choices, refusals, and the report for the gallery."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.compose.choices import Choice
from flux_mcp.compose.composer import (
    Composition,
    advise,
    compose,
    draft,
    require_allowed,
)
from flux_mcp.compose.library import PackLibrary
from flux_mcp.errors import (
    InvalidRequestError,
    PromptRefusedError,
    PromptTooLongError,
    UnknownPackError,
)

from .packs_on_disk import MANIFEST, write_pack

FORBIDDEN = [{"pattern": "dragon", "reason": "No dragons here.", "instead": "a small lizard"}]
HEADLINE = {"description": "Words.", "default": "HELLO", "free_text": True}


@pytest.fixture
def library(tmp_path: Path) -> PackLibrary:
    variables = {**MANIFEST["variables"], "headline": HEADLINE}
    write_pack(
        tmp_path / "pets",
        {
            "subjects/sign.txt": 'a sign that reads "{headline}"',
            "subjects/chick.txt": "a chick",
        },
        subject={"default": "cat", "weights": {"chick": 2}},
        variables=variables,
        forbidden=FORBIDDEN,
        quality="high",
        aspect_ratio="4:5",
        loras=[{"name": "ink", "weight": 0.8}],
    )
    return PackLibrary(tmp_path)


def prompt(library: PackLibrary, seed: int = 0, index: int = 0, **choice: Any) -> str:
    return compose(library, Choice("pets", **choice), seed, index).prompt


def test_defaults_make_a_prompt(library: PackLibrary) -> None:
    composition = compose(library, Choice("pets"), 0)
    assert composition.prompt == (
        "A photograph in red tones. a tabby cat on a chair. The light is soft."
    )
    assert composition.defaults.quality == "high"
    assert composition.defaults.aspect_ratio == "4:5"
    assert [(lora.name, lora.weight) for lora in composition.defaults.loras] == [("ink", 0.8)]
    assert composition.audit.verdict != "refuse"
    assert composition.notices == ()


def test_choices_are_taken_by_name_and_extra_comes_last(library: PackLibrary) -> None:
    assert prompt(
        library, subject="dog", variables={"light": "hard", "colour": "blue"}, extra="in the rain"
    ) == ("A photograph in blue tones. a brown dog on a rug. The light is hard. in the rain")


def test_a_subject_may_be_own_words_with_placeholders(library: PackLibrary) -> None:
    assert prompt(library, subject="an owl with {colour} eyes") == (
        "A photograph in red tones. an owl with red eyes. The light is soft."
    )


def test_own_words_may_have_a_bar_in_them(library: PackLibrary) -> None:
    assert '"NEWS | NOW"' in prompt(library, subject="sign", variables={"headline": "NEWS | NOW"})


def test_what_the_pack_does_not_have_is_refused_with_the_nearest(library: PackLibrary) -> None:
    table: list[tuple[dict[str, Any], str, str]] = [
        ({"variables": {"ligth": "soft"}}, "has no variable 'ligth'", "Did you mean 'light'?"),
        ({"variables": {"light": "sfot"}}, "'sfot' is no choice of light", "Did you mean 'soft'?"),
        ({"variables": {"light": "soft|sfot"}}, "'sfot' in 'soft|sfot'", "Did you mean 'soft'?"),
        (
            {"variables": {"headline": "*"}},
            "'*' picks one of the choices, and headline has none",
            "as text",
        ),
        ({"extra": "in {ligth}"}, "in place of {ligth}", "Did you mean {light}?"),
    ]
    for choice, message, hint in table:
        with pytest.raises(InvalidRequestError) as caught:
            prompt(library, **choice)
        assert message in caught.value.message
        assert hint in caught.value.hint


def test_an_argument_without_a_default_must_be_given(tmp_path: Path) -> None:
    variables = {"light": {"description": "The light.", "default": "soft"}}
    files: dict[str, str | bytes | None] = {"fixed_block.txt": "A photograph."}
    write_pack(tmp_path / "pets", files, subject={"description": "Who?"}, variables=variables)
    library = PackLibrary(tmp_path)
    with pytest.raises(InvalidRequestError) as caught:
        prompt(library)
    assert str(caught.value) == (
        "[invalid_request] The pack 'pets' needs a subject: Who? cat, dog or own words."
    )


def test_an_unknown_pack_is_refused(library: PackLibrary) -> None:
    with pytest.raises(UnknownPackError):
        compose(library, Choice("pats"), 0)


def test_a_near_miss_taken_as_own_words_is_said(library: PackLibrary) -> None:
    composition = compose(library, Choice("pets", subject="chik"), 0)
    assert composition.prompt.startswith("A photograph in red tones. chik.")
    assert composition.notices == ("subject 'chik' is taken as own words; 'chick' is a choice.",)


def test_a_choice_that_has_no_place_is_said(library: PackLibrary) -> None:
    composition = compose(library, Choice("pets", variables={"headline": "NEWS"}), 0)
    assert composition.notices == (
        "headline 'NEWS' has no place in this prompt: none of its texts has {headline}.",
    )
    assert compose(library, Choice("pets"), 0).notices == ()


def test_the_same_seed_gives_the_same_prompt_and_a_batch_varies(library: PackLibrary) -> None:
    choice = {"subject": "*", "variables": {"light": "*", "colour": "red:1|blue:3"}}
    drawn = [prompt(library, 7, index, **choice) for index in range(12)]
    assert drawn == [prompt(library, 7, index, **choice) for index in range(12)]
    assert len(set(drawn)) > 4
    counts = Counter(prompt(library, seed, subject="*") for seed in range(300))
    assert counts["A photograph in red tones. a chick. The light is soft."] == pytest.approx(
        120, abs=36
    )


def test_an_image_of_a_batch_drawn_again_alone_with_its_own_seed_gets_its_prompt(
    library: PackLibrary,
) -> None:
    choice = {"subject": "*", "variables": {"light": "*"}}
    for index in range(8):
        assert prompt(library, 100, index, **choice) == prompt(library, 100 + index, **choice)


def test_a_new_variable_does_not_change_what_others_draw(
    library: PackLibrary, tmp_path: Path
) -> None:
    choice = Choice("pets", subject="*", variables={"light": "*"})
    before = [compose(library, choice, seed).chosen for seed in range(20)]
    variables = {
        "mood": {"description": "M.", "default": "*", "choices": {"calm": "Calm.", "wild": "Wild."}}
    }
    write_pack(
        tmp_path / "pets",
        subject={"default": "cat", "weights": {"chick": 2}},
        variables={**variables, **MANIFEST["variables"], "headline": HEADLINE},
    )
    after = [compose(library, choice, seed).chosen for seed in range(20)]
    for old, new in zip(before, after, strict=True):
        values = {one.name: one.value for one in new}
        assert {one.name: one.value for one in old}.items() <= values.items()
        assert values["mood"] in ("calm", "wild")


def test_what_was_drawn_can_be_asked_for_by_name(library: PackLibrary) -> None:
    drawn = compose(library, Choice("pets", subject="*", variables={"light": "*"}), 5)
    values = {one.name: one.value for one in drawn.chosen}
    again = Choice("pets", values.pop("subject"), values)
    assert compose(library, again, 99).prompt == drawn.prompt
    assert drawn.report()["drawn"] == ["subject", "light"]


def test_the_report_says_where_each_part_came_from(library: PackLibrary) -> None:
    choice = Choice("pets", subject="sign", variables={"headline": "OPEN"}, extra="rain")
    composition = compose(library, choice, 3)
    report = json.loads(json.dumps(composition.report()))
    assert report["pack"] == "pets"
    assert report["version"] == "1.0.0"
    assert len(report["digest"]) == 64
    assert report["chosen"] == {
        "subject": "sign",
        "light": "soft",
        "colour": "red",
        "headline": "OPEN",
    }
    assert [(block["name"], block["source"]) for block in report["blocks"]] == [
        ("fixed", "fixed_block.txt"),
        ("subject", "subjects/sign.txt"),
        ("variable:light", "variable_light.txt (soft)"),
        ("extra", "argument extra"),
    ]
    assert report["blocks"][0]["filled"] == [
        {"placeholder": "colour", "source": "pack.json (colour: red)", "text": "red"}
    ]
    assert report["blocks"][1]["filled"] == [
        {"placeholder": "headline", "source": "argument headline", "text": "OPEN"}
    ]
    for block in report["blocks"]:
        assert composition.prompt[block["start"] : block["end"]] == block["text"]


def test_a_prompt_over_the_limit_is_refused(library: PackLibrary) -> None:
    with pytest.raises(PromptTooLongError, match="subject 22") as caught:
        prompt(library, extra="word " * 400)
    assert caught.value.hint == "Shorten extra (argument extra)."


def refused(library: PackLibrary) -> Composition:
    return draft(library, Choice("pets", extra="and a dragon"), 0)


def test_what_the_pack_forbids_is_refused_with_the_finding(library: PackLibrary) -> None:
    with pytest.raises(PromptRefusedError) as caught:
        prompt(library, extra="and a dragon")
    assert caught.value.code == "prompt_refused"
    assert "The pack 'pets' refuses 'dragon' in extra" in caught.value.message
    assert "a small lizard" in caught.value.hint
    assert caught.value.findings == refused(library).audit.findings


def test_a_draft_shows_the_prompt_with_the_audit_that_refuses_it(library: PackLibrary) -> None:
    composition = refused(library)
    assert composition.prompt.endswith("and a dragon")
    assert composition.audit.verdict == "refuse"
    finding = composition.audit.findings[0]
    assert composition.prompt[finding.start : finding.end] == finding.text == "dragon"
    with pytest.raises(PromptRefusedError):
        require_allowed(composition)


def test_what_to_write_instead_is_a_sentence_whoever_proposes_it(library: PackLibrary) -> None:
    assert advise("a small lizard") == "Say instead: a small lizard."
    assert advise("a small lizard.") == "Say instead: a small lizard."
    assert advise("") == ""
    for extra in ("a street with no people", "with no cat, and no zorblax"):
        findings = draft(library, Choice("pets", extra=extra), 0).audit.findings
        assert findings
        for finding in findings:
            assert advise(finding.rewording) == finding.rewording
