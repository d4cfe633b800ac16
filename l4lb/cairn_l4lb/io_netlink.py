"""A netlink socket for requests: sends some, and collects what the kernel answers."""

import os
import socket
from collections.abc import Iterable
from struct import Struct

from . import netlink
from .netlink import Message

SOL_NETLINK = 270
ADD_MEMBERSHIP, NO_ENOBUFS, EXT_ACK, CAP_ACK = 1, 5, 11, 10
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
#: A datagram of the kernel is never longer.
_READ_BYTES = 1024 * 1024
#: The kernel answers at once; whoever waits longer found a bug, seconds.
_PATIENCE_S = 10
_TIMEVAL = Struct("@ll")


class Netlink:
    """A socket of one netlink family in the network namespace of the calling thread.

    Not for several threads at a time.  Blocks for as long as the kernel works.
    """

    def __init__(self, family: int = netlink.NETFILTER, buffer_bytes: int = 4 << 20) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        force_buffers(self._socket, buffer_bytes)
        # not settimeout(), with which every read would be two system calls
        patience = _TIMEVAL.pack(_PATIENCE_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        self._buffer = bytearray(_READ_BYTES)
        self._sequence = 0

    @property
    def port(self) -> int:
        """What the kernel calls this socket when it tells others what it did."""
        port: int = self._socket.getsockname()[0]
        return port

    def next_sequence(self) -> int:
        """A sequence number for the next message, from 1."""
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def request(self, message: bytes) -> list[Message]:
        """Send one message, which has `ACK` or `DUMP` among its flags; what it is answered.

        Raises OSError as the kernel says, Malformed, TimeoutError.
        """
        sequence = self.next_sequence()
        # sequence numbers are ours, so that nobody reads the late answer of an earlier request
        return self.exchange(netlink.with_sequence(message, sequence), sequence)

    def exchange(self, data: netlink.Buffer, sequence: int) -> list[Message]:
        """Send messages that have this number already; one at the end is to be answered.

        Raises OSError for the first that the kernel refuses, Malformed, TimeoutError.
        """
        self._socket.send(data)
        return list(self._answers(sequence))

    def _answers(self, sequence: int) -> Iterable[Message]:
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                raise TimeoutError("netlink does not answer") from None
            for found in netlink.messages(bytes(memoryview(self._buffer)[:size])):
                if found.sequence != sequence:
                    continue
                if found.errno:
                    raise OSError(found.errno, os.strerror(found.errno))
                if found.kind in (netlink.ERROR, netlink.DONE):
                    return
                yield found

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def force_buffers(sock: socket.socket, size: int) -> None:
    """Have socket buffers of this many bytes, beyond the host's limit where we may."""
    for forced, asked in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, asked, size)
