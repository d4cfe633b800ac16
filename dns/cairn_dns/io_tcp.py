"""Answers over TCP (RFC 7766): for what does not fit into a datagram.

Limits as in Mesos-DNS `resolver/resolver.go`: the first query within 2 s, 8 s of silence, 128
queries per connection.
"""

import asyncio
import socket
import struct
from contextlib import suppress

from .answer import Answerer, Foreign
from .io_forward import Forwarder

FIRST_QUERY_S = 2.0
IDLE_S = 8.0
MAX_QUERIES = 128
#: Connections at once; further ones are closed.
MAX_CONNECTIONS = 512


class TcpServer:
    """Serves one bound socket, which it closes at the end."""

    def __init__(self, sock: socket.socket, answerer: Answerer, forwarder: Forwarder) -> None:
        self.queries = 0
        self._socket = sock
        self._answerer = answerer
        self._forwarder = forwarder
        self._connections = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until `stop`; connections that are open then are cut."""
        open_now: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            open_now.add(task)
            try:
                if len(open_now) <= MAX_CONNECTIONS:
                    await self._serve(reader, writer)
            finally:
                open_now.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, sock=self._socket)
        try:
            await stop.wait()
        finally:
            server.close()
            for task in list(open_now):
                task.cancel()
            await asyncio.gather(*open_now, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername")[0]
        limit_s = FIRST_QUERY_S
        with suppress(OSError, asyncio.IncompleteReadError):
            for _ in range(MAX_QUERIES):
                async with asyncio.timeout(limit_s):
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    query = await reader.readexactly(size)
                limit_s = IDLE_S
                self.queries += 1
                reply = self._answerer.answer(query, tcp=True)
                if isinstance(reply, Foreign):
                    reply = await self._forward(query, reply, client)
                if reply is None:
                    return
                writer.write(struct.pack("!H", len(reply)) + reply)
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()

    async def _forward(self, query: bytes, reply: Foreign, client: str) -> bytes:
        if not self._forwarder.serves(client):
            return reply.refused
        return await self._forwarder.ask(query, tcp=True) or reply.failed


def bind_tcp(address: str, port: int) -> socket.socket:
    """A listening socket for `TcpServer`.  Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((address, port))
        sock.listen(256)
    except BaseException:
        sock.close()
        raise
    return sock
