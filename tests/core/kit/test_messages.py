"""Messages between two processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.kit.messages import MAX_MESSAGE_BYTES, Messages, message


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=50))), st.data())
def test_a_stream_is_cut_into_the_same_messages(
    wanted: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(message(kind, content) for kind, content in wanted)
    messages, found = Messages(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        messages.feed(stream[:size])
        stream = stream[size:]
        while one := messages.next():
            found.append(one)
    assert found == wanted
    assert messages.next() is None


def test_one_that_is_too_long_is_refused() -> None:
    messages = Messages()
    messages.feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big") + b"S")
    with pytest.raises(ValueError, match=f"message is too long: {MAX_MESSAGE_BYTES + 1} bytes"):
        messages.next()
