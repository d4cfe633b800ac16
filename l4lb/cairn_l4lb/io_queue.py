"""The queues of NFQUEUE that the steering process reads: one socket for all of them."""

import errno
import os
import socket
from collections.abc import Callable, Iterator

from cairn_core.errors import Unavailable

from . import netlink, nfqueue
from .io_netlink import force_buffers

#: Of each packet: a SYN with all options that TCP and IP may have, so that it can be sent again.
COPY_BYTES = 160
#: A message with such a packet is shorter, and Python has small objects ready.
_READ_BYTES = 472
_BUFFER_BYTES = 64 * 1024 * 1024
_PATIENCE_S = 10.0


class Queues:
    """All queues from the first to the last number, in the namespace of the calling thread."""

    def __init__(self, first: int, last: int, length: int, fail_open: bool) -> None:
        """Raises Unavailable, as when another process has one of them."""
        self._numbers = range(first, last + 1)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETFILTER)
        try:
            self._socket.bind((0, 0))
            force_buffers(self._socket, _BUFFER_BYTES)
            self._early: list[bytes] = []
            self._sequence = 0
            self._set(nfqueue.bind, length, fail_open)
        except BaseException:
            self._socket.close()
            raise

    def configure(self, length: int, fail_open: bool) -> None:
        """So many packets may wait in each; whether more pass unseen or vanish."""
        self._set(nfqueue.configure, length, fail_open)

    def _set(
        self, build: Callable[[int, int, int, bool], bytes], length: int, fail_open: bool
    ) -> None:
        for number in self._numbers:
            error = self._request(build(number, COPY_BYTES, length, fail_open))
            if error in (errno.EBUSY, errno.EPERM):
                raise Unavailable(f"queue {number} is taken by another process")
            if error:
                raise Unavailable(f"queue {number} cannot be had: {os.strerror(error)}")

    def _request(self, message: bytes) -> int:
        """Its error; packets that come before it are kept."""
        self._sequence += 1
        data = netlink.with_sequence(message, self._sequence)
        self._socket.settimeout(_PATIENCE_S)
        try:
            self._socket.send(data)
            while True:
                data = self._socket.recv(_READ_BYTES)
                found = next(netlink.messages(data))
                if found.kind == netlink.ERROR and found.sequence == self._sequence:
                    return found.errno
                self._early.append(data)
        finally:
            self._socket.settimeout(0)

    def fileno(self) -> int:
        """For epoll."""
        return self._socket.fileno()

    def receive(self, limit: int) -> Iterator[bytes]:
        """Up to `limit` messages of those that wait.  Raises OSError ENOBUFS when some were lost,
        which then passed or vanished as `fail_open` says."""
        early = self._early
        while early and limit:
            limit -= 1
            yield early.pop(0)
        receive, flag = self._socket.recv, socket.MSG_DONTWAIT
        try:
            for _ in range(limit):
                yield receive(_READ_BYTES, flag)
        except BlockingIOError:
            return

    def send(self, data: bytes) -> None:
        """Verdicts, and messages of conntrack between them; done in this order when it returns."""
        self._socket.send(data)

    def close(self) -> None:
        """Give the queues back; what waits in them is dropped."""
        self._socket.close()
