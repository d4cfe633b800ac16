"""Serials never fall, not even over restarts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.io_serial import BLOCK, Serials


def test_serials_are_the_time_where_that_suffices(tmp_path: Path) -> None:
    serials = Serials(tmp_path / "serial")
    assert [serials.next(now) for now in (1000.9, 1002.0, 1003.5)] == [1000, 1002, 1003]
    assert not (tmp_path / "serial").exists()


def test_serials_that_ran_ahead_are_not_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "serial"
    serials = Serials(file)
    last = [serials.next(1000.0) for _ in range(3 * BLOCK)][-1]
    assert last == 1000 + 3 * BLOCK - 1
    assert Serials(file).next(1001.0) > last
    # the clock may go back while nobody looks
    assert Serials(file).next(5.0) > last
    assert Serials(file).next(1e6) == 1_000_000


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 40, "4294967296", "\u0663"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "serial"
    file.write_text(text)
    assert Serials(file).next(7.0) == 7


def test_without_a_disk_serials_go_on(tmp_path: Path) -> None:
    serials = Serials(tmp_path / "none" / "serial")
    assert [serials.next(1.0) for _ in range(3)] == [1, 2, 3]


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=50))
def test_serials_grow(times: list[float]) -> None:
    serials = Serials()
    given = [serials.next(now) for now in times]
    assert given == sorted(set(given))
