"""Answers over UDP: takes what is there, answers it at once, and hands on what is not ours."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import TypeAlias

from .answer import Answerer, Foreign
from .io_mmsg import QUERY_BYTES, REPLY_BYTES, SLOTS, Batch, Client
from .rate import SLIP, Limiter, slip
from .stats import Histogram

#: What is done with a query that is not ours: (query, replies to fall back on, client, send).
#: `send` is called once, later or at once, or never.
ForeignHandler: TypeAlias = Callable[[bytes, Foreign, Client, Callable[[bytes], None]], object]

#: Bytes that the kernel queues for us while we do something else.
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
#: Where each slot's query and reply start.
_PLACES = [(i, i * QUERY_BYTES, i * REPLY_BYTES) for i in range(SLOTS)]


def bind_udp(address: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket for `UdpServer`.  Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        _enlarge(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _enlarge(sock: socket.socket) -> None:
    """Large buffers; without the right to go beyond the system's limit, what it allows."""
    for force, plain in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, RECEIVE_BUFFER_BYTES)
        except PermissionError:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, plain, RECEIVE_BUFFER_BYTES)


class UdpServer:
    """Serves one bound socket, which it closes at the end.

    limiter: how many answers strangers get; None: any number.
    """

    def __init__(
        self,
        sock: socket.socket,
        answerer: Answerer,
        foreign: ForeignHandler,
        limiter: Limiter | None = None,
    ) -> None:
        #: Datagrams that came; of these handed on, limited, and those whose reply was not taken.
        self.queries = self.foreign = self.limited = self.unsent = 0
        #: From when a batch was taken until its replies were sent.
        self.latency = Histogram()
        self._socket, self._batch = sock, Batch(sock)
        self.answerer, self._handle, self.limiter = answerer, foreign, limiter

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop`."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._readable)
        try:
            await stop.wait()
        finally:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        batch = self._batch
        count = batch.receive()
        if not count:
            return
        started = perf_counter()
        self.queries += count
        answer = self.answerer.answer
        queries, replies = batch.queries, batch.replies
        lengths, sizes = batch.lengths, batch.sizes
        limiter = self.limiter
        first = 0
        for slot, query_at, reply_at in _PLACES[:count]:
            query = queries[query_at : query_at + lengths[slot]]
            if limiter is None or not (verdict := limiter.verdict(batch.source(slot), started)):
                reply = answer(query)
            else:
                self.limited += 1
                reply = slip(query) if verdict == SLIP else None
            if isinstance(reply, bytes):
                size = sizes[slot] = len(reply)
                replies[reply_at : reply_at + size] = reply
                continue
            # a gap: what is before it goes out by itself
            self.unsent += slot - first - batch.send(first, slot)
            first = slot + 1
            if reply is not None:
                self._hand_on(query, reply, slot)
        self.unsent += count - first - batch.send(first, count)
        self.latency.add(perf_counter() - started, count)

    def _hand_on(self, query: bytes, reply: Foreign, slot: int) -> None:
        self.foreign += 1
        client = self._batch.client(slot)
        self._handle(query, reply, client, self._batch.later(slot, client))
