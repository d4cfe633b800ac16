"""Forwards names that are not ours to other servers, unchanged, one server after the other.

A socket of its own for each query, so that its port cannot be guessed, and an id of our own.
"""

import asyncio
import secrets
import struct
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network

#: Queries under way at once; further ones fail at once.
MAX_UNDER_WAY = 512


class _Exchange(asyncio.DatagramProtocol):
    """One question over UDP; the first datagram that can be its answer ends it."""

    def __init__(self, query: bytes) -> None:
        self.query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and _answers(self.query, data):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def _answers(query: bytes, data: bytes) -> bool:
    """Whether `data` has the id of `query`, is a response, and repeats its question."""
    if len(data) < 12 or data[:2] != query[:2] or not data[2] & 0x80:
        return False
    end = 12
    while query[end]:
        end += 1 + query[end]
    end += 5
    # A server that refuses or fails may leave the question out.
    return data[12:end].lower() == query[12:end].lower() or data[4:6] == b"\0\0"


class Forwarder:
    """Asks `resolvers` (address, port) in their order for clients of `networks`.

    timeout_s: for one server, seconds.
    """

    def __init__(
        self, resolvers: Sequence[tuple[str, int]], networks: Sequence[str], timeout_s: float
    ) -> None:
        self._resolvers = tuple(resolvers)
        self._networks = tuple(ip_network(text) for text in networks)
        self._timeout_s = timeout_s
        self._under_way = 0

    def serves(self, client: str) -> bool:
        """Whether queries of this client are forwarded."""
        if not self._resolvers:
            return False
        with suppress(ValueError):
            address = ip_address(client.partition("%")[0])
            return any(
                address in network
                for network in self._networks
                if network.version == address.version
            )
        return False

    async def ask(self, query: bytes, *, tcp: bool = False) -> bytes | None:
        """The answer of the first server that gives one, under the id of `query`, or None."""
        if self._under_way >= MAX_UNDER_WAY:
            return None
        self._under_way += 1
        sent = secrets.token_bytes(2) + query[2:]
        try:
            for place in self._resolvers:
                with suppress(OSError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(self._timeout_s):
                        ask = self._ask_tcp if tcp else self._ask_udp
                        return query[:2] + (await ask(sent, place))[2:]
        finally:
            self._under_way -= 1
        return None

    async def _ask_udp(self, query: bytes, place: tuple[str, int]) -> bytes:
        transport, exchange = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Exchange(query), remote_addr=place
        )
        try:
            transport.sendto(query)
            return await exchange.answer
        finally:
            transport.close()

    async def _ask_tcp(self, query: bytes, place: tuple[str, int]) -> bytes:
        reader, writer = await asyncio.open_connection(*place)
        try:
            writer.write(struct.pack("!H", len(query)) + query)
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            data = await reader.readexactly(size)
        finally:
            writer.close()
        if not _answers(query, data):
            raise ConnectionResetError("answer to another question")
        return data
