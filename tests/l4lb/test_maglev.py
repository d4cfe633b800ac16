"""Maglev's table: even, by weight, the same everywhere, and little moves."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_l4lb.maglev import SIZES, build, table_size


def names(count: int) -> list[str]:
    return [f"10.0.{number // 256}.{number % 256}:80" for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100])
def test_shares_are_even(count: int) -> None:
    shares = Counter(build(names(count), [1.0] * count))
    assert len(shares) == count
    assert max(shares.values()) - min(shares.values()) <= 1


def test_shares_follow_weights() -> None:
    weights = [1.0, 2.0, 10.0, 100.0]
    table = build(names(4), weights)
    shares = Counter(table)
    for number, weight in enumerate(weights):
        assert shares[number] / len(table) == pytest.approx(weight / 113, abs=0.005)


def test_sizes_are_primes_with_enough_places() -> None:
    for size in SIZES:
        assert all(size % divisor for divisor in range(2, int(size**0.5) + 1))
    assert table_size(1) == 251
    assert table_size(163) == 16381
    assert table_size(164) == table_size(60_000) == 65537


@given(st.integers(2, 60), st.data())
@settings(max_examples=30)
def test_a_backend_that_leaves_moves_hardly_anybody_else(count: int, data: st.DataObject) -> None:
    leaves = data.draw(st.integers(0, count - 1))
    size = table_size(count)
    every = names(count)
    before = build(every, [1.0] * count)
    rest = every[:leaves] + every[leaves + 1 :]
    after = build(rest, [1.0] * len(rest))
    if len(after) != size:
        return  # a smaller table: everybody may move
    moved = sum(
        every[old] != rest[new] for old, new in zip(before, after, strict=True) if old != leaves
    )
    assert moved / size < 0.1


def test_it_does_not_depend_on_anything_but_names_and_weights() -> None:
    table = build(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"], [1.0, 1.0, 1.0])
    assert list(table[:16]) == FIRST_PLACES
    assert list(build([], [])) == []


#: They must not change with a version: hosts are not upgraded all at once.
FIRST_PLACES = [1, 0, 1, 2, 0, 1, 2, 2, 2, 0, 2, 1, 0, 1, 1, 2]
