"""Messages of conntrack: byte by byte as the original's, and events as the kernel sends them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb import conntrack, netlink
from cairn_l4lb.conntrack import Event
from cairn_l4lb.netlink import Malformed, attribute, nested

CLIENT, VIP, BACKEND = bytes((10, 0, 0, 1)), bytes((11, 0, 0, 1)), bytes((10, 0, 0, 9))
FLOW = CLIENT + VIP + b"\x30\x39\0\x50"
FLOW6 = bytes(15) + b"\1" + bytes(15) + b"\2" + b"\x30\x39\0\x50"


def tuples(kind: int, flow: bytes, protocol: int = 6) -> bytes:
    size = (len(flow) - 4) // 2
    src, dst = (1, 2) if size == 4 else (3, 4)
    return nested(
        kind,
        nested(1, attribute(src, flow[:size]), attribute(dst, flow[size:-4])),
        nested(
            2, netlink.u8(1, protocol), attribute(2, flow[-4:-2]), attribute(3, flow[-2:])
        ),
    )  # fmt: skip


def event(
    flow: bytes, reply: bytes, *rest: bytes, command: int = 0, flags: int = 0, protocol: int = 6
) -> bytes:
    return netlink.netfilter(
        netlink.CTNETLINK, command, flags,
        tuples(1, flow, protocol), tuples(2, reply, protocol), *rest,
        family=netlink.INET if len(flow) == 12 else netlink.INET6,
    )  # fmt: skip


REPLY = BACKEND + CLIENT + b"\x1f\x90\x30\x39"
ID, STATUS = netlink.u32(12, 77), netlink.u32(3, 0x1AA)


def test_an_entry_is_made_as_the_original_makes_it() -> None:
    data = conntrack.create(FLOW, b"\x7f\0\0\1", BACKEND, 8080)
    (found,) = netlink.messages(data)
    assert (found.kind, found.flags) == (0x100, 0x1 | 0x4 | 0x200 | 0x400)
    assert data[16:].hex(" ", 4) == (
        "02000000"
        # the original tuple, and its plain inverse
        " 34000180 14000180 08000100 0a000001 08000200 0b000001"
        " 1c000280 05000100 06000000 06000200 30390000 06000300 00500000"
        " 34000280 14000180 08000100 0b000001 08000200 0a000001"
        " 1c000280 05000100 06000000 06000200 00500000 06000300 30390000"
        # two seconds, SYN_SENT
        " 08000700 00000002 10000480 0c000180 05000100 01000000"
        # source from port 1 to 65534; the backend's only port
        " 20000680 08000100 7f000001 14000380 06000100 00010000 06000200 fffe0000"
        " 20000d80 08000100 0a000009 14000380 06000100 1f900000 06000200 1f900000"
    )


def test_an_entry_is_asked_for_and_deleted() -> None:
    (found,) = netlink.messages(conntrack.delete(6, FLOW))
    assert (found.kind, found.flags) == (0x102, netlink.REQUEST)
    assert bytes(found.body[4:]) == tuples(1, FLOW)
    (found,) = netlink.messages(conntrack.get(17, FLOW6))
    assert (found.kind, found.flags) == (0x101, netlink.REQUEST | netlink.ACK)
    assert bytes(found.body) == b"\x0a\0\0\0" + tuples(1, FLOW6, 17)


@pytest.mark.parametrize(
    ("command", "flags", "kind"),
    [(0, netlink.CREATE | netlink.EXCL, conntrack.NEW), (0, 0, conntrack.UPDATE),
     (2, 0, conntrack.DESTROY)],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("flow", [FLOW, FLOW6])
@pytest.mark.parametrize("rest", [(ID, STATUS), (netlink.u32(18, 1), ID, STATUS), (STATUS,)])
def test_events(
    command: int, flags: int, kind: int, protocol: int, flow: bytes, rest: tuple[bytes, ...]
) -> None:
    size = (len(flow) - 4) // 2
    backend = bytes(size - 1) + b"\7"
    reply = backend + flow[:size] + b"\x1f\x90\x30\x39"
    data = event(flow, reply, *rest, command=command, flags=flags, protocol=protocol)
    found = conntrack.parse_event(data)
    assert found == Event(kind, protocol, flow, backend + b"\x1f\x90", 0x1AA)


def test_an_entry_has_mark_and_state() -> None:
    state = nested(4, nested(1, netlink.u8(1, conntrack.TIME_WAIT)))
    data = tuples(1, FLOW) + tuples(2, REPLY) + STATUS + netlink.u32(8, 0x30000) + state
    found = conntrack.parse_entry(data)
    assert found is not None
    assert (found.mark, found.tcp_state) == (0x30000, conntrack.TIME_WAIT)
    assert found.reply_source == BACKEND + b"\x1f\x90"


def test_other_protocols_and_messages_are_none() -> None:
    icmp = nested(
        1, nested(1, attribute(1, CLIENT), attribute(2, VIP)), nested(2, netlink.u8(1, 1))
    )
    assert conntrack.parse_entry(icmp) is None
    assert conntrack.parse_event(netlink.netfilter(netlink.CTNETLINK, 0, 0, icmp)) is None
    assert conntrack.parse_event(netlink.message(netlink.ERROR, 0, bytes(20))) is None


@given(st.integers(0, 400), st.integers(0, 255), st.booleans(), st.sampled_from([FLOW, FLOW6]))
def test_nothing_but_malformed_is_raised(at: int, value: int, cut: bool, flow: bytes) -> None:
    size = (len(flow) - 4) // 2
    data = bytearray(event(flow, flow[size:-4] + flow[:size] + flow[-4:], ID, STATUS))
    at %= len(data)
    if cut:
        del data[at:]
        if len(data) >= 4:
            data[:4] = len(data).to_bytes(4, "little")
    else:
        data[at] = value
    with suppress(Malformed):
        conntrack.parse_event(bytes(data))


@given(st.binary(max_size=200))
def test_garbage_is_malformed_or_nothing(data: bytes) -> None:
    for take in (conntrack.parse_event, conntrack.parse_entry):
        with suppress(Malformed):
            take(data)
