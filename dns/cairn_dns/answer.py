"""From a query to its answer: one look-up in the table of encoded answers.

RFC 1035, RFC 6891 (EDNS), RFC 2308.  Mesos-DNS (`resolver/resolver.go`) where it says more; each
`# Differs` says where it is left for the sake of strict resolvers.  No I/O, and nothing that a
client sends raises.
"""

import struct
from bisect import bisect_right
from dataclasses import dataclass

from .encode import AAAA, ANY, HEADER_BYTES, NS, OPT, SOA, SRV, A, Section, Table

#: Largest UDP answer to a query without EDNS, and to one with it (never fragmented).
PLAIN_BYTES = 512
EDNS_BYTES = 1232
#: Largest answer over TCP.
TCP_BYTES = 65535

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
BADVERS = 16
_QR, _AA, _TC, _RA = 0x8000, 0x0400, 0x0200, 0x0080
#: Bits of a query that its answer repeats: opcode, RD, CD.
_REPEATED = 0x7800 | 0x0100 | 0x0010
_HEADER = struct.Struct("!HHHHHH")


@dataclass(frozen=True, slots=True)
class Foreign:
    """The name is not in our zone: ask somebody else.

    refused: the answer when there is nobody to ask. failed: when nobody answered.
    """

    refused: bytes
    failed: bytes


@dataclass(slots=True)
class Answerer:
    """Answers queries from a table that can be replaced at any time.

    recursion_available: the RA bit, which Mesos-DNS sets by its configuration alone.
    truncate: set TC where an answer was cut (`SetTruncateBit`).
    """

    table: Table
    recursion_available: bool = True
    truncate: bool = True
    #: Turn of the rotation.
    _turn: int = 0

    def answer(self, query: bytes, *, tcp: bool = False) -> bytes | Foreign | None:
        """The answer to a query; None when it deserves none."""
        if len(query) < HEADER_BYTES:
            return None
        qid, bits, questions = struct.unpack_from("!HHH", query)
        if bits & _QR:
            return None
        bits = bits & _REPEATED | _QR | (_RA if self.recursion_available else 0)
        # Differs: Mesos-DNS answers every opcode as if it were a query.
        if bits & 0x7800:
            return _HEADER.pack(qid, bits | NOTIMP, 0, 0, 0, 0)
        end = _question_end(query) if questions == 1 else None
        if end is None:
            return _HEADER.pack(qid, bits | FORMERR, 0, 0, 0, 0)
        limit, opt = _edns(query, end)
        if tcp:
            limit = TCP_BYTES
        question = query[HEADER_BYTES:end]
        if opt and opt[0]:
            return _HEADER.pack(qid, bits, 1, 0, 0, 1) + question + _opt(BADVERS)
        edns = _opt(0) if opt else b""
        name = question[:-4].lower()
        if b"\x01*" in name:
            name = _without_stars(name)
        found = self.table.names.get(name)
        if found is None and not name.endswith(self.table.apex):
            return Foreign(
                _reply(qid, bits | REFUSED, question, edns),
                _reply(qid, bits | SERVFAIL, question, edns),
            )
        if not self.table.loaded:
            return _reply(qid, bits | SERVFAIL, question, edns)
        bits |= _AA
        if found is None:
            return _reply(qid, bits | NXDOMAIN, question, edns, authority=self.table.soa)
        kind = question[-4] << 8 | question[-3]
        sections = found.by_type.get(kind)
        if sections is None:
            if kind == ANY and found.by_type:
                # RFC 8482: one type is enough of an answer.
                sections = found.by_type[
                    next(k for k in (A, AAAA, SRV, SOA, NS) if k in found.by_type)
                ]
            else:
                return _reply(qid, bits, question, edns, authority=self.table.soa)
        self._turn += 1
        section = sections[self._turn % len(sections)]
        return self._positive(qid, bits, question, edns, section, limit)

    def _positive(
        self, qid: int, bits: int, question: bytes, edns: bytes, section: Section, limit: int
    ) -> bytes:
        room = limit - HEADER_BYTES - len(question) - len(edns)
        count, answers, extra = len(section.ends), section.answers, section.additional
        extra_count = section.additional_count
        # Differs: Mesos-DNS sets TC as soon as additional records are left out (RFC 2181, 9).
        if len(answers) + len(extra) > room:
            extra, extra_count = b"", 0
        if len(answers) > room:
            count = bisect_right(section.ends, room)
            answers = answers[: section.ends[count - 1]] if count else b""
            if self.truncate:
                bits |= _TC
        head = _HEADER.pack(qid, bits, 1, count, 0, extra_count + bool(edns))
        return b"".join((head, question, answers, extra, edns))


def _reply(qid: int, bits: int, question: bytes, edns: bytes, authority: bytes = b"") -> bytes:
    head = _HEADER.pack(qid, bits, 1, 0, bool(authority), bool(edns))
    return head + question + authority + edns


def _question_end(query: bytes) -> int | None:
    """Where the first question ends; None when it is malformed.  No compression is allowed."""
    at, size = HEADER_BYTES, len(query)
    while at < size:
        length = query[at]
        at += 1
        if length == 0:
            return at + 4 if at + 4 <= size else None
        if length > 63 or at - HEADER_BYTES + length > 254:
            return None
        at += length
    return None


def _edns(query: bytes, end: int) -> tuple[int, bytes]:
    """UDP limit of the client, and (version,) when it speaks EDNS.

    Only an OPT that comes first behind the question is seen; all clients send it so.
    """
    if len(query) < end + 11 or query[end : end + 3] != b"\0\0\x29":
        return PLAIN_BYTES, b""
    size = query[end + 3] << 8 | query[end + 4]
    return min(max(size, PLAIN_BYTES), EDNS_BYTES), query[end + 6 : end + 7]


def _opt(rcode: int) -> bytes:
    """Our OPT record; `rcode` beyond 15 has its upper bits here."""
    return struct.pack("!BHHBBHH", 0, OPT, EDNS_BYTES, rcode >> 4, 0, 0, 0)


def _without_stars(name: bytes) -> bytes:
    """The name without labels `*` behind the first one.

    # Compat: Mesos-DNS resolver/resolver.go removes every `.*` before it looks a name up.
    """
    labels, rest = [], name
    while rest[0]:
        labels.append(rest[: 1 + rest[0]])
        rest = rest[1 + rest[0] :]
    return b"".join(labels[:1] + [x for x in labels[1:] if x != b"\x01*"]) + b"\0"
