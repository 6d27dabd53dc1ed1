"""What the audit says about whole prompts: verdicts, spans, reasons, rewordings, blocks."""

from typing import get_args

import pytest

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit import (
    Audit,
    Finding,
    Forbidden,
    Severity,
    audit,
    audit_text,
    check_forbidden,
    unrelated,
)
from flux_mcp.compose.audit.mentions import compile_pattern
from flux_mcp.errors import InvalidRequestError

NAMES = ("fixed", "subject", "variable:mood", "extra")


def blocks_of(*texts: str, gap: int = 2) -> list[Block]:
    found: list[Block] = []
    start = 0
    for name, text in zip(NAMES, texts, strict=False):
        found.append(Block(name, text, start, f"{name}.txt"))
        start += len(text) + gap
    return found


def findings(answer: Audit, code: str) -> list[Finding]:
    return [one for one in answer.findings if one.code == code]


def test_a_mention_is_refused_with_its_block_span_and_reason() -> None:
    row = Forbidden("people", reason="the product stands alone.", instead="a bare table")
    answer = audit(blocks_of("A cup on a table.", "Three people behind it."), [row])
    assert answer.verdict == "refuse"
    (finding,) = answer.findings
    assert (finding.code, finding.verdict, finding.pattern) == ("forbidden", "refuse", "people")
    assert (finding.block, finding.text) == ("subject", "people")
    assert (finding.start, finding.end) == (25, 31)
    assert finding.reason == "'people' is forbidden: the product stands alone."
    assert finding.rewording == "a bare table"


def test_a_pattern_may_only_warn() -> None:
    assert audit_text("a cat", [Forbidden("cat", severity="warn")]).verdict == "warn"


def test_a_negated_mention_passes_with_advice() -> None:
    answer = audit_text("A street with no people or text.", [Forbidden("people")])
    assert answer.verdict == "pass"
    (finding,) = answer.findings
    assert (finding.code, finding.verdict) == ("negated_wording", "advice")
    assert finding.text == "no people or text"
    assert finding.pattern == "people, text"
    assert "an empty, deserted scene" in finding.rewording
    assert "clean, unmarked surfaces" in finding.rewording


def test_advice_names_the_whole_wording() -> None:
    for text, wording in (
        ("people are not visible", "people are not visible"),
        ("a people-free street", "people-free"),
        ("please do not show people", "do not show people"),
        ("a textless page", "textless"),
        ("nobody is here", "nobody is here"),
        ("Avoid: people", "Avoid: people"),
        ("text: none", "text: none"),
    ):
        found = findings(audit_text(text, []), "negated_wording")
        assert [one.text for one in found] == [wording]


def test_advice_for_a_thing_of_no_known_idea_asks_what_is_there() -> None:
    (finding,) = audit_text("no bicycles", []).findings
    assert finding.rewording == "Say what is there instead of 'bicycles'."


def test_what_one_block_denies_another_may_not_show() -> None:
    table: list[tuple[tuple[str, str], str, set[str]]] = [
        (("a crowd of people", "no people"), "no people", {"crowd", "people"}),
        (("no people", "a crowd of women"), "no people", {"crowd", "women"}),
        (("a text-free page", "a bold headline"), "text-free", {"headline"}),
        (("no animals", "a sleeping cat"), "no animals", {"cat"}),
        (("without bicycles", "a red bicycle"), "without bicycles", {"bicycle"}),
        (("nobody is here", "two men"), "nobody is here", {"men"}),
        (("people are not visible", "many tourists"), "people are not visible", {"tourists"}),
        (("harsh shadows", "no harsh shadows"), "no harsh shadows", {"shadows"}),
        (("no text", 'a sign reading "OPEN"'), "no text", {"OPEN"}),
        (("textless", "a caption below"), "textless", {"caption"}),
    ]
    for texts, denial, shown in table:
        blocks = blocks_of(*texts)
        found = findings(audit(blocks, []), "contradiction")
        refused = [one for one in found if one.verdict == "refuse"]
        assert {one.text for one in refused} == shown
        prompt = "  ".join(texts)
        for one in refused:
            assert one.other_start is not None
            assert prompt[one.other_start : one.other_end] == denial
            assert {one.block, one.other_block} == {"fixed", "subject"}
        assert audit(blocks, []).verdict == "refuse"
        # The other way round it is the same contradiction.
        assert audit(blocks_of(*reversed(texts)), []).verdict == "refuse"


def test_what_may_be_meant_otherwise_is_a_warning() -> None:
    for texts in (
        ("no people in the background", "a woman reads"),
        ("no people", "a portrait by the window"),
    ):
        assert audit(blocks_of(*texts), []).verdict == "warn", texts


def test_what_is_no_contradiction_passes() -> None:
    for texts in (
        ("no other people", "a woman reads"),
        ("soft shadows", "no harsh shadows"),
        ("no children", "two adults"),
        ("no people except a child", "the child runs"),
        ("the sky is not blue", "a blue boat"),
        ("not only people", "people and dogs"),
        ("a no smoking sign", "a man smoking"),
        ("no text on the label", "a glass bottle"),
    ):
        assert audit(blocks_of(*texts), []).verdict == "pass", texts


def test_a_contradiction_within_one_block_is_a_warning() -> None:
    answer = audit_text("no people, a woman sits on a bench", [])
    assert answer.verdict == "warn"


def test_a_place_within_one_block_is_no_contradiction() -> None:
    assert audit_text("a woman reads, no people in the background", []).verdict == "pass"


def test_blocks_are_apart_unless_one_runs_on_into_the_next() -> None:
    rows = [Forbidden("people")]
    assert audit(blocks_of("a street with no", "people", gap=2), rows).verdict == "refuse"
    assert audit(blocks_of("a street with no", "people", gap=1), rows).verdict == "pass"


def test_a_phrase_over_two_blocks_is_told_in_one_piece() -> None:
    (finding,) = audit(blocks_of("a red", "car", gap=1), [Forbidden("red car")]).findings
    assert (finding.block, finding.text) == ("fixed", "red car")


def test_what_is_allowed_in_a_phrase_is_no_mention() -> None:
    row = Forbidden("people", allowed_in=("people mover", "people's park"))
    assert audit_text("two people movers at the people's park", [row]).verdict == "pass"
    assert audit_text("people in a people mover", [row]).verdict == "refuse"


def test_related_words_count_when_a_pattern_asks_for_them() -> None:
    assert audit_text("a woman", [Forbidden("people")]).verdict == "pass"
    assert audit_text("a woman", [Forbidden("people", related=True)]).verdict == "refuse"
    assert audit_text("no woman", [Forbidden("people", related=True)]).verdict == "pass"
    letters = 'a door marked with the words "COME IN"'
    row = Forbidden("text", related=True)
    assert {one.text for one in findings(audit_text(letters, [row]), "forbidden")} == {
        "words",
        "COME",
    }


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("people", "bystanders and a passer-by", ["bystanders", "passer"]),
        ("people", "passers-by before a shop", ["passers"]),
        ("people", "a couple on a bench, their family, a team", ["couple", "family", "team"]),
        ("people", "two friends in a crowded street", ["friends", "crowded"]),
        ("people", "a busy little market", ["busy"]),
        ("people", "a crowd of birds and a crowd of fans", ["crowd", "fans"]),
        ("people", "a crowd of ten thousand", ["crowd"]),
        ("people", "crowded shelves, a busy pattern", []),
        ("people", "a couple of apples, a family of ducks, a group of trees", []),
        ("people", "the family car, army green, beside a ceiling fan", []),
        ("people", "no crowd, a crowd-free, crowdless square without bystanders", []),
        ("people", "a ghost town, empty of people", []),
        ("people", "an empty square, nobody around, no one on the benches", []),
        ("people", "an empty, not crowded street", []),
        ("child", "a toddler and a schoolgirl", ["toddler", "schoolgirl"]),
        ("children", "a man in baby blue with kid gloves", []),
        ("animal", "a penguin, two hamsters", ["penguin", "hamsters"]),
        ("animals", "a hot dog beside a teddy bear and a computer mouse", []),
        ("weapons", "a spear and a grenade", ["spear", "grenade"]),
        ("weapons", "a bow tie, a butter knife, a water gun", []),
        ("blood", "a bleeding, injured hand", ["bleeding", "injured"]),
        ("nudity", "a topless statue, bare-chested", ["topless", "chested"]),
        ("nudity", "seen by the naked eye", []),
        ("logo", "a swoosh and a monogram", ["swoosh", "monogram"]),
        ("logo", "a brand new car", []),
    ],
)
def test_related_words_are_those_that_mean_it_where_they_stand(
    pattern: str, text: str, found: list[str]
) -> None:
    row = Forbidden(pattern, related=True)
    assert [one.text for one in findings(audit_text(text, [row]), "forbidden")] == found


def test_a_crowd_of_birds_does_not_contradict_an_empty_street() -> None:
    assert audit(blocks_of("no people", "a crowd of birds"), []).verdict == "pass"
    assert audit(blocks_of("no people", "a crowd of strangers"), []).verdict == "refuse"


def test_related_that_has_no_effect_is_told() -> None:
    assert unrelated(Forbidden("people", related=True)) == ""
    assert unrelated(Forbidden("spaceship")) == ""
    assert "'spaceship'" in unrelated(Forbidden("spaceship", related=True))
    assert "stock photo" in unrelated(Forbidden("stock photo", related=True))
    assert "regular expression" in unrelated(Forbidden("people", kind="regex", related=True))


def test_spans_are_those_of_the_text_as_it_was_written() -> None:
    text = "caf\u00e9, pe\u00ado\u200bple\u2019s \uff34\uff25\uff38\uff34"
    found = findings(audit_text(text, [Forbidden("people"), Forbidden("text")]), "forbidden")
    assert [one.text for one in found] == [
        "pe\u00ado\u200bple\u2019s",
        "\uff34\uff25\uff38\uff34",
    ]
    assert all(text[one.start : one.end] == one.text for one in found)


def test_findings_stand_in_the_order_of_the_prompt() -> None:
    rows = [Forbidden("dog"), Forbidden("cat")]
    found = audit_text("a cat, no text, a dog", rows).findings
    assert [one.text for one in found] == ["cat", "no text", "dog"]


def test_the_same_pattern_twice_is_told_once() -> None:
    rows = [Forbidden("cat"), Forbidden("cat")]
    assert len(audit_text("a cat", rows).findings) == 1


def test_a_regular_expression_is_negation_aware() -> None:
    row = Forbidden(r"\bpe(?:ople|rsons?)\b", kind="regex")
    assert audit_text("no people", [row]).verdict == "pass"
    assert audit_text("PEOPLE", [row]).verdict == "refuse"
    assert audit_text("no cars, people walking", [row]).verdict == "refuse"


def test_a_regular_expression_that_has_its_own_negation_means_it() -> None:
    row = Forbidden(r"\bno \w+", kind="regex", severity="warn")
    (finding,) = findings(audit_text("no people", [row]), "forbidden")
    assert finding.text == "no people"


def test_a_regular_expression_may_match_what_is_no_word() -> None:
    (finding,) = audit_text("a price: $ 20", [Forbidden(r"\$\s*\d+", kind="regex")]).findings
    assert finding.text == "$ 20"


def test_a_regular_expression_sees_plain_letters() -> None:
    row = Forbidden("caf\u00e9s?", kind="regex")
    assert audit_text("two cafe\u0301s", [row]).verdict == "refuse"


def test_a_regular_expression_that_takes_too_long_is_never_passed() -> None:
    for severity in get_args(Severity):
        row = Forbidden(r"(?:(?:a|aa)+b?)+$", kind="regex", severity=severity)
        answer = audit_text("a" * 400 + "!", [row])
        assert answer.verdict == severity
        assert [one.code for one in answer.findings] == ["regex_timeout"]
        assert "0.1 s" in answer.findings[0].reason


def test_a_pattern_that_cannot_be_searched_for_is_refused() -> None:
    for row, message in (
        (Forbidden(""), "is empty"),
        (Forbidden("  "), "is empty"),
        (Forbidden("..."), "has no word"),
        (Forbidden("x" * 501), "501 characters"),
        (Forbidden("(people", kind="regex"), "no valid regular expression"),
        (Forbidden("a", allowed_in=("--",)), "has no word"),
    ):
        with pytest.raises(InvalidRequestError, match=message) as refused:
            check_forbidden(row)
        assert refused.value.hint
        with pytest.raises(InvalidRequestError):
            audit_text("a text", [row])


def test_no_regular_expression_no_library_for_them() -> None:
    assert compile_pattern(Forbidden("people")).expression is None


def test_nothing_is_found_in_nothing() -> None:
    assert audit([], [Forbidden("people")]) == Audit("pass", ())
    assert audit_text("", [Forbidden("people")]) == Audit("pass", ())
