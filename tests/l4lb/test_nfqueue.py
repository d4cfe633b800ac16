"""Messages of NFQUEUE."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb import netlink, nfqueue
from cairn_l4lb.netlink import Malformed, Message

NUMBER, QUEUE = b"\0\0\1\2", b"\0\x34"
PACKET_HDR = netlink.attribute(1, NUMBER + b"\x08\0" + bytes((nfqueue.OUTPUT,)))


def packet(*parts: bytes) -> bytes:
    return netlink.netfilter(netlink.QUEUE, 0, 0, PACKET_HDR, *parts, family=2, resource=0x34)


def one(data: bytes) -> Message:
    (found,) = netlink.messages(data)
    return found


def test_a_packet_is_read() -> None:
    data = packet(netlink.u32(5, 1), netlink.u32(3, 0xABCD), netlink.attribute(10, b"\x45payload"))
    found = nfqueue.parse(data)
    assert found == nfqueue.Waiting(QUEUE, NUMBER, nfqueue.OUTPUT, 0xABCD, b"\x45payload")
    assert nfqueue.parse(packet()) == nfqueue.Waiting(QUEUE, NUMBER, nfqueue.OUTPUT, 0, b"")


def test_other_messages_are_none() -> None:
    assert nfqueue.parse(netlink.message(netlink.ERROR, 0, bytes(20))) is None


@given(st.integers(0, 90), st.integers(0, 255), st.booleans())
def test_nothing_but_malformed_is_raised_and_the_verdict_stays_possible(
    at: int, value: int, cut: bool
) -> None:
    data = bytearray(packet(netlink.u32(3, 5), netlink.attribute(10, bytes(40))))
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] = value
    with suppress(Malformed):
        nfqueue.parse(bytes(data))
    if cut:
        assert (nfqueue.number_of(bytes(data)) is None) == (at < 30)


def test_verdicts_are_laid_out_as_documented() -> None:
    found = one(nfqueue.accept_marked(QUEUE, NUMBER, 0x30000))
    assert (found.kind, found.flags) == (0x301, netlink.REQUEST)
    assert bytes(found.body[:4]) == b"\0\0" + QUEUE
    assert found.attributes() == {2: b"\0\0\0\1" + NUMBER, 3: b"\0\3\0\0"}
    assert one(nfqueue.accept(QUEUE, NUMBER)).attributes() == {2: b"\0\0\0\1" + NUMBER}
    assert one(nfqueue.drop(QUEUE, NUMBER)).attributes() == {2: b"\0\0\0\0" + NUMBER}


def test_a_queue_is_bound_and_configured() -> None:
    assert one(nfqueue.unbind(52)).attributes() == {1: b"\2\0\0\0"}
    found = one(nfqueue.configure(52, 128, 65536, True))
    assert bytes(found.body[2:4]) == QUEUE
    assert found.attributes() == {
        2: b"\0\0\0\x80\2", 3: b"\0\1\0\0", 4: b"\0\0\0\1", 5: b"\0\0\0\1",
    }  # fmt: skip
    bound = one(nfqueue.bind(52, 128, 65536, False))
    assert bound.attributes() == {1: b"\1\0\0\0"} | found.attributes() | {5: bytes(4)}
