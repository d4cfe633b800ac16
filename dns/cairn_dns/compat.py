"""Answers byte by byte as Mesos-DNS gives them, for clients that have come to rely on its ways.

Source: mesos-dns e888ef4 `resolver/resolver.go`, which answers through miekg/dns 1.0.15.  All of
this module is `# Compat`; where it differs nevertheless it says so.  No I/O.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from .answer import TYPE_CLASS, VARIANT_HEAD, Answerer, Foreign, labels, zone_of, zone_text
from .table import Entry, Table, ZoneState
from .wire import (
    AA,
    AAAA,
    ANY,
    CD,
    FORMERR,
    HEADER_BYTES,
    MAX_LABEL_BYTES,
    NOERROR,
    NS,
    NXDOMAIN,
    OPCODE,
    PLAIN_BYTES,
    QR,
    RCODE_NAMES,
    RD,
    REFUSED,
    SERVFAIL,
    SOA,
    SRV,
    TC,
    TCP_BYTES,
    TYPE_NAMES,
    A,
    name_end,
    question_end,
)  # fmt: skip

#: Queries whose answers are kept, and in how many orders; then all are forgotten.
MAX_MADE, ORDERS = 2048, 16
#: Names that are written from here on are not led back to.
_MAX_OFFSET = 2 << 13
#: Numbers of an SOA behind its names.
_SOA_NUMBERS = 20
#: Bytes that miekg/dns writes into texts as they are.
_PLAIN = bytes(byte for byte in range(33, 127) if byte not in b'.()@;"\\')


@dataclass(slots=True)
class _Record:
    """owner: as it is to be written. fixed: type, class and TTL. data: no name in it compressed."""

    owner: bytes
    fixed: bytes
    data: bytes

    @property
    def kind(self) -> int:
        """Type."""
        return self.fixed[0] << 8 | self.fixed[1]


@dataclass(slots=True)
class _Message:
    """What is answered, before it is written."""

    question: bytes
    answers: list[_Record] = field(default_factory=list)
    authority: list[_Record] = field(default_factory=list)
    additional: list[_Record] = field(default_factory=list)
    rcode: int = NOERROR


@dataclass(slots=True)
class _Made:
    """Answers to one query that were made before, without id: `enough` of them, shuffled anew
    each.  label: who counts them."""

    label: tuple[str, str, str]
    enough: int
    orders: list[bytes] = field(default_factory=list)


class CompatAnswerer(Answerer):
    """Answers from the same table as `Answerer`.

    rng: shuffles the answers.
    """

    def __init__(
        self,
        table: Table,
        rng: Random,
        *,
        recursion_available: bool = True,
        truncate: bool = True,
    ) -> None:
        super().__init__(table, recursion_available=recursion_available, truncate=truncate)
        self._rng = rng
        #: Answers over UDP by query without its id, from the table of this version.
        self._made: dict[bytes, _Made] = {}
        self._version = table.version

    def answer(self, query: bytes, *, tcp: bool = False) -> bytes | Foreign | None:
        """See `Answerer.answer`."""
        if self._version != self.table.version:
            self._version = self.table.version
            self._made.clear()
        made = self._made.get(query[2:]) if not tcp else None
        if made is None or len(made.orders) < made.enough:
            return self._make(query, tcp)
        self._turn += 1
        self.others[made.label] += 1
        return query[:2] + made.orders[(self._turn + query[1]) % made.enough]

    def _make(self, query: bytes, tcp: bool) -> bytes | Foreign | None:
        key = query[2:]
        if not tcp:
            query = query[:PLAIN_BYTES]  # the original has no more room
        if len(query) < HEADER_BYTES:
            return struct.pack("!HHHHHH", 0, QR | FORMERR, 0, 0, 0, 0) if tcp else None
        bits = query[2] << 8 | query[3]
        if bits & QR:
            return None
        # of other opcodes the other bits are not repeated
        repeated = QR | (bits & (RD | CD) if not bits & OPCODE else bits & OPCODE)
        if len(query) == HEADER_BYTES or query[4:6] == b"\0\0":
            self._other("", 0, SERVFAIL)
            return query[:2] + struct.pack("!HHHHH", repeated | SERVFAIL, 0, 0, 0, 0)
        question = _question(query)
        if question is None or not _is_whole(query, HEADER_BYTES + len(question), bits):
            self._other("", 0, FORMERR)
            return query[:2] + struct.pack("!HHHHH", QR | FORMERR, 0, 0, 0, 0)
        bits = repeated
        zone = zone_of(self.table, question[:-4].lower())
        if zone is None or not zone.loaded:
            head, rest = query[:2], struct.pack("!HHHH", 1, 0, 0, 0) + question
            refused, failed = (
                head + struct.pack("!H", bits | rcode) + rest for rcode in (REFUSED, SERVFAIL)
            )
            if zone is None:
                return Foreign(refused, failed)
            # Differs: the original says that nothing exists before it knows the cluster.
            self._other(zone_text(zone), _kind(question), SERVFAIL)
            return failed
        bits |= AA | self._ra
        message = self._message(zone, question)
        several = len(message.answers) > 1
        reply = self._fit(message, query[:2], bits, TCP_BYTES if tcp else PLAIN_BYTES)
        kind = _kind(question)
        label = zone_text(zone), TYPE_NAMES.get(kind, "other"), RCODE_NAMES[message.rcode]
        self.others[label] += 1
        # over TCP both may be large, and are few
        if not tcp and len(key) < PLAIN_BYTES:
            made = self._made.get(key)
            if made is None:
                if len(self._made) >= MAX_MADE:
                    self._made.clear()
                made = self._made[key] = _Made(label, ORDERS if several else 1)
            made.orders.append(reply[2:])
        return reply

    def _message(self, zone: ZoneState, question: bytes) -> _Message:
        kind, asked = _kind(question), question[:-4]
        name = clean(asked.lower())
        message = _Message(question)
        if kind in (SRV, ANY):
            self._services(name, asked, message)
        for one in (A, AAAA):
            if kind in (one, ANY):
                message.answers += self._records(name, one, name)
        if kind in (SOA, ANY):
            message.authority.append(self._soa(zone, asked))
        if kind in (NS, ANY):
            message.authority += self._records(zone.apex, NS, asked)[:1]
        if message.answers:
            self._rng.shuffle(message.answers)
        elif kind not in (SOA, NS, SRV):
            known = any(name + TYPE_CLASS[one] in self.table.entries for one in (SRV, A, AAAA))
            message.rcode = NOERROR if known else NXDOMAIN
            message.authority.append(self._soa(zone, asked))
        return message

    def _services(self, name: bytes, asked: bytes, message: _Message) -> None:
        seen: set[bytes] = set()
        for record in self._records(name, SRV, asked):
            message.answers.append(record)
            target = record.data[6:]
            if target not in seen:
                seen.add(target)
                for kind in (A, AAAA):
                    message.additional += self._records(target, kind, target)[:1]

    def _records(self, name: bytes, kind: int, owner: bytes) -> list[_Record]:
        """Records of a name that is in lower case, under another owner."""
        entry = self.table.entries.get(name + TYPE_CLASS[kind])
        return [] if entry is None else list(_taken_apart(entry, kind, owner))

    def _soa(self, zone: ZoneState, owner: bytes) -> _Record:
        at = len(zone.apex)
        return _Record(owner, zone.soa[at : at + 8], zone.soa[at + 10 :])

    def _fit(self, message: _Message, number: bytes, bits: int, limit: int) -> bytes:
        """The message in wire form, cut to fewer bytes than `limit` where it has more."""
        bits |= message.rcode
        written = _Writer(message)
        if written.estimate > limit:
            if self._truncate:
                bits |= TC
            message.additional = []
            written = _Writer(message)
            if written.estimate >= limit:
                # the most answers, from the first on, that leave it below the limit
                answers = message.answers

                def over(count: int) -> bool:
                    message.answers = answers[:count]
                    return _Writer(message).estimate >= limit

                keep = bisect_left(range(1, len(answers) + 1), True, key=over)
                message.answers = answers[:keep]
                written = _Writer(message)
        counts = (1, len(message.answers), len(message.authority), len(message.additional))
        return number + struct.pack("!HHHHH", bits, *counts) + bytes(written.data[HEADER_BYTES:])

    def _other(self, zone: str, kind: int, rcode: int) -> None:
        name = TYPE_NAMES.get(kind, "other") if kind else ""
        self.others[zone, name, RCODE_NAMES[rcode]] += 1


class _Writer:
    """Writes a message with compressed names.

    estimate: its size as the original reckons it, which is some bytes too much for an SOA.
    """

    def __init__(self, message: _Message) -> None:
        self.data = bytearray(HEADER_BYTES)
        self._places: dict[bytes, int] = {}
        self._over = 0
        self._name(message.question[:-4])
        self.data += message.question[-4:]
        for record in (*message.answers, *message.authority, *message.additional):
            self._record(record)
        self.estimate = len(self.data) + self._over

    def _record(self, record: _Record) -> None:
        self._name(record.owner)
        self.data += record.fixed + b"\0\0"
        start, data = len(self.data), record.data
        if record.kind == SOA:
            end = _name_bytes(data)
            names = data[:end], data[end:-_SOA_NUMBERS]
            saved = [self._known(name) for name in names]
            self._name(names[0])
            self._name(names[1])
            self._over = sum(map(len, names)) - (len(self.data) - start)
            self._over -= sum(saved) - 1 if all(saved) else 0
            self.data += data[-_SOA_NUMBERS:]
        elif record.kind == NS:
            self._name(data)
        elif record.kind == SRV:
            self.data += data[:6]
            # not compressed (RFC 2782), but others may lead here
            self._name(data[6:], compress=False)
        else:
            self.data += data
        struct.pack_into("!H", self.data, start - 2, len(self.data) - start)

    def _name(self, name: bytes, *, compress: bool = True) -> None:
        # the original confuses itself with a name that has escapes: no other one leads there
        odd = b"" if is_plain(name) else name
        at = 0
        while name[at]:
            place = self._places.setdefault(name[at:] + odd, len(self.data))
            if compress and place < len(self.data):
                self.data += struct.pack("!H", 0xC000 | place)
                return
            if place >= _MAX_OFFSET:
                del self._places[name[at:] + odd]
            self.data += name[at : at + 1 + name[at]]
            at += 1 + name[at]
        self.data.append(0)

    def _known(self, name: bytes) -> int:
        """Characters of the longest end of a name that was written before."""
        at = 0
        while name[at] and name[at:] not in self._places:
            at += 1 + name[at]
        return len(name) - at - 1


def clean(name: bytes) -> bytes:
    """A name in lower case without any `.*`, whatever follows it.

    The original does this with text, so that what follows grows together with what is before.
    """
    first, *others = labels(name) or [b""]
    found = [first]
    for label in others:
        # each star that a dot stands before goes with it
        if label.startswith(b"*"):
            found[-1] += label[1:]
        else:
            found.append(label)
    if any(len(label) > MAX_LABEL_BYTES for label in found):
        return name
    return b"".join(bytes([len(label)]) + label for label in found if label) + b"\0"


def is_plain(name: bytes) -> bool:
    """Whether the text of a name has no escapes."""
    return not b"".join(labels(name)).translate(None, _PLAIN)


def _kind(question: bytes) -> int:
    return question[-4] << 8 | question[-3]


def _name_bytes(data: bytes) -> int:
    """Length of an uncompressed name at the start of `data`."""
    at = 0
    while data[at]:
        at += 1 + data[at]
    return at + 1


def _taken_apart(entry: Entry, kind: int, owner: bytes) -> Iterator[_Record]:
    """Records of a type, with another owner."""
    variant = entry if isinstance(entry, bytes) else entry[0]
    at = VARIANT_HEAD
    for _ in range(variant[1] << 8 | variant[2]):
        end = at + 12 + (variant[at + 10] << 8 | variant[at + 11])
        record = _Record(owner, variant[at + 2 : at + 10], variant[at + 12 : end])
        if record.kind == kind:
            yield record
        at = end


def _question(query: bytes) -> bytes | None:
    """The first question; what lacks of its type and class is zero.  None when malformed.

    # Differs: the original follows a pointer in it.
    """
    end = question_end(query + b"\0\0\0\0")
    if end is None or end - len(query) in (1, 3):
        return None
    return query[HEADER_BYTES:end].ljust(end - HEADER_BYTES, b"\0")


def _is_whole(query: bytes, at: int, bits: int) -> bool:
    """Whether what follows the first question is as the original can read it.

    Records may lack where one would begin.  A query that says it was cut is taken for cut, unless
    something follows it.
    """
    questions, *counts = struct.unpack_from("!HHHH", query, 4)
    for _ in range(questions - 1):
        end = name_end(query, at)
        if end is None or end + 4 > len(query):
            return False
        at = end + 4
    for _ in range(sum(counts)):
        if at >= len(query):
            break
        end = name_end(query, at)
        if end is None or end + 10 > len(query):
            return False
        at = end + 10 + (query[end + 8] << 8 | query[end + 9])
        if at > len(query):
            return False
    return not bits & TC or at < len(query)
