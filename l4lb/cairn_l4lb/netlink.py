"""Netlink messages: building them, and taking them apart without trusting them.

A message is a header of 16 bytes and a body; those of netfilter begin their body with 4 bytes more
(family, version, resource).  Attributes follow, each with its length and kind.  Lengths and kinds
are in the byte order of the machine, most values of netfilter in that of the network.

Documents: netlink(7), linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

#: Message flags.
REQUEST, MULTI, ACK, ECHO = 0x1, 0x2, 0x4, 0x8
DUMP = 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
#: Kinds of messages that every netlink family has.
NOOP, ERROR, DONE, OVERRUN = 1, 2, 3, 4
#: Netlink families.
ROUTE, NETFILTER = 0, 12
#: Subsystems of netfilter, and the messages around a batch.
CTNETLINK, QUEUE, IPSET, NFTABLES = 1, 3, 6, 10
BATCH_BEGIN, BATCH_END = 0x10, 0x11
#: Address families: any, IPv4, IPv6.
UNSPEC, INET, INET6 = 0, 2, 10

#: Length, kind, flags, sequence number, port.
HEADER = Struct("=IHHII")
#: Of netfilter: family, version, resource.
NETFILTER_HEADER = Struct("!BBH")
#: Where attributes of a netfilter message begin.
NETFILTER_BODY = HEADER.size + NETFILTER_HEADER.size
_ATTRIBUTE = Struct("=HH")
_U16, _U32, _U64 = Struct("!H"), Struct("!I"), Struct("!Q")
_ERRNO = Struct("=i")
_SEQUENCE = Struct("=I")
_NESTED = 0x8000
#: Without the bits for "nested" and "in network byte order".
_KIND = 0x3FFF
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")


class Malformed(ValueError):
    """What came is no netlink message of this kind."""


class Message(NamedTuple):
    """One message.  body: without the header of 16 bytes."""

    kind: int
    flags: int
    sequence: int
    body: Buffer

    @property
    def subsystem(self) -> int:
        """Of netfilter."""
        return self.kind >> 8

    @property
    def command(self) -> int:
        """Within its subsystem."""
        return self.kind & 0xFF

    @property
    def errno(self) -> int:
        """What an `ERROR` reports, as in errno(3); 0: an acknowledgement, or another message."""
        if self.kind != ERROR:
            return 0
        if len(self.body) < _ERRNO.size:
            raise Malformed(f"error message is too short: {len(self.body)} bytes")
        number: int = _ERRNO.unpack_from(self.body)[0]
        return -number

    def attributes(self) -> dict[int, Buffer]:
        """Of a netfilter message; the last one of a kind counts."""
        return dict(attributes(self.body, NETFILTER_HEADER.size))


# -- building --------------------------------------------------------------------------------------


def attribute(kind: int, data: Buffer = b"") -> bytes:
    """An attribute with its padding.  Raises ValueError for more data than 65,531 bytes."""
    size = _ATTRIBUTE.size + len(data)
    if size > 0xFFFF:
        raise ValueError(f"attribute {kind} is too long: {len(data)} bytes")
    return b"".join((_ATTRIBUTE.pack(size, kind), data, _PAD[size & 3]))


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return attribute(kind, bytes((value,)))


def u16(kind: int, value: int) -> bytes:
    """An attribute of two bytes in network byte order."""
    return attribute(kind, _U16.pack(value))


def u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes in network byte order."""
    return attribute(kind, _U32.pack(value))


def u64(kind: int, value: int) -> bytes:
    """An attribute of eight bytes in network byte order."""
    return attribute(kind, _U64.pack(value))


def text(kind: int, value: str) -> bytes:
    """An attribute of a text that ends with a zero."""
    return attribute(kind, value.encode() + b"\0")


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """A message of any family; its body is a multiple of 4 bytes long."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def with_sequence(data: bytes, sequence: int) -> bytes:
    """The message with another sequence number."""
    return data[:8] + _SEQUENCE.pack(sequence) + data[12:]


def netfilter(
    subsystem: int,
    command: int,
    flags: int,
    *parts: bytes,
    family: int = UNSPEC,
    resource: int = 0,
    sequence: int = 0,
) -> bytes:
    """A message of netfilter; `parts` are its attributes, `REQUEST` is added to the flags."""
    body = NETFILTER_HEADER.pack(family, 0, resource) + b"".join(parts)
    return message(subsystem << 8 | command, flags | REQUEST, body, sequence)


# -- taking apart ----------------------------------------------------------------------------------


def messages(data: Buffer) -> Iterator[Message]:
    """The messages of one datagram.  Raises Malformed at the first that is not whole."""
    at, end = 0, len(data)
    while at < end:
        if end - at < HEADER.size:
            raise Malformed(f"message is cut off: {end - at} bytes")
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if not HEADER.size <= size <= end - at:
            raise Malformed(f"message claims {size} of {end - at} bytes")
        yield Message(kind, flags, sequence, data[at + HEADER.size : at + size])
        at += size + 3 & ~3


def attributes(data: Buffer, at: int = 0) -> Iterator[tuple[int, Buffer]]:
    """Kind and value of the attributes from `at` on.  Raises Malformed for a cut one."""
    end = len(data)
    while at < end:
        if end - at < _ATTRIBUTE.size:
            raise Malformed(f"attribute is cut off: {end - at} bytes")
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= size <= end - at:
            raise Malformed(f"attribute claims {size} of {end - at} bytes")
        yield kind & _KIND, data[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3


def number(data: Buffer) -> int:
    """A value of 1 to 8 bytes in network byte order.  Raises Malformed for another length."""
    if not 1 <= len(data) <= 8:
        raise Malformed(f"number has {len(data)} bytes")
    return int.from_bytes(data, "big")
