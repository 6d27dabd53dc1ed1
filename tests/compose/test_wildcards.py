"""Random choices: the same on every machine, by weight, and each for itself."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.compose.choices import Wildcard, read_wildcard
from flux_mcp.errors import InvalidRequestError

CHOICES = {"noir": 1, "pastel": 1, "neon": 2, "never": 0}


def test_a_random_choice_is_the_same_on_every_platform_and_python() -> None:
    """Galleries depend on it: if this fails, no earlier image can be generated again."""
    wildcard = Wildcard(CHOICES)
    picked = [wildcard.pick(seed, "pack", "style") for seed in range(8)]
    assert picked == ["neon", "noir", "neon", "pastel", "pastel", "neon", "neon", "pastel"]


def test_a_star_picks_any_choice_by_the_packs_weights() -> None:
    wildcard = read_wildcard(" * ", CHOICES)
    assert wildcard is not None
    assert wildcard == read_wildcard("*", CHOICES)
    counts = Counter(wildcard.pick(seed, "pack", "style") for seed in range(4000))
    assert set(counts) == {"noir", "pastel", "neon"}
    assert counts["neon"] == pytest.approx(2000, abs=150)
    assert counts["noir"] == pytest.approx(1000, abs=130)


def test_a_caller_may_weigh_for_itself() -> None:
    wildcard = read_wildcard("noir:3 | never", CHOICES)
    assert wildcard == Wildcard({"noir": 3, "never": 1})
    counts = Counter(wildcard.pick(seed, "pack", "style") for seed in range(2000))
    assert counts["noir"] == pytest.approx(1500, abs=110)


def test_a_name_alone_is_no_wildcard() -> None:
    assert read_wildcard("noir", CHOICES) is None
    assert read_wildcard("a cat: grey", CHOICES) is None


def test_a_broken_wildcard_is_refused() -> None:
    for text, message in (
        ("noir|pastl", "'pastl' in 'noir|pastl' is no choice"),
        ("noir|", "'' in 'noir|' is not a choice with a weight"),
        ("noir:x|pastel", "'noir:x' in 'noir:x|pastel' is not a choice with a weight"),
        ("noir:0|pastel:0", "must be whole numbers up to 100, not all 0"),
        ("noir:101|pastel", "must be whole numbers up to 100"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            read_wildcard(text, CHOICES)
        assert message in caught.value.message
        assert caught.value.hint


def test_the_nearest_choice_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="Did you mean 'pastel'"):
        read_wildcard("noir|pastl", CHOICES)


@given(st.integers(0, 2**53), st.text(max_size=8), st.sampled_from(["a", "b", "c", "d"]))
def test_a_new_choice_takes_over_some_picks_and_leaves_the_others_alone(
    seed: int, pack: str, new: str
) -> None:
    before = {"noir": 2, "pastel": 1}
    picked = Wildcard(before).pick(seed, pack, "style")
    assert Wildcard({**before, new: 3}).pick(seed, pack, "style") in (picked, new)


@given(st.integers(0, 2**53))
def test_the_order_of_choices_does_not_matter(seed: int) -> None:
    backwards = dict(reversed(CHOICES.items()))
    assert Wildcard(backwards).pick(seed, "p") == Wildcard(CHOICES).pick(seed, "p")


def test_parts_of_a_key_do_not_run_together() -> None:
    wildcard = Wildcard({str(number): 1 for number in range(50)})
    assert wildcard.pick("ab", "c") != wildcard.pick("a", "bc")


def test_a_weight_of_thousands_of_digits_is_a_mistake_and_no_crash() -> None:
    with pytest.raises(InvalidRequestError, match="not a choice with a weight"):
        read_wildcard(f"noir:{'9' * 5000}|pastel", {"noir": 1, "pastel": 1})
