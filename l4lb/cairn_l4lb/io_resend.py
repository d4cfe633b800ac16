"""Sending a SYN again, as if its client had."""

import socket
from struct import Struct

_SO_MARK = 36
_MARK = Struct("=I")


class Resender:
    """Raw sockets for whole packets, in the namespace of the calling thread.

    A packet goes the way of local ones, whoever its source is, and comes to the queues again.
    """

    def __init__(self) -> None:
        self._ipv4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._ipv6 = self._make_ipv6()

    @staticmethod
    def _make_ipv6() -> socket.socket | None:
        try:
            return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        except OSError:
            return None  # a host without IPv6

    def send(self, packet: bytes, mark: int) -> bool:
        """Send a whole IP packet with this mark; False when the host does not."""
        if packet[0] >> 4 == 4:
            sock, family, destination = self._ipv4, socket.AF_INET, packet[16:20]
        elif self._ipv6 is not None:
            sock, family, destination = self._ipv6, socket.AF_INET6, packet[24:40]
        else:
            return False
        try:
            sock.sendmsg(
                [packet],
                [(socket.SOL_SOCKET, _SO_MARK, _MARK.pack(mark))],
                socket.MSG_DONTWAIT,
                (socket.inet_ntop(family, destination), 0),
            )
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the sockets back."""
        self._ipv4.close()
        if self._ipv6 is not None:
            self._ipv6.close()
