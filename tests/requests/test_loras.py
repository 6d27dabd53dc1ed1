"""The argument `loras`, what a plan makes of it, and what the caller is told."""

from pathlib import Path
from typing import Any

import pytest

from flux_mcp.errors import InvalidRequestError
from flux_mcp.models.loras.header import LoraHeader
from flux_mcp.models.loras.library import Lora, LoraAbout
from flux_mcp.requests.plan import lora_notices, plan_loras
from flux_mcp.requests.schemas import DRAW_REQUESTS, DrawRequest, GenerateRequest, LoraChoice
from flux_mcp.requests.validation import parse_request


def asked(loras: Any) -> DrawRequest:
    return parse_request(GenerateRequest, {"prompt": "a star", "loras": loras})


def lora(name: str, sha256: str = "", left_out: tuple[str, ...] = (), **about: Any) -> Lora:
    header = LoraHeader("diffusers", (), (), 0, is_control=False)
    digest = (sha256 or name.encode().hex()).ljust(64, "0")
    about_it = LoraAbout(**about)
    return Lora(name, Path(name), 1, header, about_it, ("micro",), lambda _: digest, left_out)


def choices(*names: str, weight: float = 1.0) -> list[LoraChoice]:
    return [LoraChoice(name=name, weight=weight) for name in names]


@pytest.mark.parametrize("request_type", DRAW_REQUESTS.values(), ids=lambda row: row.tool)
def test_every_drawing_tool_takes_them(request_type):
    assert "loras" in request_type.model_fields


@pytest.mark.parametrize(
    "written", [["ink"], [{"name": "ink"}], '["ink"]', '[{"name": "ink", "weight": 1}]']
)
def test_a_name_alone_counts_fully(written):
    assert asked(written).loras == choices("ink")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ([{"name": "ink", "weight": 4.1}], "loras.0.weight"),
        ([{"name": "ink", "weight": -4.1}], "loras.0.weight"),
        ([{"name": "ink", "weight": float("nan")}], "loras.0.weight"),
        ([{"name": "ink", "weight": float("inf")}], "loras.0.weight"),
        ([{"name": "ink", "weight": True}], "must not be true or false"),
        ([{"name": "ink", "strength": 1}], "no argument 'loras.0.strength'"),
        ([{"weight": 1}], "loras.0.name: Field required"),
        (["", "ink"], "loras.0.name"),
        (["ink", "grain", {"name": "ink", "weight": 0.5}], "named twice"),
        ([f"l{n}" for n in range(9)], "at most 8 items"),
        (5, "loras: Input should be a valid list"),
        ({"ink": 0.8}, "There is no argument 'loras.0.ink'"),
    ],
)
def test_what_is_written_wrongly_is_refused_and_says_how(written, says):
    with pytest.raises(InvalidRequestError) as refused:
        asked(written)
    assert says in str(refused.value)
    assert refused.value.hint


def test_a_plan_has_them_in_the_order_of_their_names():
    """The order changes the last bits of the image: the same set gives the same ones."""
    found = {name: lora(name) for name in ("b", "a", "c")}
    orders = [("b", "a", "c"), ("c", "b", "a")]
    plans = [plan_loras(choices(*names), [found[name] for name in names]) for names in orders]
    assert plans[0] == plans[1]
    assert [one.name for one in plans[0]] == ["a", "b", "c"]
    assert [one.sha256 for one in plans[0]] == [found[name].sha256 for name in "abc"]


def test_each_keeps_its_own_weight():
    pair = [LoraChoice(name="b", weight=0.5), LoraChoice(name="a", weight=-1)]
    planned = plan_loras(pair, [lora("b"), lora("a")])
    assert [(one.name, one.weight) for one in planned] == [("a", -1.0), ("b", 0.5)]


def test_one_file_under_two_names_is_refused():
    with pytest.raises(InvalidRequestError, match="a and b are the same file"):
        plan_loras(choices("b", "a"), [lora("b", "ff"), lora("a", "ff")])


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["a STRIPED cat"], False),
        (["a cat with stripes"], False),
        (["a cat"], True),
        (["a striped cat", "a dog"], True),
    ],
)
def test_a_trigger_word_that_the_prompt_lacks_is_told(texts, told):
    found = lora("ink", trigger_words=("striped", "stripes"))
    notices = lora_notices(choices("ink"), [found], texts)
    assert bool(notices) == told
    assert all("'striped', 'stripes'" in notice for notice in notices)


@pytest.mark.parametrize(("weight", "told"), [(0.4, True), (0.5, False), (1.2, False), (1.3, True)])
def test_a_weight_it_is_not_made_for_is_told(weight, told):
    found = lora("ink", weight_range=(0.5, 1.2))
    notices = lora_notices(choices("ink", weight=weight), [found], ["a cat"])
    assert bool(notices) == told
    assert all("from 0.5 to 1.2" in notice for notice in notices)


def test_a_part_that_is_not_used_is_told():
    left_out = ("3 layers of text encoders", "1 layers of rank 0")
    (notice,) = lora_notices(choices("ink"), [lora("ink", left_out=left_out)], ["a cat"])
    assert notice == (
        "Of the LoRA 'ink' is not used: 3 layers of text encoders; 1 layers of rank 0."
    )
