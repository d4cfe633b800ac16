"""The peak EWMA: up at once, down slowly, and dear while nothing is known."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.ewma import DECAY_S, PENALTY, PeakEwma


class Original:
    """The same with the observation of 0 at each reading, and everything kept."""

    def __init__(self, now: float) -> None:
        self.stamp, self.cost, self.penalty, self.pending = now, 0.0, PENALTY, 0

    def observe(self, value: float, now: float) -> None:
        weight = exp(-max(now - self.stamp, 0.0) / DECAY_S)
        if value > self.cost:
            self.cost = value
        else:
            self.cost = self.cost * weight + value * (1 - weight)
        self.stamp = now

    def read(self, now: float) -> float:
        self.observe(0.0, now)
        if self.cost == 0.0 and self.penalty != 0.0:
            return self.penalty + self.pending
        return self.cost * (self.pending + 1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["observe", "read"]),
        st.floats(0, 30, allow_nan=False),
        st.floats(1, 1e10),
        st.integers(0, 5),
    ),
    max_size=40,
)


@given(STEPS)
def test_it_is_the_original_with_reading_in_two_steps(
    steps: list[tuple[str, float, float, int]],
) -> None:
    ours, theirs, now = PeakEwma(0.0), Original(0.0), 0.0
    for what, passed, value, pending in steps:
        now += passed
        theirs.pending = pending
        if what == "observe":
            ours.observe(value, now)
            theirs.observe(value, now)
        else:
            assert ours.cost(pending, now) == pytest.approx(theirs.read(now), rel=1e-6)
            ours.settle(now)


@given(st.floats(1, 1e12), st.floats(0, 200))
def test_a_peak_is_seen_at_once_and_forgotten_with_time(value: float, passed: float) -> None:
    ewma = PeakEwma(0.0)
    ewma.observe(value / 2, 0.0)
    ewma.observe(value, 0.0)
    assert ewma.read(0.0) == value
    assert ewma.read(passed) == pytest.approx(value * exp(-passed / DECAY_S))
    assert ewma.read(1e6) == 0.0


@given(st.floats(1, 1e12), st.integers(0, 100))
def test_pending_connections_add_to_the_cost(value: float, pending: int) -> None:
    ewma = PeakEwma(0.0)
    ewma.observe(value, 0.0)
    assert ewma.cost(pending, 0.0) == value * (pending + 1)


def test_an_unmeasured_backend_is_dearest_and_all_of_them_alike() -> None:
    slow = PeakEwma(0.0)
    slow.observe(1e12, 0.0)
    assert slow.cost(1000, 0.0) < PeakEwma(0.0).cost(0, 0.0) == PeakEwma(5.0).cost(3, 9.0)


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    ewma = PeakEwma(10.0)
    ewma.observe(100.0, 5.0)
    assert ewma.read(1.0) == 100.0
    assert ewma.read(10.0) == 100.0
