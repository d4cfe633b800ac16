"""How many answers strangers get: response-rate limiting, so that nobody floods others through us.

A query over UDP may say that it comes from anywhere; who floods a victim asks in its name.  So
each foreign network, a /24 or a /56, gets a number of answers each second.  Of the rest every
second one is answered by `slip`: whoever asked in his own name asks again over TCP.
"""

import struct
from collections.abc import Iterable

from .networks import Networks
from .wire import HEADER_BYTES, OPCODE, QR, RD, TC, question_end

PASS, DROP, SLIP = 0, 1, 2
#: Networks that are counted in a second; further ones are told to ask over TCP.
MAX_NETWORKS = 16_384
LOOPBACK = ("127.0.0.0/8", "::1/128")


class Limiter:
    """Counts the answers of one socket.

    per_second: answers for each foreign network; 0: any. trusted: networks that are not counted;
    loopback is among them.
    """

    def __init__(self, per_second: int, trusted: Iterable[str]) -> None:
        self._per_second = per_second
        self._trusted = Networks([*LOOPBACK, *trusted])
        self._second = -1
        self._counts: dict[bytes, int] = {}

    def verdict(self, source: bytes, now: float) -> int:
        """What to do with a query: PASS, DROP or SLIP.

        source: the client's address, 4 or 16 bytes. now: seconds.
        """
        if self._trusted.known[source] or not self._per_second:
            return PASS
        if int(now) != self._second:
            self._second = int(now)
            self._counts.clear()
        network = source[:3] if len(source) == 4 else source[:7]
        if len(self._counts) >= MAX_NETWORKS and network not in self._counts:
            return SLIP
        count = self._counts[network] = self._counts.get(network, 0) + 1
        if count <= self._per_second:
            return PASS
        return SLIP if (count - self._per_second) % 2 == 0 else DROP


def slip(query: bytes) -> bytes | None:
    """The answer that says: ask over TCP.  None for what is no query."""
    if len(query) < HEADER_BYTES or query[2] & 0x80:
        return None
    end = question_end(query) if query[4:6] == b"\0\1" else None
    bits = (query[2] << 8 | query[3]) & (OPCODE | RD) | QR | TC
    head = query[:2] + struct.pack("!HHHHH", bits, int(end is not None), 0, 0, 0)
    return head + query[HEADER_BYTES:end] if end is not None else head
