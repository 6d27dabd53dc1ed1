"""The table of cases: what is mentioned, what is negated, what is only letters in the image."""

from collections import Counter

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit import Forbidden
from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.lexicon import CueKind, cue_phrases
from flux_mcp.compose.audit.mentions import compile_pattern, mentions
from flux_mcp.compose.audit.reading import Polarity, read
from flux_mcp.compose.audit.text import tokenize
from tests.compose.audit.tables import CASES, Case, read_table

TABLE = read_table(CASES)


def wrong(case: Case) -> str | None:
    """Say what is read wrongly in a case, if anything is."""
    blocks = [Block("prompt", case.text, 0, "argument prompt")]
    reading = read(blocks)
    said = {
        pattern: {
            mention.polarity
            for mention in mentions(reading, compile_pattern(Forbidden(pattern)), blocks)
        }
        for pattern in case.forbid
    }
    mentioned = {pattern for pattern, found in said.items() if Polarity.AFFIRMED in found}
    negated = {pattern for pattern, found in said.items() if Polarity.NEGATED in found}
    as_letters = {pattern for pattern, found in said.items() if found == {Polarity.QUOTED}}
    right = (
        mentioned == set(case.mentions)
        and set(case.negated) <= negated
        and set(case.quoted) <= as_letters
    )
    return None if right else f"{case.group}: {case.text!r} ({case.why}): {said}"


def test_every_case_is_read_rightly() -> None:
    answers = [wrong(case) for case in TABLE]
    assert [answer for answer in answers if answer is not None] == []


def test_the_table_is_large_has_both_answers_and_no_case_twice() -> None:
    assert len(TABLE) >= 1700
    decisions = [pattern in case.mentions for case in TABLE for pattern in case.forbid]
    assert 0.3 < sum(decisions) / len(decisions) < 0.7
    keys = Counter((case.text, case.forbid) for case in TABLE)
    assert [key for key, count in keys.items() if count > 1] == []


def test_every_cue_is_in_a_case() -> None:
    texts = "\n".join(" ".join(["", *_keys(case.text), ""]) for case in TABLE)
    missing = [
        (kind, phrase)
        for kind, phrases in cue_phrases().items()
        for phrase in phrases
        if not any(f" {spelling} " in texts for spelling in _spellings(kind, phrase))
    ]
    assert missing == []


def _keys(text: str) -> list[str]:
    return [token.key.replace("\n", "/") for token in tokenize(text)]


def _spellings(kind: CueKind, phrase: str) -> list[str]:
    first, *rest = phrase.split()
    beginnings = forms(first) if kind is CueKind.VERB else {first}
    return [" ".join([beginning, *rest]) for beginning in beginnings]
