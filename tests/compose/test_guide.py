"""The guide: for every family, every claim with its source."""

import re

import pytest

from flux_mcp.compose.guide import families, guide
from flux_mcp.errors import InvalidRequestError
from flux_mcp.models.registry import load_registry


def test_there_is_a_section_for_every_family_that_can_be_drawn_with() -> None:
    assert {row.family for row in load_registry()} <= set(families())
    assert {"kontext", "fill"} <= set(families())


def test_one_family_has_what_holds_for_all_and_its_own_section() -> None:
    text = guide("kontext")
    assert "## For every family" in text
    assert "## FLUX.1 Kontext\n" in text
    assert "## Sources" in text
    assert "micro, the embedded" not in text
    assert "{" not in guide("fill").split("## Sources")[0]


def test_an_unknown_family_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match="Did you mean 'kontext'"):
        guide("context")


def test_every_claim_names_a_source_and_every_source_is_used() -> None:
    body, _, sources = guide().partition("## Sources")
    claims = [line for line in body.splitlines() if line.startswith("* ")]
    assert len(claims) > 20
    for claim in claims:
        assert re.search(r"\[\d+(, \d+)*\]", claim), claim
    numbers = [int(line.split(".")[0]) for line in sources.splitlines() if line[:1].isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
    cited = {int(number) for one in re.findall(r"\[([\d, ]+)\]", body) for number in one.split(",")}
    assert cited == set(numbers)
