"""Tidy text: single spaces, no stranded punctuation, quotations as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.compose.assemble import quotations, tidy

TEXTS = st.text(alphabet=" \n\t,;:.!?()[]\"“”„«»'abA1éß", max_size=60)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("  a   cat\n\n on\ta mat ", "a cat on a mat"),
        ("red , blue ,, green", "red, blue, green"),
        ("a cat , . a dog", "a cat. a dog"),
        ("a cat.. a dog", "a cat. a dog"),
        ("wait... now....", "wait... now..."),
        (", a cat;", "a cat"),
        (". a cat", "a cat"),
        ("a cat; , a dog", "a cat; a dog"),
        ("really?, yes", "really? yes"),
        ("( a cat ) sits", "(a cat) sits"),
        ("a .5 mm gap at f/1.8, 1,000 of them", "a .5 mm gap at f/1.8, 1,000 of them"),
        ("etc., and so on", "etc., and so on"),
        ("the dogs' bowl , the cat's", "the dogs' bowl, the cat's"),
        ("", ""),
        (" ,;. ", ""),
    ],
)
def test_white_space_and_punctuation_are_tidied(given_text: str, expected: str) -> None:
    assert tidy(given_text) == expected


@pytest.mark.parametrize("marks", ['""', "“”", "„“", "«»"])
def test_text_in_quotation_marks_is_what_the_image_shows_and_stays(marks: str) -> None:
    quotation = f"{marks[0]} OPEN ,,  NOW .. {marks[1]}"
    assert tidy(f"a sign  {quotation} , lit") == f"a sign {quotation}, lit"


def test_a_mark_without_its_partner_quotes_nothing() -> None:
    assert tidy('a 12"  screen , lit') == 'a 12" screen, lit'


@given(TEXTS)
def test_tidying_twice_changes_nothing_more(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)


@given(TEXTS)
def test_every_quotation_survives_unchanged(text: str) -> None:
    assert quotations(tidy(text)) == quotations(text)


@given(TEXTS)
def test_no_word_is_changed(text: str) -> None:
    def words(some: str) -> list[str]:
        return [character for character in some if character.isalnum()]

    assert words(tidy(text)) == words(text)
