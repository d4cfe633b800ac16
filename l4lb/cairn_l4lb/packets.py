"""What we need of an IP packet: whose it is, and whether it is a SYN or a RST.

Documents: RFC 791, RFC 8200, RFC 9293, RFC 768.
"""

from struct import Struct
from typing import NamedTuple

TCP, UDP = 6, 17
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

_IPV4, _IPV6 = 4, 6
_IPV4_BYTES, _IPV6_BYTES, _TCP_BYTES, _UDP_BYTES = 20, 40, 20, 8
_FRAGMENT_OFFSET, _FRAGMENT_OFFSET6 = 0x1FFF, 0xFFF8
#: Headers of IPv6 that may stand before that of TCP: options of each hop, routing, fragment,
#: options of the destination.
_HOPS, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_MAX_HEADERS = 8
_U16 = Struct("!H")
_U32 = Struct("!I")


class Packet(NamedTuple):
    """protocol: TCP or UDP. flow: source address, destination address, source port, destination
    port, as on the wire, 12 or 36 bytes. sequence, flags: of TCP; else 0."""

    protocol: int
    flow: bytes
    sequence: int
    flags: int


def parse(data: bytes) -> Packet | None:
    """The beginning of a packet, from its IP header on; None for what is neither TCP nor UDP, is
    cut off before the fields that we need, or is a fragment but the first."""
    # nearly all are without options, and then all of a flow is in one piece
    if len(data) >= 34 and data[0] == 0x45 and data[9] == TCP:
        if _U16.unpack_from(data, 6)[0] & _FRAGMENT_OFFSET:
            return None
        return Packet(TCP, data[12:24], _U32.unpack_from(data, 24)[0], data[33])
    if not data:
        return None
    version = data[0] >> 4
    if version == _IPV4:
        return _ipv4(data)
    return _ipv6(data) if version == _IPV6 else None


def _ipv4(data: bytes) -> Packet | None:
    at = (data[0] & 0xF) * 4
    if at < _IPV4_BYTES or len(data) < at or _U16.unpack_from(data, 6)[0] & _FRAGMENT_OFFSET:
        return None
    return _transport(data, data[9], at, data[12:20])


def _ipv6(data: bytes) -> Packet | None:
    if len(data) < _IPV6_BYTES:
        return None
    protocol, at = data[6], _IPV6_BYTES
    for _ in range(_MAX_HEADERS):
        if protocol not in (_HOPS, _ROUTING, _FRAGMENT, _DESTINATION):
            return _transport(data, protocol, at, data[8:40])
        if len(data) < at + 8:
            return None
        if protocol == _FRAGMENT:
            if _U16.unpack_from(data, at + 2)[0] & _FRAGMENT_OFFSET6:
                return None
            size = 8
        else:
            size = (data[at + 1] + 1) * 8
        protocol, at = data[at], at + size
    return None


def _transport(data: bytes, protocol: int, at: int, addresses: bytes) -> Packet | None:
    if protocol == TCP and len(data) >= at + 14:
        sequence = _U32.unpack_from(data, at + 4)[0]
        return Packet(TCP, addresses + data[at : at + 4], sequence, data[at + 13])
    if protocol == UDP and len(data) >= at + 4:
        return Packet(UDP, addresses + data[at : at + 4], 0, 0)
    return None


def whole(data: bytes) -> bytes | None:
    """The packet, if all of it is in `data`, so that it can be sent again; else None."""
    if len(data) < _IPV4_BYTES:
        return None
    version = data[0] >> 4
    if version == _IPV4:
        size = _U16.unpack_from(data, 2)[0]
    elif version == _IPV6 and len(data) >= _IPV6_BYTES:
        size = _U16.unpack_from(data, 4)[0] + _IPV6_BYTES
    else:
        return None
    return data[:size] if _IPV4_BYTES <= size <= len(data) else None


def addresses_of(flow: bytes) -> tuple[bytes, bytes]:
    """Source and destination address of a flow."""
    size = (len(flow) - 4) // 2
    return flow[:size], flow[size : 2 * size]
