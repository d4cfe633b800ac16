"""Messages of conntrack: its events, and entries that are made, looked up and deleted.

A flow is what `packets` says: addresses and ports of the original direction as on the wire.

Documents: linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h, nf_conntrack_tcp.h.
"""

from struct import Struct
from typing import NamedTuple

from . import netlink
from .netlink import Buffer, Malformed, attribute, nested
from .packets import TCP, addresses_of

#: Kinds of events.
NEW, UPDATE, DESTROY = 0, 1, 2
#: Multicast groups of the three.
GROUPS = (1, 2, 3)
#: Bits of a status: an answer was seen; kept when the table is full; in the table.
SEEN_REPLY, ASSURED, CONFIRMED = 0x2, 0x4, 0x8
#: States of a TCP connection.
SYN_SENT, LAST_ACK, TIME_WAIT, CLOSE = 1, 6, 7, 8
#: States in which an entry may make room for a new connection with the same ports.
REPLACEABLE = frozenset({SYN_SENT, LAST_ACK, TIME_WAIT, CLOSE})

_NEW, _GET, _DELETE = 0, 1, 2
NEW_KIND, DESTROY_KIND = netlink.CTNETLINK << 8 | _NEW, netlink.CTNETLINK << 8 | _DELETE

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO = 1, 2, 3, 4
_NAT_SRC, _TIMEOUT, _MARK, _ID, _NAT_DST = 6, 7, 8, 12, 13
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_NAT_V4_MINIP, _NAT_PROTO, _NAT_V6_MINIP = 1, 3, 4
_NAT_PORT_MIN, _NAT_PORT_MAX = 1, 2
#: How long an entry of ours lives if its SYN does not come, seconds, and the source ports that it
#: may get; both as dcos/minuteman `src/minuteman_ct.erl`.
_TIMEOUT_S = 2
_PORTS = (1, 65534)


class Entry(NamedTuple):
    """A connection as conntrack knows it.

    flow: of the original direction. reply_source: address and port of who answers, 6 or 18 bytes.
    tcp_state: 0 for what is not TCP, and where it is not told.
    """

    protocol: int
    flow: bytes
    reply_source: bytes
    status: int
    mark: int
    tcp_state: int


class Event(NamedTuple):
    """What happened to a connection.  kind: NEW, UPDATE or DESTROY."""

    kind: int
    protocol: int
    flow: bytes
    reply_source: bytes
    status: int


# -- taking apart ----------------------------------------------------------------------------------


def _tuple_layout(address_bytes: int) -> str:
    """A tuple as the kernel writes it: heads of attributes as numbers, and their values."""
    return f"III{address_bytes}sI{address_bytes}sIIB3xI2s2xI2s2x"


def _head(kind: int, size: int, *, nest: bool = False) -> int:
    """The first four bytes of an attribute, as a number."""
    head = Struct("=HH").pack(size, kind | (0x8000 if nest else 0))
    return int(Struct("=I").unpack(head)[0])


def _tuple_heads(address_bytes: int, src: int, dst: int) -> tuple[tuple[int, int], tuple[int, ...]]:
    """In such a tuple: the outer one, of the original and of the reply; and those within."""
    ip = 4 + 2 * (4 + address_bytes)
    size = 4 + ip + 28
    outer = _head(_TUPLE_ORIG, size, nest=True), _head(_TUPLE_REPLY, size, nest=True)
    return outer, (
        _head(_TUPLE_IP, ip, nest=True),
        _head(src, 4 + address_bytes),
        _head(dst, 4 + address_bytes),
        _head(_TUPLE_PROTO, 28, nest=True),
        _head(_PROTO_NUM, 5),
        _head(_PROTO_SRC_PORT, 6),
        _head(_PROTO_DST_PORT, 6),
    )


def _event(
    address_bytes: int, outer: tuple[int, int], inner: tuple[int, ...]
) -> tuple[Struct, tuple[int, ...]]:
    """Both tuples, the identity and the status, as they follow each other; and their heads."""
    one = _tuple_layout(address_bytes)
    heads = (outer[0], *inner, outer[1], *inner, _head(_ID, 8), _head(_STATUS, 8))
    return Struct(f"={one}{one}III4s"), heads


_HEADS4, _HEADS6 = _tuple_heads(4, _V4_SRC, _V4_DST), _tuple_heads(16, _V6_SRC, _V6_DST)
_EVENTS = {netlink.INET: _event(4, *_HEADS4), netlink.INET6: _event(16, *_HEADS6)}
#: How a tuple is written, by the size of a flow.
_TUPLES = {
    12: (Struct("=" + _tuple_layout(4)), 4, *_HEADS4),
    36: (Struct("=" + _tuple_layout(16)), 16, *_HEADS6),
}
_HEADER = Struct("=IHH")
_U32 = Struct("!I")


def parse_event(data: bytes) -> Event | None:
    """The event of a message that is a datagram of its own, as the kernel sends them; None for
    another message, or a protocol without ports.  Raises Malformed."""
    end = len(data)
    if end < netlink.NETFILTER_BODY:
        raise Malformed(f"event is cut off: {end} bytes")
    size, message_kind, flags = _HEADER.unpack_from(data)
    if message_kind == NEW_KIND:
        kind = NEW if flags & (netlink.CREATE | netlink.EXCL) else UPDATE
    elif message_kind == DESTROY_KIND:
        kind = DESTROY
    else:
        return None
    if size != end:
        raise Malformed(f"event of {end} bytes claims {size}")
    expected = _EVENTS.get(data[16])
    if expected is not None and end >= netlink.NETFILTER_BODY + expected[0].size:
        # fmt: off
        (
            h0, h1, h2, src, h3, dst, h4, h5, protocol, h6, sport, h7, dport,
            h8, h9, h10, answerer, h11, _, h12, h13, _, h14, answers, h15, _,
            h16, _, h17, status,
        ) = expected[0].unpack_from(data, netlink.NETFILTER_BODY)
        # fmt: on
        heads = (h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, h12, h13, h14, h15, h16, h17)
        if heads == expected[1]:
            flow = src + dst + sport + dport
            return Event(kind, protocol, flow, answerer + answers, _U32.unpack(status)[0])
    entry = parse_entry(data[netlink.NETFILTER_BODY :])
    return entry and Event(kind, *entry[:4])


def parse_entry(data: Buffer) -> Entry | None:
    """The attributes of a connection; None for a protocol without ports.

    Raises Malformed, also when the original tuple is missing.
    """
    found = dict(netlink.attributes(data))
    if _TUPLE_ORIG not in found:
        raise Malformed("connection without its original tuple")
    original = _tuple(found[_TUPLE_ORIG])
    if original is None:
        return None
    protocol, flow = original
    reply_source = b""
    if _TUPLE_REPLY in found:
        reply = _tuple(found[_TUPLE_REPLY])
        if reply is not None:
            reply_source = addresses_of(reply[1])[0] + reply[1][-4:-2]
    status = netlink.number(found[_STATUS]) if _STATUS in found else 0
    mark = netlink.number(found[_MARK]) if _MARK in found else 0
    return Entry(protocol, flow, reply_source, status, mark, _tcp_state(found.get(_PROTOINFO)))


def _tuple(data: Buffer) -> tuple[int, bytes] | None:
    """Protocol and flow; None for a protocol without ports."""
    parts = dict(netlink.attributes(data))
    ip = dict(netlink.attributes(parts.get(_TUPLE_IP, b"")))
    proto = dict(netlink.attributes(parts.get(_TUPLE_PROTO, b"")))
    source = ip.get(_V4_SRC) or ip.get(_V6_SRC) or b""
    destination = ip.get(_V4_DST) or ip.get(_V6_DST) or b""
    if len(source) not in (4, 16) or len(destination) != len(source):
        raise Malformed(f"tuple with addresses of {len(source)} and {len(destination)} bytes")
    ports = bytes(proto.get(_PROTO_SRC_PORT, b"")) + bytes(proto.get(_PROTO_DST_PORT, b""))
    if len(ports) != 4:
        return None
    number = netlink.number(proto.get(_PROTO_NUM, b""))
    return number, bytes(source) + bytes(destination) + ports


def _tcp_state(data: Buffer | None) -> int:
    if data is None:
        return 0
    tcp = dict(netlink.attributes(data)).get(_PROTOINFO_TCP, b"")
    state = dict(netlink.attributes(tcp)).get(_TCP_STATE, b"")
    return state[0] if len(state) == 1 else 0


# -- building --------------------------------------------------------------------------------------


def _tuple_attribute(kind: int, protocol: int, flow: bytes) -> bytes:
    layout, size, outer, (ip, src, dst, proto, number, sport, dport) = _TUPLES[len(flow)]
    return layout.pack(
        outer[kind - _TUPLE_ORIG], ip, src, flow[:size], dst, flow[size:-4],
        proto, number, protocol, sport, flow[-4:-2], dport, flow[-2:],
    )  # fmt: skip


def _message(command: int, flags: int, flow: bytes, *parts: bytes) -> bytes:
    family = netlink.INET if len(flow) == 12 else netlink.INET6
    return netlink.netfilter(netlink.CTNETLINK, command, flags, *parts, family=family)


def delete(protocol: int, flow: bytes, *, ack: bool = False) -> bytes:
    """Delete the entry of a flow.  Without `ack` only an error is answered."""
    flags = netlink.ACK if ack else 0
    return _message(_DELETE, flags, flow, _tuple_attribute(_TUPLE_ORIG, protocol, flow))


def get(protocol: int, flow: bytes) -> bytes:
    """Ask for the entry of a flow; `parse_entry` reads the answer's attributes."""
    return _message(_GET, netlink.ACK, flow, _tuple_attribute(_TUPLE_ORIG, protocol, flow))


def create(flow: bytes, source: bytes, backend: bytes, port: int, mark: int = 0) -> bytes:
    """Make the entry of a TCP connection whose SYN is about to come: to the backend's address and
    port, from `source` and any free port.

    Answered by an acknowledgement; EEXIST when there is one already.  The status is left to the
    kernel, which sets it while it applies both translations; the reply tuple is the plain inverse,
    which these change (dcos/minuteman `src/minuteman_ct.erl`).  mark: of the connection, so that
    its events are known for ours; without one the message is the original's byte by byte.
    """
    # Differs: the original sets no mark, and reads the events of all connections
    client, vip = addresses_of(flow)
    inverse = vip + client + flow[-2:] + flow[-4:-2]
    return _message(
        _NEW,
        netlink.CREATE | netlink.EXCL | netlink.ACK,
        flow,
        _tuple_attribute(_TUPLE_ORIG, TCP, flow),
        _tuple_attribute(_TUPLE_REPLY, TCP, inverse),
        netlink.u32(_TIMEOUT, _TIMEOUT_S),
        nested(_PROTOINFO, nested(_PROTOINFO_TCP, netlink.u8(_TCP_STATE, SYN_SENT))),
        _translation(_NAT_SRC, source, *_PORTS),
        _translation(_NAT_DST, backend, port, port),
        *((netlink.u32(_MARK, mark),) if mark else ()),
    )


def _translation(kind: int, address: bytes, low: int, high: int) -> bytes:
    minimum = _NAT_V4_MINIP if len(address) == 4 else _NAT_V6_MINIP
    return nested(
        kind,
        attribute(minimum, address),
        nested(_NAT_PROTO, netlink.u16(_NAT_PORT_MIN, low), netlink.u16(_NAT_PORT_MAX, high)),
    )


# -- the filter ------------------------------------------------------------------------------------

_INSTRUCTION = Struct("=HBBI")
#: Of classic BPF: load a number, load the byte order of the network at X, AND, TAX, jump, return.
_LD_IMM, _LDX_IMM, _LD_ABS, _LD_IND = 0x00, 0x01, 0x20, 0x40
_AND, _TAX, _JEQ, _RET = 0x54, 0x07, 0x15, 0x06
#: Where the offset of attribute X from A on is found.
_NLATTR = 0xFFFFF000 + 12


def mark_filter(mask: int) -> bytes:
    """A socket filter (classic BPF) that passes only events of connections whose mark has bits of
    `mask`."""
    program = (
        (_LD_IMM, 0, 0, netlink.NETFILTER_BODY),
        (_LDX_IMM, 0, 0, _MARK),
        (_LD_ABS, 0, 0, _NLATTR),  # A: offset of the attribute, 0: none
        (_JEQ, 5, 0, 0),
        (_TAX, 0, 0, 0),
        (_LD_IND, 0, 0, 4),
        (_AND, 0, 0, mask),
        (_JEQ, 1, 0, 0),
        (_RET, 0, 0, 0xFFFFFFFF),
        (_RET, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*one) for one in program)
