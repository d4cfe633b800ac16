"""Answers over UDP: reads what is there, answers at once, forwards what is not ours.

One socket, drained in small batches, so that other work of the loop gets its turn.
"""

import asyncio
import logging
import socket
from contextlib import suppress

from .answer import Answerer, Foreign
from .io_forward import Forwarder

log = logging.getLogger(__name__)

#: Datagrams answered before the loop does something else.
BATCH = 64
#: Larger queries are cut, and then refused as malformed.
MAX_QUERY_BYTES = 4096
#: Bytes that the kernel queues for us while we build a zone.
RECEIVE_BUFFER_BYTES = 1024 * 1024


def bind_udp(address: str, port: int) -> socket.socket:
    """A socket for `UdpServer`.  Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        with suppress(OSError):  # more than the system allows; what it allows will do
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setblocking(False)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class UdpServer:
    """Serves one bound socket, which it closes at the end."""

    def __init__(self, sock: socket.socket, answerer: Answerer, forwarder: Forwarder) -> None:
        #: Datagrams that came, and that were forwarded.
        self.queries = 0
        self.forwarded = 0
        self._socket = sock
        self._answerer = answerer
        self._forwarder = forwarder
        self._group: asyncio.TaskGroup | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._group:
                loop.add_reader(self._socket, self._readable)
                await stop.wait()
                loop.remove_reader(self._socket)
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _readable(self) -> None:
        receive, answer = self._socket.recvfrom, self._answerer.answer
        for _ in range(BATCH):
            try:
                query, client = receive(MAX_QUERY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # An earlier answer was refused by its receiver; nothing to do with this one.
                continue
            self.queries += 1
            reply = answer(query)
            if isinstance(reply, bytes):
                self._send(reply, client)
            elif isinstance(reply, Foreign):
                self._foreign(query, reply, client)

    def _foreign(self, query: bytes, reply: Foreign, client: tuple[str, int]) -> None:
        if self._group is None or not self._forwarder.serves(client[0]):
            self._send(reply.refused, client)
            return
        self.forwarded += 1
        self._group.create_task(self._forward(query, reply, client))

    async def _forward(self, query: bytes, reply: Foreign, client: tuple[str, int]) -> None:
        self._send(await self._forwarder.ask(query) or reply.failed, client)

    def _send(self, data: bytes, client: tuple[str, int]) -> None:
        # A full socket buffer or an address that cannot be answered: the client asks again.
        with suppress(OSError):
            self._socket.sendto(data, client)
