"""The fields of IP packets that choosing a backend needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb import packets
from cairn_l4lb.packets import Packet

CLIENT, VIP = bytes((10, 0, 0, 1)), bytes((11, 0, 0, 1))
CLIENT6, VIP6 = bytes(15) + b"\1", bytes(15) + b"\2"
PORTS = b"\x30\x39\x00\x50"
#: A SYN of Linux to port 80, with its options.
SYN = bytes.fromhex(
    "4500003c1c4640004006b1e6c0a80068c0a80001"
    "e9d30050499602d200000000a002faf0a2ac0000020405b40402080a001122330000000001030307"
)
TCP_HEADER = PORTS + bytes((0, 0, 0, 5)) + bytes(4) + b"\x50\x02" + bytes(6)


def ipv4(protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    size = 20 + len(options) + len(payload)
    return (
        bytes((0x45 + len(options) // 4, 0)) + size.to_bytes(2, "big") + bytes(2)
        + fragment.to_bytes(2, "big") + bytes((64, protocol, 0, 0)) + CLIENT + VIP + options
        + payload
    )  # fmt: skip


def ipv6(first: int, payload: bytes) -> bytes:
    head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes((first, 64))
    return head + CLIENT6 + VIP6 + payload


def test_a_real_syn() -> None:
    flow = bytes((192, 168, 0, 104, 192, 168, 0, 1)) + b"\xe9\xd3\0\x50"
    assert packets.parse(SYN) == Packet(packets.TCP, flow, 0x499602D2, packets.SYN)
    assert packets.addresses_of(flow) == (flow[:4], flow[4:8])


def test_options_and_datagrams() -> None:
    flow = CLIENT + VIP + PORTS
    found = packets.parse(ipv4(packets.TCP, TCP_HEADER, options=bytes(8)))
    assert found == Packet(packets.TCP, flow, 5, packets.SYN)
    found = packets.parse(ipv4(packets.UDP, PORTS + bytes(4)))
    assert found == Packet(packets.UDP, flow, 0, 0)


def test_ipv6_with_and_without_extension_headers() -> None:
    flow = CLIENT6 + VIP6 + PORTS
    expected = Packet(packets.TCP, flow, 5, packets.SYN)
    assert packets.parse(ipv6(packets.TCP, TCP_HEADER)) == expected
    hops = bytes((60, 0)) + bytes(6)
    options = bytes((44, 1)) + bytes(14)
    first_fragment = bytes((packets.TCP, 0, 0, 1)) + bytes(4)
    assert packets.parse(ipv6(0, hops + options + first_fragment + TCP_HEADER)) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x55" + bytes(60),
        ipv4(packets.TCP, TCP_HEADER, fragment=1),
        ipv4(1, bytes(40)),
        b"\x44" + ipv4(packets.TCP, TCP_HEADER)[1:],
        ipv6(58, bytes(40)),
        ipv6(44, bytes((packets.TCP, 0, 0, 8)) + bytes(4) + TCP_HEADER),
        ipv6(0, (bytes((0, 0)) + bytes(6)) * 20),
    ],
)
def test_what_is_of_no_use(data: bytes) -> None:
    assert packets.parse(data) is None


@given(st.one_of(st.binary(max_size=120), st.integers(0, len(SYN)).map(lambda n: SYN[:n])))
def test_nothing_raises(data: bytes) -> None:
    found = packets.parse(data)
    assert found is None or len(found.flow) in (12, 36)
    again = packets.whole(data)
    assert again is None or data.startswith(again)


@given(st.integers(0, 119), st.integers(0, 255))
def test_a_changed_byte_raises_nothing(at: int, value: int) -> None:
    for packet in (SYN, ipv6(packets.TCP, TCP_HEADER), ipv6(0, bytes(8) + TCP_HEADER)):
        changed = bytearray(packet)
        changed[at % len(packet)] = value
        packets.parse(bytes(changed))
        packets.whole(bytes(changed))


def test_only_a_whole_packet_can_be_sent_again() -> None:
    assert packets.whole(SYN + b"padding") == SYN
    assert packets.whole(SYN[:-1]) is None
    six = ipv6(packets.TCP, TCP_HEADER)
    assert packets.whole(six) == six
    assert packets.whole(six[:-1]) is None
    assert packets.whole(b"\x10" + SYN[1:]) is None
