"""Many datagrams with one system call: recvmmsg(2) and sendmmsg(2), which Python does not have.

All memory is set up once.  Slot i of what comes in and slot i of what goes out share the address
of the client and, on a wildcard address, the address of ours that was asked (IP_PKTINFO, ip(7),
RFC 3542): an answer leaves from where its query came to, and nobody reads an address on the way.
"""

import ctypes
import errno
import mmap
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

#: Datagrams of one call.
SLOTS = 64
#: Bytes of a slot.  Longer queries are cut, and then malformed.
QUERY_BYTES = 4096
REPLY_BYTES = 4096
#: From linux/in.h and linux/in6.h.
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Mmsghdr(ctypes.Structure):
    _fields_ = [("header", _Msghdr), ("length", ctypes.c_uint)]


class _Cmsghdr(ctypes.Structure):
    _fields_ = [("length", ctypes.c_size_t), ("level", ctypes.c_int), ("kind", ctypes.c_int)]


_WORD = ctypes.sizeof(ctypes.c_size_t)
if ctypes.sizeof(_Mmsghdr) != {4: 32, 8: 64}.get(_WORD):
    raise ImportError(f"struct mmsghdr has an unknown layout: {ctypes.sizeof(_Mmsghdr)} bytes")
_CMSG = ctypes.sizeof(_Cmsghdr)
_HEADER_BYTES = ctypes.sizeof(_Mmsghdr)
_LENGTH_STEP = _HEADER_BYTES // 4
_LENGTH_AT = _Mmsghdr.length.offset // 4
_NONE = memoryview(bytes(4 * SLOTS)).cast("I")
_libc = ctypes.CDLL(None, use_errno=True)
_receive, _send = _libc.recvmmsg, _libc.sendmmsg
_receive.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
_send.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


class Client(NamedTuple):
    """Who asked."""

    host: str
    port: int
    #: IPv6: the scope of a link-local address.
    scope: int = 0


class Batch:
    """The buffers of one bound, non-blocking UDP socket.

    After `receive` has returned n, the first n slots hold queries.  What is put into slot i of
    the replies goes to who sent query i, when slot i is sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._fd = sock, sock.fileno()
        self._v6 = sock.family == socket.AF_INET6
        self._name_bytes = 28 if self._v6 else 16
        wildcard = sock.getsockname()[0] in ("0.0.0.0", "::")
        if wildcard and self._v6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        elif wildcard:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        # cmsghdr and in6_pktinfo or in_pktinfo, padded to words
        payload = 20 if self._v6 else 12
        self._control_bytes = _CMSG + -(-payload // _WORD) * _WORD if wildcard else 0
        self._names = _memory(self._name_bytes)
        self._controls = _memory(self._control_bytes)
        #: Where queries are and replies go: each slot `QUERY_BYTES` or `REPLY_BYTES` long.
        self.queries, self.replies = _memory(QUERY_BYTES), _memory(REPLY_BYTES)
        incoming, asked = self._headers(self.queries, QUERY_BYTES)
        outgoing, answered = self._headers(self.replies, REPLY_BYTES)
        #: What only the kernel looks at, by address.
        self._kept = incoming, asked, outgoing, answered
        self._in_at, self._out_at = _address(incoming), _address(outgoing)
        # the kernel writes over the lengths that it is given
        self._template = bytes(incoming)
        self._lengths = memoryview(incoming).cast("I")
        self._sizes = memoryview(answered).cast("L")
        self._interfaces = memoryview(self._controls).cast("I")

    @property
    def lengths(self) -> memoryview:
        """Bytes of each query."""
        return self._lengths[_LENGTH_AT::_LENGTH_STEP]

    @property
    def sizes(self) -> memoryview:
        """Bytes of each reply, to be set."""
        return self._sizes[1::2]

    def receive(self) -> int:
        """Take what is there; the number of queries, 0 when there are none."""
        ctypes.memmove(self._in_at, self._template, len(self._template))
        # an error left by an earlier reply, such as ECONNREFUSED, is told once and then gone
        count: int = _receive(self._fd, self._in_at, SLOTS, 0, None)
        if count > 0 and self._control_bytes:
            self._forget_interfaces(count)
        return max(count, 0)

    def send(self, first: int, end: int) -> int:
        """Send the replies of slots first to end - 1; returns how many went out.

        One that the kernel does not take is left out: its client asks again.
        """
        sent = 0
        while first < end:
            count = _send(self._fd, self._out_at + first * _HEADER_BYTES, end - first, 0)
            if count > 0:
                sent += count
                first += count
            elif ctypes.get_errno() != errno.EINTR:
                first += 1
        return sent

    def source(self, slot: int) -> bytes:
        """The address that a query came from, 4 or 16 bytes."""
        at = slot * self._name_bytes
        return self._names[at + 8 : at + 24] if self._v6 else self._names[at + 4 : at + 8]

    def client(self, slot: int) -> Client:
        """Who sent a query."""
        at = slot * self._name_bytes
        port = self._names[at + 2] << 8 | self._names[at + 3]
        if not self._v6:
            return Client(str(IPv4Address(self.source(slot))), port)
        scope = int.from_bytes(self._names[at + 24 : at + 28], sys.byteorder)
        return Client(str(IPv6Address(self.source(slot))), port, scope)

    def later(self, slot: int, client: Client) -> Callable[[bytes], None]:
        """What sends a reply to a query, also when its slot has another."""
        address = (client.host, client.port, 0, client.scope) if self._v6 else client[:2]
        at, size = slot * self._control_bytes + _CMSG, 20 if self._v6 else 12
        control = []
        if self._control_bytes:
            kind = (socket.IPPROTO_IPV6, _IPV6_PKTINFO) if self._v6 else (0, _IP_PKTINFO)
            control = [(*kind, self._controls[at : at + size])]

        def send(reply: bytes) -> None:
            # a full buffer, a client that is gone, a socket that was closed meanwhile
            with suppress(OSError):
                self._socket.sendmsg([reply], control, 0, address)

        return send

    def _headers(self, data: mmap.mmap, step: int) -> tuple[mmap.mmap, mmap.mmap]:
        """Memory for the mmsghdr and iovec of each slot, filled in."""
        headers, parts = _memory(_HEADER_BYTES), _memory(ctypes.sizeof(_Iovec))
        header_list = (_Mmsghdr * SLOTS).from_buffer(headers)
        part_list = (_Iovec * SLOTS).from_buffer(parts)
        for i in range(SLOTS):
            part_list[i] = _Iovec(_address(data) + i * step, step)
            control = _address(self._controls) + i * self._control_bytes
            header_list[i].header = _Msghdr(
                _address(self._names) + i * self._name_bytes, self._name_bytes,
                _address(parts) + i * ctypes.sizeof(_Iovec), 1,
                control if self._control_bytes else None, self._control_bytes, 0,
            )  # fmt: skip
        return headers, parts

    def _forget_interfaces(self, count: int) -> None:
        """Let routes decide where a reply leaves, except where only the interface can say."""
        step = self._control_bytes // 4
        if not self._v6:
            first = _CMSG // 4
            self._interfaces[first : first + count * step : step] = _NONE[:count]
            return
        for i in range(count):
            at = i * self._control_bytes + _CMSG
            if self._controls[at : at + 2] != b"\xfe\x80":
                self._interfaces[i * step + _CMSG // 4 + 4] = 0


def _memory(slot_bytes: int) -> mmap.mmap:
    """Memory for all slots that keeps its place."""
    return mmap.mmap(-1, SLOTS * slot_bytes or 4)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
