"""The sockets of the proxy: which there are, whose queries are forwarded, and the way out."""

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import ip_address

from cairn_core.errors import Unavailable, cause
from cairn_core.kit.daemon import Service
from cairn_dns.answer import Answerer, Foreign
from cairn_dns.io_exchange import exchange
from cairn_dns.io_mmsg import Client
from cairn_dns.io_tcp import TcpServer, bind_tcp
from cairn_dns.io_udp import UdpServer, bind_udp
from cairn_dns.networks import Networks
from cairn_dns.rate import PASS, Limiter
from cairn_dns.table import Table
from cairn_dns.wire import HEADER_BYTES, IN, NOERROR, PLAIN_BYTES, A, wire_name

from .ask import Ask, rcode_of
from .cache import Cache, answer_from, key_of
from .io_resolver import Resolver, Send
from .message import Question
from .routes import Server

log = logging.getLogger(__name__)


class CachingAnswerer(Answerer):
    """Answers what the near zones have, and over UDP what the cache has, without leaving the batch.

    forwarding: whether the client whose query comes next may have what others said; set by `Gate`.
    """

    def __init__(self, table: Table, cache: Cache, now: Callable[[], float]) -> None:
        super().__init__(table)
        self.forwarding = False
        self._cache, self._now = cache, now

    def answer(self, query: bytes, *, tcp: bool = False) -> bytes | Foreign | None:
        """See `Answerer`."""
        if self.forwarding and not tcp:
            key = key_of(query)
            if key is not None:
                now = self._now()
                entry = self._cache.find(key, now)
                # Larger ones are for the resolver, which knows what the client takes.
                if entry is not None and entry.wire_bytes + len(query) <= PLAIN_BYTES:
                    return answer_from(entry, query, HEADER_BYTES + len(key) - 1, now)
        return super().answer(query, tcp=tcp)


class Gate(Limiter):
    """Limits strangers, and tells the answerer whether a client is one."""

    def __init__(self, answerer: CachingAnswerer, per_second: int, clients: Networks) -> None:
        super().__init__(per_second, ())
        self._answerer, self.clients = answerer, clients

    def verdict(self, source: bytes, now: float) -> int:
        """See `Limiter`."""
        forwarding = self._answerer.forwarding = source in self.clients
        return PASS if forwarding else super().verdict(source, now)


class Front:
    """UDP and TCP servers on all addresses; local names are answered in them, others go on."""

    def __init__(
        self, answerer: CachingAnswerer, resolver: Resolver, clients: Networks, per_second: int
    ) -> None:
        self._answerer, self._resolver = answerer, resolver
        self._gate = Gate(answerer, per_second, clients)
        self.udp: list[UdpServer] = []
        self.tcp: list[TcpServer] = []

    def set_clients(self, clients: Networks) -> None:
        """Whose other names are forwarded from now on."""
        self._gate.clients = clients

    def listen(
        self,
        wanted: Sequence[str],
        optional: Sequence[str],
        ports: tuple[int, int],
        inherited: Iterable[socket.socket],
    ) -> list[Service]:
        """Servers for every inherited socket and every wanted address that has none yet.

        optional: addresses that the host may lack; they are told of and left out.
        ports: for UDP and TCP.  Raises Unavailable.
        """
        given: dict[tuple[int, str, int], socket.socket] = {}
        sockets: list[socket.socket] = []
        for sock in inherited:
            name = sock.getsockname()
            given[sock.type, str(ip_address(name[0].partition("%")[0])), name[1]] = sock
            sockets.append(sock)
        for kind, bind, port in (
            (socket.SOCK_DGRAM, bind_udp, ports[0]),
            (socket.SOCK_STREAM, bind_tcp, ports[1]),
        ):
            for address in wanted:
                if (kind, address, port) in given:
                    continue
                try:
                    sockets.append(bind(address, port))
                except OSError as error:
                    problem = f"cannot listen on {address} port {port}: {cause(error)}"
                    if address not in optional:
                        raise Unavailable(problem) from None
                    log.error("address left out reason=%s", problem)
        for sock in sockets:
            tcp = sock.type == socket.SOCK_STREAM
            foreign = partial(self._foreign, tcp)
            if tcp:
                self.tcp.append(TcpServer(sock, self._answerer, foreign))
            else:
                self.udp.append(UdpServer(sock, self._answerer, foreign, self._gate))
        if not self.udp or not self.tcp:
            raise Unavailable("no address could be listened on")
        return [*(server.run for server in self.udp), *(server.run for server in self.tcp)]

    def queries(self, *, tcp: bool) -> int:
        """Queries since the start."""
        return sum(server.queries for server in (self.tcp if tcp else self.udp))

    def _foreign(self, tcp: bool, query: bytes, reply: Foreign, client: Client, send: Send) -> None:
        allowed = client.host in self._gate.clients
        taken = self._resolver.handle(query, reply, allowed=allowed, tcp=tcp, send=send)
        if not taken and tcp:
            # Differs: the original closes the connection, and with it all its other queries.
            send(reply.failed)


#: What a health probe asks, as the original's `gen_resolvconf` does.
READY = Ask(Question(wire_name("ready.spartan"), A, IN)).query()
PROBE_S = 1.0


async def probe(server: Server) -> bool:
    """Whether a proxy answers for `ready.spartan`."""
    try:
        return rcode_of(await exchange(READY, server, False, PROBE_S)) == NOERROR
    except (OSError, TimeoutError, EOFError):
        return False
