"""What a serving process and its parent say to each other over a Unix stream socket.

Messages are those of `cairn_core.kit.messages`: a length, a kind, and msgpack or nothing.

    parent -> serving process   SETTINGS ServerSettings, UPDATE table.Update, ASK
    serving process -> parent   STATS Stats, once a second and when asked

When the socket closes the serving process ends.
"""

import msgspec
from msgspec import Struct

from .stats import Stats

SETTINGS, UPDATE, ASK, STATS = b"S", b"U", b"?", b"T"


class ServerSettings(Struct, frozen=True, kw_only=True):
    """Settings of a serving process; all but the sockets can change at any time.

    compat: answer byte by byte as Mesos-DNS. recursion_available, truncate: the bits RA and TC.
    resolvers, zone_resolvers: (address, port) of servers for other names, in their order, and of
    some zones. timeout_s: for one of them. forward_clients: networks whose queries are forwarded,
    and which have no limit of answers. allow_transfer: networks that may fetch whole zones.
    rate_limit: answers a second for each foreign network; 0: any. tcp_*: see `io_tcp.TcpLimits`.
    udp, tcp: numbers of inherited sockets.
    """

    compat: bool = False
    recursion_available: bool = True
    truncate: bool = True
    resolvers: list[tuple[str, int]] = []
    zone_resolvers: dict[str, list[tuple[str, int]]] = {}
    timeout_s: float = 5.0
    forward_clients: list[str] = []
    allow_transfer: list[str] = []
    rate_limit: int = 1000
    tcp_connections: int = 1000
    tcp_connections_per_client: int = 100
    tcp_queries: int = 0
    udp: list[int] = []
    tcp: list[int] = []


encode_settings = msgspec.msgpack.Encoder().encode
decode_settings = msgspec.msgpack.Decoder(ServerSettings).decode
encode_stats = msgspec.msgpack.Encoder().encode
decode_stats = msgspec.msgpack.Decoder(Stats).decode
