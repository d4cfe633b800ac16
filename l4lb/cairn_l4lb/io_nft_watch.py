"""Hears that somebody else changed rules of this host: `nft flush ruleset`, iptables, docker.

The kernel tells a netlink group of each transaction; all but its last message, which counts the
generation, and all of ours are dropped by a filter before they wake anybody.  Sets of ipset have no
such events.

Documents: linux/netfilter/nfnetlink.h, linux/filter.h.
"""

import asyncio
import ctypes
import socket
import sys
from contextlib import suppress
from struct import Struct

from . import netlink
from .io_netlink import ADD_MEMBERSHIP, SOL_NETLINK

#: NFNLGRP_NFTABLES, and the message that ends a transaction.
_GROUP = 7
_NEWGEN = netlink.NFTABLES << 8 | 15
_SO_ATTACH_FILTER = 26
_READ_BYTES = 256
#: Events read at once; those that wait beyond are read the next time.
_MAX_EVENTS = 10_000

_INSTRUCTION = Struct("=HBBI")
#: Of classic BPF: load half a word, a word; jump if equal; return.
_LDH, _LDW, _JEQ, _RET = 0x28, 0x20, 0x15, 0x06
#: Of a netlink header: the kind of the message, and the socket that asked for what it tells.
_KIND_AT, _PORT_AT = 4, 12


class _Program(ctypes.Structure):
    """sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class NftWatch:
    """Changes of rules by others, in the calling thread's network namespace.

    own: netlink socket (`Kernel.port`) whose changes are not told. Raises OSError.
    """

    def __init__(self, own: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETFILTER)
        try:
            self._socket.setblocking(False)
            code = _filter(own)
            program = _Program(len(code) // _INSTRUCTION.size, code)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, _GROUP)
        except BaseException:
            self._socket.close()
            raise

    async def wait(self) -> None:
        """Wait until somebody changed something since the last `clear`."""
        # some that were lost are as good as one that is there
        with suppress(OSError):
            await asyncio.get_running_loop().sock_recv(self._socket, _READ_BYTES)

    def clear(self) -> None:
        """Forget what was told until now."""
        for _ in range(_MAX_EVENTS):
            try:
                self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENOBUFS: there were more

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def _filter(own: int) -> bytes:
    """Passes only the end of a transaction that another socket asked for."""
    # loads take network byte order, and netlink headers are in that of the machine
    order = sys.byteorder
    kind = int.from_bytes(_NEWGEN.to_bytes(2, order), "big")
    port = int.from_bytes(own.to_bytes(4, order), "big")
    program = (
        (_LDH, 0, 0, _KIND_AT),
        (_JEQ, 0, 3, kind),
        (_LDW, 0, 0, _PORT_AT),
        (_JEQ, 1, 0, port),
        (_RET, 0, 0, 0xFFFFFFFF),
        (_RET, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*one) for one in program)
