"""Messages of NFQUEUE: binding a queue, a packet that waits in it, and the verdict on it.

A verdict is put together from pieces that are ready: what is particular to a packet is its number,
its queue and the mark.  Many verdicts may go in one send.

Documents: linux/netfilter/nfnetlink_queue.h.
"""

from struct import Struct
from typing import NamedTuple

from . import netlink
from .netlink import Malformed

DROP, ACCEPT = 0, 1
#: Hooks: a packet that comes, and one that a local process sent.
PREROUTING, OUTPUT = 0, 3
_PACKET, _VERDICT, _CONFIG = 0, 1, 2
#: Kind of a message with a packet, as in its header.
PACKET_KIND = netlink.QUEUE << 8 | _PACKET

_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_BIND, _UNBIND = 1, 2
_COPY_PACKET = 2
#: A flag of a queue: packets pass while it is full.
FAIL_OPEN = 0x1

_PACKET_HDR, _VERDICT_HDR, _MARK, _PAYLOAD = 1, 2, 3, 10
_COMMAND, _PARAMS = Struct("!BxH"), Struct("!IB")
_ATTRIBUTE = Struct("=HH")
_HEADER = Struct("=IH")
_FIRST = Struct("=HH").pack(11, _PACKET_HDR)
_U32 = Struct("!I")
#: Of the network header, the number, and the hook within a message.
_AT_QUEUE, _AT_FIRST, _AT_NUMBER, _AT_HOOK, _AT_NEXT = 18, 20, 24, 30, 32


class Waiting(NamedTuple):
    """A packet in a queue.

    queue, number: as in its message, for the verdict. payload: as much of it as was asked for.
    """

    queue: bytes
    number: bytes
    hook: int
    mark: int
    payload: bytes


def bind(queue: int, copy_bytes: int, length: int, fail_open: bool) -> bytes:
    """Have the packets of a queue; the rest is as for `configure`, and all takes effect at once."""
    command = netlink.attribute(_CFG_CMD, _COMMAND.pack(_BIND, 0))
    return _config(queue, command, *_parameters(copy_bytes, length, fail_open))


def unbind(queue: int) -> bytes:
    """No longer; what waits in it is dropped."""
    return _config(queue, netlink.attribute(_CFG_CMD, _COMMAND.pack(_UNBIND, 0)))


def configure(queue: int, copy_bytes: int, length: int, fail_open: bool) -> bytes:
    """Have so many bytes of each packet; `length` may wait, and whether more pass or vanish."""
    return _config(queue, *_parameters(copy_bytes, length, fail_open))


def _parameters(copy_bytes: int, length: int, fail_open: bool) -> tuple[bytes, ...]:
    return (
        netlink.attribute(_CFG_PARAMS, _PARAMS.pack(copy_bytes, _COPY_PACKET)),
        netlink.u32(_CFG_MAXLEN, length),
        netlink.u32(_CFG_MASK, FAIL_OPEN),
        netlink.u32(_CFG_FLAGS, FAIL_OPEN if fail_open else 0),
    )


def _config(queue: int, *parts: bytes) -> bytes:
    return netlink.netfilter(netlink.QUEUE, _CONFIG, netlink.ACK, *parts, resource=queue)


def parse(data: bytes) -> Waiting | None:
    """The packet of a message that is a datagram of its own, as the kernel sends them; None for
    another message.  Raises Malformed."""
    end = len(data)
    if end < _AT_NEXT:
        raise Malformed(f"packet message is cut off: {end} bytes")
    size, kind = _HEADER.unpack_from(data)
    if kind != PACKET_KIND:
        return None
    if size != end or data[_AT_FIRST:_AT_NUMBER] != _FIRST:
        raise Malformed(f"packet message of {end} bytes claims {size}, or has no header")
    mark, payload = 0, b""
    at = _AT_NEXT
    unpack = _ATTRIBUTE.unpack_from
    while at + 4 <= end:
        size, kind = unpack(data, at)
        after = at + size
        if size < 4 or after > end:
            raise Malformed(f"attribute claims {size} of {end - at} bytes")
        kind &= 0x3FFF
        if kind == _PAYLOAD:
            payload = data[at + 4 : after]
        elif kind == _MARK and size == 8:
            mark = _U32.unpack_from(data, at + 4)[0]
        at = after + 3 & ~3
    queue, number = data[_AT_QUEUE:_AT_FIRST], data[_AT_NUMBER : _AT_NUMBER + 4]
    return Waiting(queue, number, data[_AT_HOOK], mark, payload)


def number_of(data: bytes) -> tuple[bytes, bytes] | None:
    """Queue and number of a message with a packet that is otherwise malformed, so that it does
    not wait for ever; None when not even these are there."""
    if len(data) < _AT_HOOK or data[_AT_FIRST:_AT_NUMBER] != _FIRST:
        return None
    if _HEADER.unpack_from(data)[1] != PACKET_KIND:
        return None
    return data[_AT_QUEUE:_AT_FIRST], data[_AT_NUMBER : _AT_NUMBER + 4]


def _head(size: int) -> bytes:
    """Of a verdict, up to the queue's number."""
    return netlink.HEADER.pack(size, netlink.QUEUE << 8 | _VERDICT, netlink.REQUEST, 0, 0) + b"\0\0"


_PLAIN, _MARKED = _head(32), _head(40)
_HDR_HEAD = _ATTRIBUTE.pack(12, _VERDICT_HDR)
_ACCEPT_HEAD, _DROP_HEAD = _HDR_HEAD + _U32.pack(ACCEPT), _HDR_HEAD + _U32.pack(DROP)
_MARK_HEAD = _ATTRIBUTE.pack(8, _MARK)


def accept(queue: bytes, number: bytes) -> bytes:
    """Let a packet go on as it is."""
    return b"".join((_PLAIN, queue, _ACCEPT_HEAD, number))


def accept_marked(queue: bytes, number: bytes, mark: int) -> bytes:
    """Let a packet go on with this mark, 0 to 2^32 - 1."""
    return b"".join((_MARKED, queue, _ACCEPT_HEAD, number, _MARK_HEAD, _U32.pack(mark)))


def drop(queue: bytes, number: bytes) -> bytes:
    """Let a packet vanish."""
    return b"".join((_PLAIN, queue, _DROP_HEAD, number))
