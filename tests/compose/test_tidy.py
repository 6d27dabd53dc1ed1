"""Tidy text: single spaces, no stranded punctuation, quotations as they were."""

from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.compose.assemble import quotations, tidy

TEXTS = st.text(alphabet=" \n\t,;:.!?()[]\"“”„«»'abA1éß", max_size=60)


def test_white_space_and_punctuation_are_tidied() -> None:
    table = (
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
    )
    assert [tidy(text) for text, _ in table] == [tidied for _, tidied in table]


def test_text_in_quotation_marks_is_what_the_image_shows_and_stays() -> None:
    for marks in ('""', "“”", "„“", "«»"):
        quotation = f"{marks[0]} OPEN ,,  NOW .. {marks[1]}"
        assert tidy(f"a sign  {quotation} , lit") == f"a sign {quotation}, lit"


def test_a_mark_without_its_partner_quotes_nothing() -> None:
    assert tidy('a 12"  screen , lit') == 'a 12" screen, lit'


@given(TEXTS)
def test_tidying_keeps_quotations_and_words_and_changes_nothing_more_the_second_time(
    text: str,
) -> None:
    tidied = tidy(text)
    assert tidy(tidied) == tidied
    assert quotations(tidied) == quotations(text)
    assert [one for one in tidied if one.isalnum()] == [one for one in text if one.isalnum()]
