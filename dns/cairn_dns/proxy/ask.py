"""A query as the resolver sees it, and the replies that fit it.  No I/O."""

import struct
from dataclasses import dataclass

from cairn_dns.wire import HEADER_BYTES, IN, OPT

from .cache import make_key
from .message import AD, CD, RCODE, RD, TC, Malformed, Question, question_of, walk

#: What we tell other servers, and the most that anybody gets over UDP (never fragmented).
EDNS_BYTES = 1232
PLAIN_BYTES = 512
TCP_BYTES = 65535
_KEPT_BITS = RD | AD | CD


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted, whoever asks.

    bits: of the header, only RD, AD and CD. edns, dnssec: an OPT record, its DO bit.
    """

    question: Question
    bits: int = RD
    edns: bool = False
    dnssec: bool = False
    tcp: bool = False

    def key(self) -> bytes:
        """Of the answer in the cache."""
        return make_key(self.question.wire, self.bits, edns=self.edns, dnssec=self.dnssec)

    def query(self) -> bytes:
        """The query that other servers get; its id is the sender's business."""
        head = struct.pack("!HHHHHH", 0, self.bits, 1, 0, 0, self.edns)
        flags = 0x8000 if self.dnssec else 0
        opt = struct.pack("!BHHBBHH", 0, OPT, EDNS_BYTES, 0, 0, flags, 0) if self.edns else b""
        return head + self.question.wire + opt

    def about(self, name: bytes) -> "Ask":
        """The same about another name."""
        question = Question(name, self.question.kind, IN)
        return Ask(question, self.bits, self.edns, self.dnssec, self.tcp)


def read_query(query: bytes, *, tcp: bool) -> tuple[Ask, int]:
    """What a client's query asks for, and the largest reply it takes.  Raises Malformed.

    # Differs: the original sends the client's packet on as it is, and with it its cookies and
    # its network (RFC 7871), which are nobody's business.
    """
    question = question_of(query)
    bits = (query[2] << 8 | query[3]) & _KEPT_BITS
    more = walk(query) if query[6:12] != bytes(6) else ()
    for place in more:
        if place.section == 2 and place.kind == OPT:
            size = min(max(place.klass, PLAIN_BYTES), EDNS_BYTES)
            limit = TCP_BYTES if tcp else size
            return Ask(question, bits, True, bool(place.ttl & 0x8000), tcp), limit
    return Ask(question, bits, False, False, tcp), TCP_BYTES if tcp else PLAIN_BYTES


def fit(reply: bytes, query: bytes, end: int, limit: int) -> bytes:
    """A reply to the same question as an answer to `query`: its id and its spelling.

    end: of the question. limit: a longer one is cut to its question, which has the client ask
    again over TCP.
    """
    if reply[4:6] != b"\0\1":  # a server that refuses or fails may leave the question out
        return query[:2] + reply[2:4] + b"\0\1" + bytes(6) + query[HEADER_BYTES:end]
    if len(reply) <= limit:
        return query[:2] + reply[2:HEADER_BYTES] + query[HEADER_BYTES:end] + reply[end:]
    bits = (reply[2] << 8 | reply[3]) | TC
    return query[:2] + struct.pack("!HHHHH", bits, 1, 0, 0, 0) + query[HEADER_BYTES:end]


def rcode_of(reply: bytes) -> int:
    """The lower four bits of its response code."""
    return reply[3] & RCODE


__all__ = ["Ask", "Malformed", "fit", "rcode_of", "read_query"]
