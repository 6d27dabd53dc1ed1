"""What holds of any text."""

import re
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit import Audit, Forbidden, audit, audit_text
from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.text import fold, tokenize

ROWS = [Forbidden(word) for word in ("people", "text", "red car", "logo")]
VOCABULARY = """
    a an the no not without never any people person crowd text logo red car cars walking smiling
    and or nor but with in on of street free avoid exclude do don't is are visible removed only
    just nothing except neither such as like while people-free no-people textless
    , , . ; : - — ( ) " ' / two many few 0
"""
sentences = st.lists(st.sampled_from([*VOCABULARY.split(), "\n"]), max_size=30).map(" ".join)
anything = st.text(max_size=200)
texts = st.one_of(sentences, anything)
NOUNS = ("people", "cars", "logos", "trees", "bicycles", "words", "umbrellas")


def forbidden(answer: Audit) -> set[tuple[str, int, int]]:
    return {(one.pattern, one.start, one.end) for one in answer.findings if one.code == "forbidden"}


def split(text: str, cuts: Sequence[int]) -> list[Block]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [
        Block(f"block{start}", text[start:end], start, "test") for start, end in pairwise(edges)
    ]


@given(texts, st.lists(st.integers(0, 500), max_size=3))
def test_every_span_says_what_is_there_and_the_verdict_is_that_of_the_severest(text, cuts):
    answer = audit(split(text, cuts), ROWS)
    for one in answer.findings:
        assert 0 <= one.start <= one.end <= len(text)
        assert re.sub(r"\s", "", text[one.start : one.end]) == re.sub(r"\s", "", one.text)
        if one.other_start is not None:
            assert 0 <= one.other_start < one.other_end <= len(text)
    found = {one.verdict for one in answer.findings}
    severest = [level for level in ("refuse", "warn") if level in found]
    assert answer.verdict == (severest[0] if severest else "pass")


@given(texts)
def test_a_sentence_that_mentions_people_is_refused_behind_any_other(text):
    answer = audit_text(f"{text}\n\nThere are people.", [Forbidden("people")])
    assert answer.verdict == "refuse"
    assert max(end for _, _, end in forbidden(answer)) == len(text) + len("\n\nThere are people")


@given(sentences, st.permutations(ROWS))
def test_what_changes_nothing_changes_nothing(text, rows):
    plain = audit_text(text, ROWS)
    assert audit_text(text, rows) == plain, "the order of the patterns"
    assert forbidden(plain) <= forbidden(audit_text(text, [*ROWS, Forbidden("street")]))
    before = "A quiet day. "
    moved = {(one, at + len(before), end + len(before)) for one, at, end in forbidden(plain)}
    assert forbidden(audit_text(before + text, ROWS)) == moved
    for changed in (text.upper(), text.title(), text.swapcase()):
        other = audit_text(changed, ROWS)
        assert (forbidden(other), other.verdict) == (forbidden(plain), plain.verdict)
    wide = audit_text(text.replace(" ", "   "), ROWS)
    assert [one.code for one in wide.findings] == [one.code for one in plain.findings]
    assert wide.verdict == plain.verdict
    spread = re.sub(r"(?<=\w)(?=\w)", "\u200b", text)
    assert audit_text(spread, ROWS).verdict == plain.verdict


def test_a_thing_alone_is_refused_and_negated_it_passes():
    for noun in NOUNS:
        rows = [Forbidden(noun)]
        assert audit_text(f"some {noun}", rows).verdict == "refuse"
        for negation in ("no", "without", "free of", "not any", "avoid", "zero", "never any"):
            assert audit_text(f"a street, {negation} {noun}", rows).verdict == "pass"
            assert audit_text(f"a street, not just {noun}", rows).verdict == "refuse"


@given(
    st.lists(st.sampled_from(NOUNS), min_size=2, max_size=5, unique=True),
    st.sampled_from(["or", "and"]),
)
def test_a_negation_reaches_over_a_list_of_things(things, conjunction):
    listed = f"{', '.join(things[:-1])} {conjunction} {things[-1]}"
    rows = [Forbidden(thing) for thing in things]
    assert audit_text(f"A wide street without {listed}.", rows).verdict == "pass"
    assert audit_text(f"A wide street with {listed}.", rows).verdict == "refuse"


@given(texts)
def test_folded_characters_and_tokens_keep_their_places(text):
    folded = fold(text)
    spans = [folded.span(place, place + 1) for place in range(len(folded.text))]
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert spans == sorted(spans)
    tokens = tokenize(text)
    starts = [token.start for token in tokens]
    assert starts == sorted(starts)
    assert all(token.start < token.end <= len(text) for token in tokens)


@given(st.text(st.characters(categories=["Ll"]), min_size=1, max_size=12))
def test_every_word_is_a_form_of_itself(word):
    assert word in forms(word)
