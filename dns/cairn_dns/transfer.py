"""Whole zones for secondary servers: AXFR over TCP (RFC 5936), and for IXFR too (RFC 1995, 4).

A zone is what the table holds at one moment, told in messages of moderate size.  No I/O.
"""

import struct
from collections.abc import Iterable, Iterator

from .networks import Networks
from .table import Entry, Table, ZoneState
from .wire import (
    AA,
    AXFR,
    CD,
    FORMERR,
    HEADER_BYTES,
    IN,
    IXFR,
    NOERROR,
    NOTAUTH,
    OPCODE,
    QR,
    RD,
    REFUSED,
    SERVFAIL,
    SOA,
    question_end,
    read_opt,
)  # fmt: skip

#: Bytes of a message; less than what a pointer reaches.
MESSAGE_BYTES = 16_000
#: Entries that are looked at before others get their turn.
SLICE = 500
#: Zones on their way at once; further ones are refused, and asked for again later.
MAX_UNDER_WAY = 8
#: A variant of this size may have been cut.
LARGE_BYTES = 32_768
_TO_QUESTION = b"\xc0\x0c"
_CLASS = struct.pack("!H", IN)
_SOA = struct.pack("!HH", SOA, IN)


class Transfers:
    """Answers queries for whole zones.

    allowed: networks that may ask.
    """

    def __init__(self, table: Table, allowed: Iterable[str]) -> None:
        #: Zones that were begun, and queries that were refused.
        self.begun = self.refused = 0
        #: Those on their way; each holds the table as it was.
        self.under_way = 0
        self._table, self._allowed = table, Networks(allowed)

    def allow(self, networks: Iterable[str]) -> None:
        """Let others ask from now on."""
        self._allowed = Networks(networks)

    def begin(self, query: bytes, client: str) -> Iterator[bytes] | None:
        """The messages of the answer; None when the query is not for a whole zone.

        An empty message is none: it lets others have their turn.  client: its address.
        """
        kind = _kind(query)
        if kind not in (AXFR, IXFR):
            return None
        end = question_end(query)
        assert end is not None  # or there would be no kind
        reply = _Reply(query, query[HEADER_BYTES:end])
        if read_opt(query, end) is None:
            return iter([reply.error(FORMERR)])
        if client not in self._allowed or query[end - 2 : end] != _CLASS:
            self.refused += 1
            return iter([reply.error(REFUSED)])
        zone = self._table.zones.get(reply.question[:-4].lower())
        if zone is None:
            return iter([reply.error(NOTAUTH)])
        soa = self._table.entries.get(zone.apex + _SOA)
        if not zone.loaded or not isinstance(soa, bytes):
            return iter([reply.error(SERVFAIL)])
        if kind == IXFR and _serial(query, end) == soa[-20:-16]:
            return iter([reply.message([zone.apex + soa[9:]])])
        return self._zone(reply, zone, soa)

    def _zone(self, reply: "_Reply", zone: ZoneState, soa: bytes) -> Iterator[bytes]:
        """SOA, everything else, and SOA again."""
        if self.under_way >= MAX_UNDER_WAY:
            self.refused += 1
            yield reply.error(REFUSED)
            return
        self.begun += 1
        self.under_way += 1
        try:
            yield from self._messages(reply, zone, soa)
        finally:
            self.under_way -= 1

    def _messages(self, reply: "_Reply", zone: ZoneState, soa: bytes) -> Iterator[bytes]:
        # both lists at once, so that nothing of a later change is in them
        questions, entries = list(self._table.entries), list(self._table.entries.values())
        # names of zones below belong to them
        below = tuple(
            apex for apex in self._table.zones if apex != zone.apex and apex.endswith(zone.apex)
        )
        first = [zone.apex + soa[9:]]
        parts, size = first, len(first[0])
        for number, question in enumerate(questions):
            if number % SLICE == 0:
                yield b""
            name, kind = question[:-4], question[-4:-2]
            if not name.endswith(zone.apex) or (below and name.endswith(below)):
                continue
            if kind + _CLASS == _SOA:
                continue
            entry = entries[number]
            for record in _all_records(entry, kind):
                if size + len(name) + len(record) > MESSAGE_BYTES:
                    yield reply.message(parts)
                    parts, size = [], 0
                parts.append(name + record)
                size += len(parts[-1])
        if size + len(first[0]) > MESSAGE_BYTES:
            yield reply.message(parts)
            parts = []
        yield reply.message([*parts, zone.apex + soa[9:]])


class _Reply:
    """Makes the messages of one answer; only the first one repeats the question."""

    def __init__(self, query: bytes, question: bytes) -> None:
        self.question = question
        self._id = query[:2]
        self._bits = (query[2] << 8 | query[3]) & (RD | CD) | QR
        self._first = True

    def message(self, records: list[bytes]) -> bytes:
        """The next message."""
        first, self._first = self._first, False
        head = struct.pack("!HHHHH", self._bits | AA | NOERROR, int(first), len(records), 0, 0)
        return b"".join([self._id, head, self.question if first else b"", *records])

    def error(self, rcode: int) -> bytes:
        """The only message."""
        return self._id + struct.pack("!HHHHH", self._bits | rcode, 1, 0, 0, 0) + self.question


def _kind(query: bytes) -> int:
    """The type that a well-formed query for one thing asks for; 0 for all others."""
    if len(query) < HEADER_BYTES or (query[2] << 8) & (QR | OPCODE) or query[4:6] != b"\0\1":
        return 0
    end = question_end(query)
    return query[end - 4] << 8 | query[end - 3] if end is not None else 0


def _serial(query: bytes, end: int) -> bytes:
    """The serial of the SOA that an IXFR query has in its authority section, or nothing."""
    if query[8:10] != b"\0\1":
        return b""
    at = end
    while at < len(query) and 0 < query[at] < 0x40:
        at += 1 + query[at]
    at += 2 if query[at : at + 1] >= b"\xc0" else 1
    if query[at : at + 4] != _SOA or len(query) < at + 10:
        return b""
    data = query[at + 10 : at + 10 + (query[at + 8] << 8 | query[at + 9])]
    return data[-20:-16]


def _all_records(entry: Entry, kind: bytes) -> Iterable[bytes]:
    """Records of a type that a name has itself, without owner."""
    if isinstance(entry, bytes):
        return _records(entry, kind)
    if len(entry[0]) < LARGE_BYTES:
        return _records(entry[0], kind)
    # of a large set each order may have a part only
    return dict.fromkeys(record for variant in entry for record in _records(variant, kind))


def _records(variant: bytes, kind: bytes) -> Iterator[bytes]:
    at, count = 7, variant[1] << 8 | variant[2]
    for _ in range(count):
        end = at + 12 + (variant[at + 10] << 8 | variant[at + 11])
        if variant[at : at + 2] == _TO_QUESTION and variant[at + 2 : at + 4] == kind:
            yield variant[at + 2 : end]
        at = end
