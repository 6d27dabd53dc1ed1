"""Every common negation with everything that may come behind it."""

from itertools import product

from flux_mcp.compose.audit import Forbidden, audit_text

NEGATIONS = (
    "no zero without without_any free_of devoid_of avoid exclude do_not_show don't_show never_show "
    "omit not_any must_not_show should_not_contain there_are_no there_aren't_any lacking "
    "not_showing excluding instead_of rather_than with_no absence_of minus sans remove "
    "doesn't_have it_has_no"
)
GOES_ON = (
    "{} people",
    "{} people or cars",
    "{} cars or people",
    "{} cars and people",
    "{} cars/people",
    "{} cars, dogs or people",
    "{} cars, dogs, or people",
    "{} cars, dogs and people",
    "{} people, cars or dogs",
    "{} cars nor people",
    "{} cars such as vans or people",
    "{} visible people",
    "{} real people",
    "{} people at all",
    "({} people)",
    "a street with trees, {} people, soft light",
    "a street at noon; {} people",
    "a street \u2013 {} people \u2013 at noon",
)
ENDS = (
    "{} cars but people",
    "{} cars, but people",
    "{} cars, people walking",
    "{} cars, people walk",
    "{} cars, people are walking",
    "{} cars and people walking",
    "{} cars, a crowd of people",
    "{} cars and a crowd of people",
    "{} cars, many people",
    "{} cars, two people",
    "{} cars, lots of people",
    "{} cars, the people wave",
    "{} cars, there are people",
    "{} cars, only people",
    "{} cars, just people",
    "{} cars, instead people",
    "{} cars except people",
    "{} cars, with people",
    "{} cars, people with hats",
    "{} cars, people in the park",
    "{} cars, people dressed in white",
    "{} cars, show people",
    "{} cars. People",
    "{} cars; people",
    "{} cars - people",
    "{} cars — people",
    "{} cars: people walk",
    "{} cars\npeople",
    "({} cars) people",
    "{} cars while people walk",
    "{} cars where people walk",
    "{} cars as people pass",
    "{} cars because people",
    "{} cars, though people walk",
    "{} cars near the people",
    "{} cars around the people",
    "{} cars behind people",
    "{} cars in front of people",
)


def negations() -> list[str]:
    return [one.replace("_", " ") for one in NEGATIONS.split()]


def mentions_people(text: str) -> bool:
    return audit_text(text, [Forbidden("people")]).verdict == "refuse"


def test_a_negation_reaches_as_far_as_it_should_and_no_farther() -> None:
    texts = {
        rest.format(negation): rest in ENDS
        for rest, negation in product((*GOES_ON, *ENDS), negations())
    }
    assert [text for text, mentions in texts.items() if mentions_people(text) != mentions] == []


def test_what_comes_before_does_not_matter() -> None:
    before = ("A quiet street, ", "Wide shot. ", "not far from the sea, ", "no dogs, ", "")
    for start, negation, rest in product(before, negations(), (GOES_ON[3], ENDS[2])):
        text = start + rest.format(negation)
        assert mentions_people(text) == (rest == ENDS[2]), text
