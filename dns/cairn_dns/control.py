"""What a serving process and its parent say to each other over a Unix stream socket.

A message is its length (4 bytes), its kind (1 byte), and msgpack or nothing.

    parent -> serving process   SETTINGS ServerSettings, UPDATE table.Update, ASK
    serving process -> parent   STATS Stats, once a second and when asked

When the socket closes the serving process ends.
"""

import struct

import msgspec
from msgspec import Struct

from .stats import Stats

SETTINGS, UPDATE, ASK, STATS = b"S", b"U", b"?", b"T"
_HEAD = struct.Struct("!Ic")
#: A longer message is a bug; an update is never near.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024


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


def message(kind: bytes, data: bytes = b"") -> bytes:
    """A message, ready to be sent."""
    return _HEAD.pack(len(data), kind) + data


class Messages:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> tuple[bytes, bytes] | None:
        """Kind and data of the next whole message.  Raises ValueError for one that is too long."""
        if len(self._buffer) - self._at < _HEAD.size:
            return None
        size, kind = _HEAD.unpack_from(self._buffer, self._at)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"message is too long: {size} bytes")
        start = self._at + _HEAD.size
        if len(self._buffer) < start + size:
            return None
        self._at = start + size
        return kind, bytes(self._buffer[start : self._at])
