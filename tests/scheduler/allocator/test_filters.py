"""Offer filters and their deadlines."""

import pytest

from cairn_core.extensions import AgentId
from cairn_core.resources import Resources
from cairn_scheduler.allocator.filters import Deadlines, Refusals, deadline, length

LARGE, SMALL = Resources.scalars(cpus=2000), Resources.scalars(cpus=1000)


@pytest.mark.parametrize(
    ("refuse_s", "expected"),
    [(5.0, 5.0), (0.5, 1.0), (-1.0, 5.0), (float("nan"), 5.0), (1e12, 365 * 86400.0)],
)
def test_length_is_between_an_interval_and_a_year(refuse_s: float, expected: float) -> None:
    assert length(refuse_s, 1.0) == expected


@pytest.mark.parametrize("length_s", [1.0, 5.0, 120.0, 3600.0, 365 * 86400.0])
def test_a_deadline_is_never_early_and_at_most_a_32nd_late(length_s: float) -> None:
    for now in (0.0, 12345.678, 9e6):
        late = deadline(now, length_s) - (now + length_s)
        assert 0 <= late <= max(0.125, length_s / 32)


def test_a_refusal_covers_what_it_contains() -> None:
    refusals = Refusals()
    refusals.add(0b01, LARGE, 10.0)
    refusals.add(0b10, SMALL, 20.0)
    assert refusals.any == 0b11
    assert refusals.covering(LARGE) == 0b01
    assert refusals.covering(SMALL) == 0b11
    assert refusals.matches(0b10, SMALL)
    assert not refusals.matches(0b10, LARGE)


def test_the_last_of_several_filters_of_a_slot_decides() -> None:
    refusals = Refusals()
    refusals.add(1, LARGE, 10.0)
    refusals.add(1, LARGE, 20.0)
    assert not refusals.expire(9.9)
    assert refusals.expire(10.0)
    assert refusals.covering(LARGE) == 1
    assert refusals.expire(20.0)
    assert refusals.any == 0


def test_dropping_forgets_only_the_slots_named() -> None:
    refusals = Refusals()
    refusals.add(0b01, LARGE, 10.0)
    refusals.add(0b10, LARGE, 10.0)
    assert not refusals.drop(0b100)
    assert refusals.drop(0b01)
    assert refusals.any == refusals.covering(LARGE) == 0b10


def test_deadlines_come_in_order_and_in_portions() -> None:
    deadlines = Deadlines()
    assert deadlines.next() is None
    for n in range(5):
        deadlines.add(2.0, AgentId(f"s{n}"))
        deadlines.add(1.0 + n, AgentId("t"))
    assert deadlines.next() == 1.0
    assert deadlines.due(0.5, 10) == []
    assert deadlines.due(1.5, 10) == ["t"]
    first = deadlines.due(2.0, 4)
    assert len(first) == 4
    assert deadlines.next() == 2.0
    assert len(set(first) | set(deadlines.due(2.0, 4))) == 6
    assert deadlines.next() == 3.0
