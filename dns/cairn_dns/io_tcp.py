"""Answers over TCP (RFC 7766): for what does not fit into a datagram, and for whole zones.

A connection may carry many queries, and the answers of forwarded ones come when they come.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias, cast

from .answer import Answerer, Foreign
from .io_mmsg import Client
from .io_udp import ForeignHandler

#: Gives the messages of a whole zone for a query that asks for one; None for any other query.
TransferHandler: TypeAlias = Callable[[bytes, Client], Iterator[bytes] | None]

#: Connections that the kernel keeps for us.
BACKLOG = 512
#: Bytes of answers that may wait for a client; while they do none of its queries are read.
MAX_WAITING_BYTES = 256 * 1024
#: Queries of a connection that may wait for other servers; while they do none is read.
MAX_PENDING = 64
_SWEEP_S = 0.5


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """What clients may do.

    connections, per_client: at once, in all and of one address. queries: of one connection, which
    is closed then; 0: any. first_s, idle_s: how long it may take until a query is whole, the first
    one and others; nor may a client take longer for its answers.
    """

    connections: int = 1000
    per_client: int = 100
    queries: int = 0
    first_s: float = 2.0
    idle_s: float = 8.0


def bind_tcp(address: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket for `TcpServer`.  Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class TcpServer:
    """Serves one listening socket, which it closes at the end."""

    def __init__(
        self,
        sock: socket.socket,
        answerer: Answerer,
        foreign: ForeignHandler,
        limits: TcpLimits | None = None,
        transfer: TransferHandler | None = None,
    ) -> None:
        #: Queries that came; of these handed on; connections that were made, that were too many,
        #: and that were cut because their client was slow.
        self.queries = self.foreign = self.accepted = self.refused = self.cut = 0
        self.limits = limits or TcpLimits()
        self.answerer, self.hand_on, self.transfer = answerer, foreign, transfer
        self._socket = sock
        self.open: set[_Connection] = set()
        self.by_client: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop`; connections that are open then are cut."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=self._socket)
        try:
            while not stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _SWEEP_S)
                now = loop.time()
                for connection in [one for one in self.open if one.overdue(now)]:
                    self.cut += 1
                    connection.abort()
        finally:
            server.close()
            for connection in list(self.open):
                connection.abort()
            await server.wait_closed()


class _Connection(asyncio.Protocol):
    """One client's connection.

    Invariant: it reads only while the client takes its answers, no zone is on its way, and not
    too many of its queries wait for other servers.
    """

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._client = Client("", 0)
        self._buffer = bytearray()
        self._count = self._pending = 0
        self._deadline = 0.0
        self._writable = self._reading = True
        #: No query will come any more, or be answered.
        self._ended = False
        self._zone: Iterator[bytes] | None = None

    # -- called by the loop ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server, limits = self._server, self._server.limits
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        host = peer[0] if peer else ""  # without one it is gone already
        if (
            not peer
            or len(server.open) >= limits.connections
            or (server.by_client[host] >= limits.per_client)
        ):
            server.refused += 1
            self._transport.abort()
            return
        self._client = Client(host, peer[1], peer[3] if len(peer) > 2 else 0)
        server.accepted += 1
        server.open.add(self)
        server.by_client[host] += 1
        self._transport.set_write_buffer_limits(MAX_WAITING_BYTES)
        self._deadline = self._loop.time() + limits.first_s

    def connection_lost(self, exc: Exception | None) -> None:
        server, host = self._server, self._client.host
        if self in server.open:
            server.open.discard(self)
            server.by_client[host] -= 1
            if not server.by_client[host]:
                del server.by_client[host]
        self._zone, self._ended = None, True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._work()

    def eof_received(self) -> bool:
        # who has asked everything still gets its answers
        self._ended = True
        self._work()
        return True

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._zone is not None:
            self._pump()
        else:
            self._work()

    # -- called by the server --------------------------------------------------------------------

    def overdue(self, now: float) -> bool:
        """Whether the client has been silent, or has taken nothing, for too long.

        Who waits for other servers is not to blame for it.
        """
        return now > self._deadline and not (self._pending and self._writable)

    def abort(self) -> None:
        """Cut it."""
        self._transport.abort()

    # -- queries and answers ---------------------------------------------------------------------

    def _work(self) -> None:
        """Answer what has come, until something has to be waited for."""
        buffer, at = self._buffer, 0
        replies: list[bytes] = []
        waiting = 0
        while self._free() and len(buffer) - at >= 2:
            end = at + 2 + (buffer[at] << 8 | buffer[at + 1])
            if len(buffer) < end:
                break
            reply = self._query(bytes(buffer[at + 2 : end]))
            at = end
            if reply is not None:
                replies += (len(reply).to_bytes(2), reply)
                waiting += len(reply)
                if waiting > MAX_WAITING_BYTES // 4:
                    self._transport.write(b"".join(replies))
                    replies.clear()
                    waiting = 0
        if at:
            del buffer[:at]
            self._deadline = self._loop.time() + self._server.limits.idle_s
        if replies:
            self._transport.write(b"".join(replies))
        self._settle()

    def _free(self) -> bool:
        limit = self._server.limits.queries
        return (
            self._writable
            and self._zone is None
            and self._pending < MAX_PENDING
            and (not limit or self._count < limit)
            and not self._transport.is_closing()
        )

    def _query(self, query: bytes) -> bytes | None:
        server = self._server
        self._count += 1
        server.queries += 1
        if server.transfer is not None:
            self._zone = server.transfer(query, self._client)
            if self._zone is not None:
                self._loop.call_soon(self._pump)
                return None
        reply = server.answerer.answer(query, tcp=True)
        if isinstance(reply, Foreign):
            server.foreign += 1
            self._pending += 1
            server.hand_on(query, reply, self._client, self._later())
            return None
        if reply is None:  # whoever sends this is no resolver
            self._transport.close()
        return reply

    def _later(self) -> Callable[[bytes], None]:
        """What sends the answer of a query that waits for other servers."""
        waits = True

        def send(reply: bytes) -> None:
            nonlocal waits
            if waits:
                waits = False
                self._pending -= 1
                if not self._transport.is_closing():
                    self._transport.write(len(reply).to_bytes(2) + reply)
                    self._deadline = self._loop.time() + self._server.limits.idle_s
                    self._loop.call_soon(self._work)

        return send

    def _pump(self) -> None:
        """Send the next message of a zone; other clients have their turn in between."""
        if self._zone is None or not self._writable or self._transport.is_closing():
            return
        message = next(self._zone, None)
        if message is None:
            self._zone = None
            self._work()
            return
        if message:
            self._transport.write(len(message).to_bytes(2) + message)
            self._deadline = self._loop.time() + self._server.limits.idle_s
        self._loop.call_soon(self._pump)

    def _settle(self) -> None:
        """Read on, or not, or close where all is done."""
        if self._transport.is_closing():
            return
        limit = self._server.limits.queries
        last = self._ended or bool(limit and self._count >= limit)
        if last and not self._pending and self._zone is None and self._writable:
            self._transport.close()
        elif self._free() != self._reading and not self._ended:
            self._reading = not self._reading
            if self._reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
