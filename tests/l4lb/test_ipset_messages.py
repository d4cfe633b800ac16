"""Entries of sets as bytes."""

import contextlib
import errno

from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb import ipset_messages, netlink
from cairn_l4lb.ipset_messages import Listing
from cairn_l4lb.model import Vip
from cairn_l4lb.netlink import Malformed, Message

VIPS = [Vip("tcp", "11.0.0.1", 80), Vip("udp", "11.0.0.1", 53), Vip("tcp", "fd01:c::1", 65535)]


def test_entries_are_read_as_they_are_sent() -> None:
    (message,) = ipset_messages.add("minuteman", VIPS)
    assert ipset_messages.listing(netlink.messages(message)) == Listing("", 0, set(VIPS), 0)


def test_an_entry_is_as_ipset_sends_it() -> None:
    (message,) = ipset_messages.add("minuteman", VIPS[:1])
    # as `ipset add minuteman 11.0.0.1,tcp:80` has it, within its list of entries
    entry = bytes.fromhex(
        "28000780" "0c000180" "08000140" "0b000001" "06000440" "00500000" "05000700" "06000000"
        "08000940" "00000000"
    )  # fmt: skip
    assert entry in message


def test_many_entries_are_several_messages() -> None:
    many = [Vip("tcp", f"11.0.{n >> 8}.{n & 255}", 80) for n in range(4000)]
    messages = ipset_messages.delete("minuteman", many)
    assert len(messages) > 1
    found = [ipset_messages.listing(netlink.messages(one)).vips for one in messages]
    assert set().union(*found) == set(many)


def test_what_is_no_vip_is_counted() -> None:
    (message,) = ipset_messages.add("minuteman", VIPS[:1])
    sctp = message.replace(netlink.u8(7, 6), netlink.u8(7, 132))
    assert ipset_messages.listing(netlink.messages(sctp)) == Listing("", 0, set(), 1)


def test_errors_of_ipset_are_told_in_words() -> None:
    assert ipset_messages.reason(4352) == "it is full, see its maxelem"
    assert ipset_messages.reason(4999) == "error 4999 of ipset"
    assert ipset_messages.reason(errno.EINVAL) is None


@given(st.binary(max_size=80))
def test_nonsense_is_malformed_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        ipset_messages.listing([Message(0x607, 0, 0, b"\2\0\0\0" + data)])
    with contextlib.suppress(Malformed):
        ipset_messages.listing([Message(0x607, 0, 0, b"\2\0\0\0" + netlink.nested(8, data))])
