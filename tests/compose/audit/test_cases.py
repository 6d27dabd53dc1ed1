"""The table of cases: what is mentioned, what is negated, what is only drawn as letters."""

import pytest

from flux_mcp.compose.audit import Forbidden
from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.lexicon import Sort, rows
from flux_mcp.compose.audit.mentions import mentions, ready
from flux_mcp.compose.audit.reading import Polarity, read
from flux_mcp.compose.audit.text import tokenize
from flux_mcp.compose.blocks import Block
from tests.compose.audit.tables import CASES, Case, read_table

TABLE = read_table(CASES)


def polarities(case: Case, pattern: str) -> set[Polarity]:
    blocks = [Block("prompt", case.text, 0, "argument prompt")]
    found = mentions(read(blocks), ready(Forbidden(pattern)), blocks)
    return {mention.polarity for mention in found}


def wrong(case: Case) -> str | None:
    """Say what is read wrongly in a case, if anything is."""
    said = {pattern: polarities(case, pattern) for pattern in case.forbid}
    mentioned = {pattern for pattern, found in said.items() if Polarity.AFFIRMED in found}
    negated = {pattern for pattern, found in said.items() if Polarity.NEGATED in found}
    as_letters = {pattern for pattern, found in said.items() if found == {Polarity.QUOTED}}
    right = (
        mentioned == set(case.mentions)
        and set(case.negated) <= negated
        and set(case.quoted) <= as_letters
    )
    return None if right else f"{case.text!r} ({case.why}): {said}"


@pytest.mark.parametrize("group", dict.fromkeys(case.group for case in TABLE))
def test_every_case_is_read_rightly(group: str) -> None:
    answers = [wrong(case) for case in TABLE if case.group == group]
    assert [answer for answer in answers if answer is not None] == []


def test_the_table_is_large_and_has_as_much_of_both_answers() -> None:
    assert len(TABLE) >= 300
    decisions = [pattern in case.mentions for case in TABLE for pattern in case.forbid]
    assert 0.3 < sum(decisions) / len(decisions) < 0.7


def test_no_case_stands_twice() -> None:
    keys = [(case.text, case.forbid) for case in TABLE]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("sort", Sort)
def test_every_cue_stands_in_a_case(sort: Sort) -> None:
    texts = [f" {' '.join(token.key for token in tokenize(case.text))} " for case in TABLE]
    missing = [
        row
        for row in rows(sort)
        if not any(
            f" {' '.join([first, *row.split()[1:]])} " in text
            for text in texts
            for first in (forms(row.split()[0]) if sort is Sort.VERB else row.split()[:1])
        )
    ]
    assert missing == []
