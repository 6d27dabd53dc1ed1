"""Shares: a caller has so much, others together less than all, and the owner always gets some."""

from flux_mcp.principals import LOCAL
from flux_mcp.server.transports.shares import Shares


def test_one_caller_has_at_most_its_share_and_has_room_again() -> None:
    shares = Shares(100, 10)
    assert all(shares.take("ada") for _ in range(10))
    assert not shares.take("ada")
    assert shares.take("bob", 10)
    shares.give_back("ada", 4)
    assert not shares.take("ada", 5)
    assert shares.take("ada", 4)
    assert (shares.taken("ada"), shares.limit("ada")) == (10, 10)


def test_however_many_names_there_are_the_owner_is_not_locked_out() -> None:
    shares = Shares(100, 10)
    assert sum(shares.take(f"name{n}") for n in range(1000)) == 75
    assert shares.take(LOCAL, 25)
    assert not shares.take(LOCAL)


def test_the_owner_may_have_all_or_a_share_of_its_own() -> None:
    assert Shares(100, 10).take(LOCAL, 100)
    assert not Shares(100, 10, owner=20).take(LOCAL, 21)


def test_a_share_is_never_more_than_there_is() -> None:
    assert Shares(5, 64, 64).limit("ada") == 5
