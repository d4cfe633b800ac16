"""HTTP answers and RecordIO, cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.executor.stream import Answer, Records, StreamError

PLAIN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nX-Y: z\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"
)


@pytest.mark.parametrize(
    ("raw", "status", "body"), [(PLAIN, 202, b"hello"), (CHUNKED, 200, b"abc0123456789")]
)
def test_an_answer_reads_the_same_wherever_it_is_cut(raw: bytes, status: int, body: bytes) -> None:
    for cut in range(len(raw)):
        answer = Answer()
        assert answer.feed(raw[:cut]) + answer.feed(raw[cut:]) == body
        assert (answer.status, answer.done) == (status, True)


@pytest.mark.parametrize("raw", [b"SSH-2.0-x\r\n\r\n", b"x" * 70000], ids=["not HTTP", "endless"])
def test_what_is_not_http_is_an_error(raw: bytes) -> None:
    with pytest.raises(StreamError):
        Answer().feed(raw)


@given(st.lists(st.binary(max_size=40)), st.integers(1, 7))
def test_records_read_the_same_wherever_they_are_cut(records: list[bytes], step: int) -> None:
    raw = b"".join(b"%d\n%b" % (len(record), record) for record in records)
    reader = Records()
    found = [r for i in range(0, len(raw), step) for r in reader.feed(raw[i : i + step])]
    assert found == records


@pytest.mark.parametrize("raw", [b"abc\n", b"99999999999\n", b"1" * 30, b"-5\n"])
def test_a_length_that_is_none_is_an_error(raw: bytes) -> None:
    with pytest.raises(StreamError):
        Records().feed(raw)
