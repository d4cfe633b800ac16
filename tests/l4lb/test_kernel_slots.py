"""Shares of the kernel's slots: as the weights say, and few of them change."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.kernel_slots import MAX_SHIFT, assign, quotas, shift

WEIGHTS = st.dictionaries(st.integers(1, 4095), st.floats(0, 100), max_size=40)


@given(WEIGHTS, st.integers(1, 128))
def test_each_with_weight_has_about_its_share(weights: dict[int, float], count: int) -> None:
    found = quotas(weights, count)
    some = {slot: weight for slot, weight in weights.items() if weight > 0}
    assert sum(found.values()) == (count if some else 0)
    assert set(found) <= set(some)
    if len(some) <= count:
        assert set(found) == set(some)
        total = sum(some.values())
        small = sum(1 for share in found.values() if share == 1)
        for slot, share in found.items():
            # one position for each small one may be taken from the others
            assert -1 <= share - some[slot] * count / total + small <= 1 + 2 * small


@given(WEIGHTS, WEIGHTS, st.integers(1, 128))
def test_as_few_positions_as_possible_change(
    before: dict[int, float], after: dict[int, float], count: int
) -> None:
    old = assign(before, count)
    new = assign(after, count, old)
    wanted = quotas(after, count)
    assert Counter(new) == Counter(wanted)
    if old and new:
        stay = sum((Counter(old) & Counter(new)).values())
        assert sum(a == b for a, b in zip(old, new, strict=True)) == stay


def test_equal_weights_are_even() -> None:
    shares = Counter(assign(dict.fromkeys(range(1, 11), 1.0), 128))
    assert sorted(shares.values()) == [12] * 2 + [13] * 8


def test_no_weight_no_positions() -> None:
    assert assign({}, 128) == assign({1: 0.0, 2: 0.0}, 128) == ()
    assert Counter(assign({1: 5.0, 2: 0.0, 3: 1e-9}, 128)) == {1: 127, 3: 1}


def test_another_number_of_positions() -> None:
    old = assign({1: 1.0, 2: 1.0}, 8)
    assert Counter(assign({1: 1.0, 2: 1.0}, 4, old)) == {1: 2, 2: 2}
    assert Counter(assign({1: 1.0, 2: 1.0}, 16, old)) == {1: 8, 2: 8}


@given(
    st.lists(
        st.dictionaries(st.integers(1, 10), st.floats(0, 1e12), min_size=1), min_size=1, max_size=30
    )
)
def test_costs_move_shares_within_bounds(series: list[dict[int, float]]) -> None:
    factors: dict[int, float] = {}
    for costs in series:
        factors = shift(costs, factors)
        assert set(factors) == set(costs)
        assert all(1 / MAX_SHIFT <= factor <= MAX_SHIFT for factor in factors.values())


def test_the_dear_one_has_less_and_equal_ones_the_same() -> None:
    factors: dict[int, float] = {}
    for _ in range(50):
        factors = shift({1: 1e6, 2: 1e6, 3: 1.6e7}, factors)
    assert factors[3] < 0.65
    assert factors[1] == factors[2] == 1.0
    for _ in range(50):
        factors = shift({1: 1e6, 2: 1e6, 3: 1e6}, factors)
    assert factors[3] > 0.85
