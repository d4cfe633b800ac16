"""That no kind of server takes all the room there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.proxy.room import Room
from cairn_dns.proxy.routes import Kind


@pytest.mark.parametrize(
    ("first", "then"),
    [(Kind.UPSTREAM, Kind.MASTERS), (Kind.ZONE, Kind.LOCAL), (Kind.MASTERS, Kind.UPSTREAM)],
)
def test_a_quarter_is_left_to_others(first: Kind, then: Kind) -> None:
    room = Room(100)
    assert sum(room.take(first) for _ in range(200)) == 75
    assert sum(room.take(then) for _ in range(200)) == 25


@given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from(list(Kind)), st.booleans())))
def test_the_limit_holds(limit: int, steps: list[tuple[Kind, bool]]) -> None:
    room = Room(limit)
    there: list[Kind] = []
    for kind, comes in steps:
        if comes and room.take(kind):
            there.append(kind)
        elif not comes and kind in there:
            there.remove(kind)
            room.leave(kind)
        assert len(room) == len(there) <= limit
    if not there:
        assert room.take(Kind.UPSTREAM)
