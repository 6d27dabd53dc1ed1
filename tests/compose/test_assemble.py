"""Assembly: order, separators, placeholders, the limit, and where each part came from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.compose.assemble import MAX_CHARACTERS, PromptPart, assemble, quotations, separator
from flux_mcp.errors import InvalidRequestError, PromptTooLongError
from flux_mcp.requests.validation import MAX_PROMPT_CHARACTERS

FIXED = PromptPart("fixed", "A photograph.", "fixed_block.txt")
SUBJECT = PromptPart("subject", "A cat.", "subjects/cat.txt", "subject")
LIGHT = PromptPart("variable:light", "The light is soft.", "variable_light.txt (soft)", "light")
EXTRA = PromptPart("extra", "rain outside", "argument extra")

TEXTS = st.text(alphabet=' \n,;:.!?()"“”abAB{}1-', max_size=80)


def test_parts_stand_in_order_and_say_where_they_came_from() -> None:
    assembled = assemble((FIXED, SUBJECT, LIGHT, EXTRA))
    assert assembled.prompt == "A photograph. A cat. The light is soft. rain outside"
    assert [(block.name, block.source) for block in assembled.blocks] == [
        ("fixed", "fixed_block.txt"),
        ("subject", "subjects/cat.txt"),
        ("variable:light", "variable_light.txt (soft)"),
        ("extra", "argument extra"),
    ]
    for block in assembled.blocks:
        assert assembled.prompt[block.start : block.end] == block.text


def test_blocks_are_joined_as_a_writer_would() -> None:
    for left, right, between in (
        ("A photograph.", "A cat", " "),
        ("A photograph", "a cat", ", "),
        ("A photograph", "A cat", ". "),
        ("A photograph of", "a cat", " "),
        ("A photograph:", "A cat", " "),
        ('A sign that reads "OPEN."', "A cat", " "),
        ('A sign that reads "OPEN"', "A cat", ". "),
        ("(A photograph.)", "a cat", " "),
        ("A photograph", '"OPEN" on a sign', ". "),
        ("A photograph", "85 mm lens", ". "),
        ("black -", "a cat", " "),
    ):
        assert separator(left, right) == between
        parts = (PromptPart("fixed", left, "f"), PromptPart("subject", right, "s", "subject"))
        assert assemble(parts).prompt == left + between + right


def test_a_placed_part_makes_no_block_of_its_own() -> None:
    fixed = PromptPart("fixed", "A photograph of {subject}, {light}", "fixed_block.txt")
    assembled = assemble((fixed, SUBJECT, LIGHT))
    assert assembled.prompt == "A photograph of A cat, The light is soft."
    assert [block.name for block in assembled.blocks] == ["fixed"]
    assert [(fill.placeholder, fill.block, fill.source) for fill in assembled.fills] == [
        ("light", "fixed", "variable_light.txt (soft)"),
        ("subject", "fixed", "subjects/cat.txt"),
    ]


def test_placeholders_are_filled_inside_of_what_fills_others() -> None:
    subject = PromptPart("subject", "a cat in {light}", "subjects/cat.txt", "subject")
    light = PromptPart("variable:light", "soft light", "variable_light.txt (soft)", "light")
    fixed = PromptPart("fixed", "A photograph of {subject}", "fixed_block.txt")
    assembled = assemble((fixed, subject, light))
    assert assembled.prompt == "A photograph of a cat in soft light"
    assert [fill.placeholder for fill in assembled.fills] == ["subject", "light"]


def test_a_woven_part_that_nothing_places_stays_out_with_all_it_would_place() -> None:
    colour = PromptPart("variable:colour", "{subject} red", "v", "colour")
    assembled = assemble((FIXED, SUBJECT, colour), woven=frozenset({"colour"}))
    assert assembled.prompt == "A photograph. A cat."


def test_an_empty_part_leaves_no_trace() -> None:
    nothing = PromptPart("variable:light", " - ".strip(" -"), "v", "light")
    assert assemble((FIXED, nothing, EXTRA)).prompt == "A photograph. rain outside"


def test_a_placeholder_inside_quotation_marks_is_filled_and_the_rest_left_alone() -> None:
    fixed = PromptPart("fixed", 'a sign "  {light} ,, "', "fixed_block.txt")
    light = PromptPart("variable:light", "OPEN", "argument light", "light")
    assert assemble((fixed, light)).prompt == 'a sign "  OPEN ,, "'


def test_doubled_braces_and_json_stand_for_themselves() -> None:
    extra = PromptPart("extra", '{{light}} {"scene": {"a": "b"}} {}', "argument extra")
    assert assemble((extra, LIGHT)).prompt.startswith('{light} {"scene": {"a": "b"}} {}')


def test_a_placeholder_for_nothing_is_refused_with_the_nearest() -> None:
    extra = PromptPart("extra", "in {ligth}", "argument extra")
    with pytest.raises(InvalidRequestError, match=r"in place of \{ligth\}") as caught:
        assemble((FIXED, SUBJECT, LIGHT, extra))
    assert "Did you mean {light}?" in caught.value.hint
    assert "{{ligth}}" in caught.value.hint


def test_a_circle_of_placeholders_is_refused() -> None:
    subject = PromptPart("subject", "a cat in {light}", "s", "subject")
    light = PromptPart("variable:light", "light on {subject}", "v", "light")
    with pytest.raises(InvalidRequestError, match="light -> subject -> light"):
        assemble((FIXED, subject, light))


def test_texts_that_multiply_each_other_are_given_up_early() -> None:
    parts = [PromptPart("subject", "{v0}", "s", "subject")]
    parts += [PromptPart(f"variable:v{n}", f"{{v{n + 1}}}" * 50, "v", f"v{n}") for n in range(6)]
    parts.append(PromptPart("variable:v6", "word " * 20, "v", "v6"))
    with pytest.raises(PromptTooLongError, match="grows beyond"):
        assemble(parts)


def test_the_limit_is_that_of_requests() -> None:
    assert MAX_CHARACTERS == MAX_PROMPT_CHARACTERS


def test_a_prompt_over_the_limit_is_refused_with_the_length_of_each_block() -> None:
    long = PromptPart("extra", "x" * 1990, "argument extra")
    with pytest.raises(PromptTooLongError) as caught:
        assemble((FIXED, SUBJECT, long))
    assert caught.value.message == (
        "The prompt has 2011 characters and may have 2000 at most: fixed 13, subject 6, extra 1990."
    )
    assert caught.value.hint == "Shorten extra (argument extra)."
    fits = PromptPart("extra", "x" * 1979, "argument extra")
    assert len(assemble((FIXED, SUBJECT, fits)).prompt) == 2000


@given(TEXTS, TEXTS, TEXTS, st.integers(0, 200))
def test_whatever_the_texts_blocks_are_where_they_say_and_the_limit_holds(
    fixed: str, subject: str, extra: str, most: int
) -> None:
    parts = (
        PromptPart("fixed", fixed.replace("{", "("), "f"),
        PromptPart("subject", subject.replace("{", "("), "s", "subject"),
        PromptPart("extra", extra.replace("{", "("), "e"),
    )
    try:
        assembled = assemble(parts, max_characters=most)
    except PromptTooLongError:
        return
    assert len(assembled.prompt) <= most
    for block in assembled.blocks:
        assert assembled.prompt[block.start : block.end] == block.text
        assert block.text
    for part in parts:
        kept = next((block for block in assembled.blocks if block.name == part.name), None)
        assert quotations(part.text) == (quotations(kept.text) if kept is not None else ())
    assert assemble(parts, max_characters=most) == assembled


def test_a_sentence_given_for_a_place_inside_of_one_loses_its_full_stop() -> None:
    for template, value, expected in (
        ("a photo of {subject}, lit", "A cat.", "a photo of A cat, lit"),
        ("Shown: {subject}. Lit.", " a cat. ", "Shown: a cat. Lit."),
        ("Shown: {subject}. Lit.", "a cat...", "Shown: a cat... Lit."),
        ("Shown: {subject} Lit.", "a cat.", "Shown: a cat. Lit."),
        ('a sign "{subject}"', "STOP.", 'a sign "STOP."'),
    ):
        parts = (PromptPart("fixed", template, "f"), PromptPart("subject", value, "s", "subject"))
        assert assemble(parts).prompt == expected
