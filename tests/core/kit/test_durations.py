"""Durations, sizes and backoff."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.kit.backoff import Backoff
from cairn_core.kit.durations import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15mins", 900.0),
        ("5secs", 5.0),
        ("100ms", 0.1),
        ("1weeks", 604800.0),
        ("1.5hrs", 5400.0),
        (".5days", 43200.0),
        ("3us", 3e-6),
        ("7ns", 7e-9),
        ("-1secs", -1.0),
    ],
)
def test_durations_are_those_of_the_original(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "secs", "5 secs", "5s", "1e3secs", "nansecs", "1.2.3ms"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(1, 10**6).map(lambda n: n / 1000))
def test_a_formatted_duration_reads_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-4)


@pytest.mark.parametrize(("text", "size"), [("10MB", 10485760), ("0B", 0), ("3KB", 3072)])
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["10", "1.5MB", "10mb", "-1B", ""])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 2**60))
def test_a_formatted_size_reads_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 2**32), st.integers(0, 200))
def test_backoff_stays_in_its_range_and_grows(seed: int, failures: int) -> None:
    backoff = Backoff(0.1, 30.0, Random(seed))
    for n in range(failures):
        step = min(30.0, 0.1 * 2.0**n)
        assert step / 2 <= backoff.next() <= step
    assert backoff.failures == failures
    backoff.reset()
    assert backoff.next() <= 0.1


def test_backoff_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="backoff from"):
        Backoff(2.0, 1.0, Random(1))
