"""Asks other servers: one exchange with one of them, and the forwarding of `cairn-dns`.

Each query over UDP has a socket of its own, so that nobody can guess its port, and an id of its
own; what comes back counts only when it comes from the server, with the id, and has the question.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from .answer import Foreign
from .io_mmsg import Client
from .networks import Networks
from .wire import HEADER_BYTES, question_end, wire_name

#: Address and port of a server.
Server: TypeAlias = tuple[str, int]
#: Larger answers over UDP are cut.
MAX_REPLY_BYTES = 65_535
#: Exchanges of a forwarder under way at once; further queries fail at once.
MAX_UNDER_WAY = 1024


async def exchange(query: bytes, server: Server, tcp: bool, timeout_s: float) -> bytes:
    """The answer of a server, with the id of `query`.

    query: well-formed. An answer that says it was cut (TC) is given as it is.
    Raises TimeoutError; OSError when the server cannot be reached or there are no ports left;
    EOFError when it closes the connection.
    """
    sent = _ids.take() + query[2:]
    reply = await (_over_tcp if tcp else _over_udp)(sent, server, timeout_s)
    return query[:2] + reply[2:]


def answers(query: bytes, reply: bytes) -> bool:
    """Whether a message can be the answer to a query: id, QR, opcode, and the same question.

    The question is compared with its case, which makes it harder to guess (0x20).  A server that
    refuses or fails may leave the question out.
    """
    if len(reply) < HEADER_BYTES or reply[:2] != query[:2] or not reply[2] & 0x80:
        return False
    if (reply[2] ^ query[2]) & 0x78:
        return False
    if reply[4:6] == b"\0\0":
        return reply[3] & 0x0F != 0 and reply[6:8] == b"\0\0"
    end = question_end(query)
    return reply[4:6] == b"\0\1" and end is not None and reply[12:end] == query[12:end]


class _Ids:
    """Ids that nobody can guess, from the kernel by the block."""

    def __init__(self) -> None:
        self._block, self._at = b"", 0

    def take(self) -> bytes:
        """Two bytes."""
        if self._at >= len(self._block):
            self._block, self._at = os.urandom(1024), 0
        self._at += 2
        return self._block[self._at - 2 : self._at]


_ids = _Ids()


async def _over_udp(query: bytes, server: Server, timeout_s: float) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as s:
        # connected: only this server is heard, and that it is gone is told at once
        s.connect(server)
        s.send(query)

        def readable() -> None:
            try:
                reply = s.recv(MAX_REPLY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if not answer.done():
                    answer.set_exception(error)
                return
            if not answer.done() and answers(query, reply):
                answer.set_result(reply)

        def late() -> None:
            if not answer.done():
                answer.set_exception(TimeoutError(f"no answer from {server[0]} port {server[1]}"))

        number = s.fileno()
        loop.add_reader(number, readable)
        timer = loop.call_later(timeout_s, late)
        try:
            return await answer
        finally:
            timer.cancel()
            loop.remove_reader(number)


async def _over_tcp(query: bytes, server: Server, timeout_s: float) -> bytes:
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(*server)
            writer.write(struct.pack("!H", len(query)) + query)
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            reply = await reader.readexactly(size)
    finally:
        if writer is not None:
            writer.transport.abort()
    if not answers(query, reply):
        raise ConnectionResetError(f"answer to another question from {server[0]}")
    return reply


class Forwarder:
    """Forwards queries for names that are not ours: one server after the other, unchanged.

    The next one is asked when a server cannot be reached or does not answer; what one answers is
    final, whatever it says.  Of `zones` the most specific one that a name is in counts.

    clients: networks whose queries are forwarded. timeout_s: for one server, seconds.
    """

    def __init__(self) -> None:
        #: Queries forwarded; of these those that nobody answered; queries that were refused, and
        #: queries that were too many.
        self.forwarded = self.failed = self.refused = self.overload = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.set((), {}, (), 5.0)

    def set(
        self,
        servers: Sequence[Server],
        zones: Mapping[str, Sequence[Server]],
        clients: Sequence[str],
        timeout_s: float,
    ) -> None:
        """Take other settings, for queries that come from now on."""
        self._servers = tuple(servers)
        self._zones = {wire_name(zone): tuple(found) for zone, found in zones.items()}
        self._clients = Networks(clients)
        self._timeout_s = timeout_s

    def handle(
        self,
        query: bytes,
        reply: Foreign,
        client: Client,
        send: Callable[[bytes], None],
        *,
        tcp: bool = False,
    ) -> None:
        """Answer a query later, or refuse it now."""
        servers = self.servers_of(query)
        if not servers or client.host not in self._clients:
            self.refused += 1
            send(reply.refused)
            return
        if len(self._tasks) >= MAX_UNDER_WAY:
            self.overload += 1
            send(reply.failed)
            return
        self.forwarded += 1
        task = asyncio.get_running_loop().create_task(
            self._forward(query, reply, servers, send, tcp)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def servers_of(self, query: bytes) -> tuple[Server, ...]:
        """Who is asked.  `query`: well-formed."""
        if self._zones:
            end = question_end(query) or HEADER_BYTES + 5
            name = query[HEADER_BYTES : end - 4].lower()
            while name:
                if name in self._zones:
                    return self._zones[name]
                name = name[1 + name[0] :]
        return self._servers

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(
        self,
        query: bytes,
        reply: Foreign,
        servers: Sequence[Server],
        send: Callable[[bytes], None],
        tcp: bool,
    ) -> None:
        for server in servers:
            try:
                send(await exchange(query, server, tcp, self._timeout_s))
                return
            except (OSError, EOFError):  # TimeoutError is an OSError
                continue
        self.failed += 1
        send(reply.failed)
