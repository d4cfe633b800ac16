"""Elements of nftables as bytes."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb import netlink, nft_messages
from cairn_l4lb.netlink import Malformed, Message


def answer(message: bytes) -> list[Message]:
    """A question to change something, as the kernel would list it."""
    return list(netlink.messages(message))


@given(
    st.lists(
        st.tuples(
            st.binary(min_size=4, max_size=28).map(lambda raw: raw[: len(raw) // 4 * 4]),
            st.one_of(
                st.none(),
                st.sampled_from(["pick-1", "pick6-128"]).map(nft_messages.goto),
                st.binary(min_size=4, max_size=4).map(nft_messages.value),
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_elements_are_read_as_they_are_sent(listed: list[tuple[bytes, bytes | None]]) -> None:
    (message,) = nft_messages.add(
        "cairn_l4lb", "be", [nft_messages.element(key, data) for key, data in listed]
    )
    found = [one for part in answer(message) for one in nft_messages.elements(part)]
    assert found == [(key, data or b"") for key, data in listed]


def test_an_element_is_as_nft_sends_it() -> None:
    # as `nft --debug=netlink add element inet x m { 11.0.0.1 : 10.0.0.1 }` has it
    assert nft_messages.element(b"\x0b\0\0\1", nft_messages.value(b"\x0a\0\0\1")) == bytes.fromhex(
        "1c000180" "0c000180" "08000100" "0b000001" "0c000280" "08000100" "0a000001"
    )  # fmt: skip


def test_data_says_what_it_is() -> None:
    assert nft_messages.chain_of(nft_messages.goto("pick-3")) == "pick-3"
    assert nft_messages.value_of(nft_messages.goto("pick-3")) == b""
    assert nft_messages.chain_of(nft_messages.value(b"1234")) == ""
    assert nft_messages.value_of(nft_messages.value(b"1234")) == b"1234"


def test_many_elements_are_several_messages_of_one_batch() -> None:
    elements = [nft_messages.element(struct.pack("!I", n)) for n in range(10_000)]
    messages = nft_messages.add("cairn_l4lb", "hot", elements, 7)
    assert len(messages) > 1
    parts = list(netlink.messages(nft_messages.batch(messages, 7, 42)))
    assert [one.kind for one in parts[:1] + parts[-1:]] == [0x10, 0x11]
    assert {one.sequence for one in parts} == {7}
    # one answer, after all of it
    assert [bool(one.flags & netlink.ACK) for one in parts] == [False] * len(messages) + [
        True,
        False,
    ]
    assert parts[0].attributes() == {1: struct.pack("!I", 42)}
    found = [key for one in parts[1:-1] for key, _ in nft_messages.elements(one)]
    assert found == [struct.pack("!I", n) for n in range(10_000)]


def test_a_table_says_its_comment() -> None:
    def table(userdata: bytes) -> Message:
        return Message(0xA00, 0, 0, b"\1\0\0\0" + netlink.attribute(6, userdata))

    assert nft_messages.comment_of(table(b"\0\x06hello\0")) == "hello"
    assert nft_messages.comment_of(table(b"\1\x06hello\0")) == ""
    assert nft_messages.comment_of(Message(0xA00, 0, 0, b"\1\0\0\0")) == ""


def test_a_fingerprint_is_of_rules_and_not_of_how_often_they_are_used() -> None:
    def chain(table: bytes, handle: int, users: int) -> Message:
        parts = netlink.attribute(1, table), netlink.u64(2, handle), netlink.u32(6, users)
        return Message(0xA03, 0, 0, b"\1\0\0\0" + b"".join(parts))

    def of(*messages: Message) -> bytes:
        return nft_messages.fingerprint(messages, "ours")

    assert of(chain(b"ours\0", 5, 1)) == of(chain(b"ours\0", 5, 2))
    assert of(chain(b"ours\0", 5, 1)) != of(chain(b"ours\0", 6, 1))
    assert of(chain(b"ours\0", 5, 1), chain(b"other\0", 9, 1)) == of(chain(b"ours\0", 5, 1))


@given(st.binary(max_size=80))
def test_nonsense_is_malformed_and_nothing_else(data: bytes) -> None:
    message = Message(0xA0C, 0, 0, b"\1\0\0\0" + data)
    with contextlib.suppress(Malformed):
        list(nft_messages.elements(message))
    with contextlib.suppress(Malformed):
        nft_messages.comment_of(message)
    with contextlib.suppress(Malformed):
        nft_messages.generation(Message(0xA0F, 0, 0, b"\0\0\0\0" + data))


def test_another_message_is_no_list() -> None:
    with pytest.raises(Malformed, match="not a list of elements"):
        list(nft_messages.elements(Message(0xA00, 0, 0, b"\1\0\0\0")))
