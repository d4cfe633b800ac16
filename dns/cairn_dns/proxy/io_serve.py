"""The sockets of the proxy: which there are, whose queries are forwarded, and the way out."""

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import ip_address, ip_network

from cairn_core.errors import Unavailable, cause
from cairn_core.kit.daemon import Service
from cairn_dns.answer import Answerer, Foreign
from cairn_dns.io_forward import exchange
from cairn_dns.io_tcp import TcpServer, bind_tcp
from cairn_dns.io_udp import UdpServer, bind_udp
from cairn_dns.wire import IN, NOERROR, A, wire_name

from .ask import Ask, rcode_of
from .io_resolver import Resolver, Send
from .message import Question
from .routes import Server

log = logging.getLogger(__name__)


class Front:
    """UDP and TCP servers on all addresses; local names are answered in them, others go on.

    allowed: whether a client's other names are forwarded.
    """

    def __init__(
        self, answerer: Answerer, resolver: Resolver, allowed: Callable[[object], bool]
    ) -> None:
        self._answerer, self._resolver, self.allowed = answerer, resolver, allowed
        self.udp: list[UdpServer] = []
        self.tcp: list[TcpServer] = []

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
            if sock.type == socket.SOCK_DGRAM:
                self.udp.append(
                    UdpServer(sock, self._answerer, partial(self._foreign, False), None)
                )
            else:
                self.tcp.append(TcpServer(sock, self._answerer, partial(self._foreign, True), None))
        if not self.udp or not self.tcp:
            raise Unavailable("no address could be listened on")
        return [*(server.run for server in self.udp), *(server.run for server in self.tcp)]

    def queries(self, *, tcp: bool) -> int:
        """Queries since the start."""
        return sum(server.queries for server in (self.tcp if tcp else self.udp))

    def _foreign(self, tcp: bool, query: bytes, reply: Foreign, client: object, send: Send) -> None:
        self._resolver.handle(query, reply, allowed=self.allowed(client), tcp=tcp, send=send)


class Clients:
    """Whose queries are forwarded: networks, and what was found out about addresses lately."""

    #: Addresses remembered; then all are forgotten.
    MAX_KNOWN = 4096

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ip_network(text) for text in networks]
        self._known: dict[str, bool] = {}

    def __call__(self, client: tuple[str, int]) -> bool:
        address = client[0]
        known = self._known.get(address)
        if known is None:
            known = self._look(address)
            if len(self._known) >= self.MAX_KNOWN:
                self._known.clear()
            self._known[address] = known
        return known

    def _look(self, text: str) -> bool:
        address = ip_address(text.partition("%")[0])
        return any(
            address in network for network in self._networks if network.version == address.version
        )


async def send_query(query: bytes, server: Server, tcp: bool, timeout_s: float) -> bytes:
    """One exchange with one server.  Raises OSError, TimeoutError, EOFError."""
    return await exchange(query, server, tcp, timeout_s)


#: What a health probe asks, as the original's `gen_resolvconf` does.
READY = Ask(Question(wire_name("ready.spartan"), A, IN)).query()
PROBE_S = 1.0


async def probe(server: Server) -> bool:
    """Whether a proxy answers for `ready.spartan`."""
    try:
        return rcode_of(await send_query(READY, server, False, PROBE_S)) == NOERROR
    except (OSError, TimeoutError, EOFError):
        return False
