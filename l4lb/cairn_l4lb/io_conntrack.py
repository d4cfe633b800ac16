"""Conntrack: the events of our connections, and single entries."""

import ctypes
import errno
import socket
from collections.abc import Iterator

from . import conntrack, netlink
from .conntrack import REPLACEABLE, Entry
from .io_netlink import ADD_MEMBERSHIP, SOL_NETLINK, Netlink, force_buffers
from .packets import TCP

#: An event with all that a connection may have is shorter.
_READ_BYTES = 1000
_SO_ATTACH_FILTER = 26


class _Program(ctypes.Structure):
    """sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Events:
    """Events of connections whose mark has one of our bits, in the calling thread's namespace.

    Those lost because we did not keep up are told by ENOBUFS: what is known of them is found out
    by time, so they need not be asked for again.
    """

    def __init__(self, mask: int, buffer_bytes: int = 32 << 20) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._socket.setblocking(False)
            force_buffers(self._socket, buffer_bytes)
            self.filter(mask)
            for group in conntrack.GROUPS:
                self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
        except BaseException:
            self._socket.close()
            raise

    def filter(self, mask: int) -> None:
        """Take these bits for ours; the kernel drops all others' events."""
        code = conntrack.mark_filter(mask)
        program = _Program(len(code) // 8, code)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))

    def fileno(self) -> int:
        """For epoll."""
        return self._socket.fileno()

    def receive(self, limit: int) -> Iterator[bytes]:
        """Up to `limit` messages of those that wait.  Raises OSError ENOBUFS when some were
        lost."""
        receive = self._socket.recv
        try:
            for _ in range(limit):
                yield receive(_READ_BYTES)
        except BlockingIOError:
            return

    def close(self) -> None:
        """No more events."""
        self._socket.close()


class Entries:
    """Single entries of conntrack; every call waits for the kernel, some 10 microseconds."""

    def __init__(self) -> None:
        self._netlink = Netlink()

    def look(self, protocol: int, flow: bytes) -> Entry | None:
        """The entry of a flow; None when there is none, or it cannot be read."""
        try:
            answers = self._netlink.request(conntrack.get(protocol, flow))
            if not answers:
                return None
            return conntrack.parse_entry(answers[0].body[netlink.NETFILTER_HEADER.size :])
        except (OSError, netlink.Malformed):
            return None

    def delete(self, protocol: int, flow: bytes) -> bool:
        """Delete it; False when it was not there."""
        try:
            self._netlink.request(conntrack.delete(protocol, flow, ack=True))
        except OSError:
            return False
        return True

    def create(self, flow: bytes, source: bytes, backend: bytes, port: int, mark: int) -> bool:
        """Make the entry of a TCP connection; in the place of one that is over, or whose SYN was
        never answered, so that a client's port can be used again.  False when one still lives."""
        # Differs: the original leaves any entry, and a reused port goes to the old backend
        message = conntrack.create(flow, source, backend, port, mark)
        error = self._try(message)
        if error == errno.EEXIST:
            entry = self.look(TCP, flow)
            if entry is not None and entry.tcp_state not in REPLACEABLE:
                return False
            self.delete(TCP, flow)
            error = self._try(message)
        return not error

    def _try(self, message: bytes) -> int:
        try:
            self._netlink.request(message)
        except OSError as problem:
            return problem.errno or errno.EIO
        return 0

    def close(self) -> None:
        """Give the socket back."""
        self._netlink.close()
