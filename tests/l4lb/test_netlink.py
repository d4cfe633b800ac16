"""Netlink messages: built as the kernel wants them, and never trusted."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb import netlink
from cairn_l4lb.netlink import Malformed, Message

PARTS = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8)


def test_a_message_of_netfilter_is_laid_out_as_documented() -> None:
    data = netlink.netfilter(
        netlink.QUEUE, 2, netlink.ACK, netlink.u32(3, 1024), family=2, resource=50, sequence=7
    )
    assert data.hex(" ", 4) == "1c000000 02030500 07000000 00000000 02000032 08000300 00000400"


def test_values_are_in_network_byte_order_and_padded() -> None:
    assert netlink.u8(1, 5).hex() == "0500010005000000"
    assert netlink.u16(1, 0x1234).hex() == "0600010012340000"
    assert netlink.u64(1, 2).hex() == "0c0001000000000000000002"
    assert netlink.text(2, "abc").hex() == "0800020061626300"
    assert netlink.nested(1, netlink.u8(2, 1)).hex() == "0c000180" + "0500020001000000"


def test_an_attribute_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="attribute 1 is too long: 65532 bytes"):
        netlink.attribute(1, bytes(65532))


@given(PARTS)
def test_attributes_come_back(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, value) for kind, value in parts)
    assert list(netlink.attributes(data)) == parts


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=5))
def test_messages_come_back(wanted: list[tuple[int, bytes]]) -> None:
    bodies = [(kind, body + bytes(-len(body) % 4)) for kind, body in wanted]
    data = b"".join(netlink.message(kind, 5, body, 9) for kind, body in bodies)
    assert list(netlink.messages(data)) == [Message(kind, 5, 9, body) for kind, body in bodies]


@given(st.binary(max_size=200))
def test_whatever_comes_raises_nothing_but_malformed(data: bytes) -> None:
    for take in (netlink.messages, netlink.attributes):
        with suppress(Malformed):
            for found in take(data):
                if isinstance(found, Message):
                    _ = found.errno, found.attributes()


@pytest.mark.parametrize("size", range(1, 24))
def test_a_cut_message_is_malformed(size: int) -> None:
    data = netlink.netfilter(1, 1, 0, netlink.u32(1, 1))
    with pytest.raises(Malformed):
        list(netlink.messages(data[:size]))


def test_an_error_is_told_with_its_number() -> None:
    error = netlink.message(netlink.ERROR, 0, (-17 & 0xFFFFFFFF).to_bytes(4, "little"))
    assert next(netlink.messages(error)).errno == 17
    with pytest.raises(Malformed):
        _ = Message(netlink.ERROR, 0, 0, b"").errno


def test_a_number_has_one_to_eight_bytes() -> None:
    assert netlink.number(b"\1\0") == 256
    for data in (b"", bytes(9)):
        with pytest.raises(Malformed):
            netlink.number(data)
