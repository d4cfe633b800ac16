"""RecordIO framing."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.mesos.recordio import Decoder, RecordError, encode


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(0, 10**6), max_size=12))
def test_records_survive_being_split_at_any_byte(records: list[bytes], cuts: list[int]) -> None:
    decoder = Decoder()
    got = [r for p in pieces(b"".join(map(encode, records)), cuts) for r in decoder.feed(p)]
    assert got == records
    assert decoder.pending == 0


@given(st.binary(max_size=200), st.lists(st.integers(0, 10**6), max_size=5))
def test_arbitrary_bytes_give_records_or_a_clear_error(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder(limit=64)
    with contextlib.suppress(RecordError):
        for piece in pieces(data, cuts):
            assert all(len(record) <= 64 for record in decoder.feed(piece))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc\n", "not a decimal number: b'abc'"),
        (b"-1\n", "not a decimal number"),
        (b"65\n", "record of 65 bytes is above the limit of 64"),
        (b"1" * 30, "record length too long"),
    ],
)
def test_what_is_not_recordio_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Decoder(limit=64).feed(data)


def test_an_unfinished_record_is_pending() -> None:
    decoder = Decoder()
    assert decoder.feed(b"5\nab") == []
    assert decoder.pending > 0
    assert decoder.feed(b"cde\n3\nxyz") == [b"abcde", b"xyz"]
