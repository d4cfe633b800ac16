"""Nobody takes everything."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cairn_core.vips.shares import NOBODY, Shares


def test_an_owner_has_a_share() -> None:
    shares = Shares[int](100, 10, "things")
    assert shares.room("a") == 10
    for thing in range(10):
        shares.take(thing, "a")
    assert shares.room("a") == 0
    assert shares.why_full("a") == "framework 'a' has 10 things already"
    assert shares.room("b") == 10
    assert shares.give_back(3)
    assert not shares.give_back(3)
    assert shares.room("a") == 1


def test_the_last_quarter_is_for_those_that_have_little() -> None:
    shares = Shares[int](16, 8, "things")
    for thing in range(10):
        shares.take(thing, "ab"[thing % 2])
    assert shares.room("a") == 2
    shares.take(10, "c")
    shares.take(11, "d")
    assert [shares.room(one) for one in "acde"] == [0, 1, 1, 2]
    for thing, owner in enumerate("cdee", 12):
        shares.take(thing, owner)
    assert shares.room("f") == 0
    assert shares.why_full("f") == "there are 16 things already"


def test_what_nobody_was_known_to_have_is_claimed_once() -> None:
    shares = Shares[str](16, 8, "things")
    shares.take("x", NOBODY)
    shares.claim("x", "a")
    shares.claim("x", "b")
    shares.claim("y", "b")
    assert (shares.room("a"), shares.room("b"), list(shares)) == (7, 8, ["x"])


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 40), st.booleans())))
def test_any_series_keeps_to_the_rules(series: list[tuple[str, int, bool]]) -> None:
    shares = Shares[int](24, 8, "things")
    owners: dict[int, str] = {}
    for owner, thing, take in series:
        room = shares.room(owner)
        if not take:
            assert shares.give_back(thing) == (owners.pop(thing, None) is not None)
        elif room and thing not in owners:
            shares.take(thing, owner)
            owners[thing] = owner
            assert shares.room(owner) < room or len(shares) == 18
    assert set(shares) == set(owners)
    held = Counter(owners.values())
    assert all(number <= 8 for number in held.values())
    if len(owners) < 24:
        assert shares.room("somebody new") > 0
