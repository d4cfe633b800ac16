"""DNS messages taken apart and put together again (RFC 1035), for what cannot stay as it came.

Bytes come from anybody: everything is bounded, and whatever makes no sense is `Malformed`.
Names are in wire form without compression, in the case they came in.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cairn_dns.wire import CNAME, HEADER_BYTES, MAX_NAME_BYTES, MX, NS, OPT, PTR, SOA, SRV

#: Records of one message that are looked at.
MAX_RECORDS = 4096
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
RCODE = 0x000F

_HEADER = struct.Struct("!HHHHHH")
_COUNTS = struct.Struct("!HHH")
_FIXED = struct.Struct("!HHIH")
#: Where names lie in record data: bytes before the first, and how many.  RFC 3597, 4: these
#: types, and no others, may come compressed.
NAMES_IN_DATA = {
    NS: (0, 1), CNAME: (0, 1), PTR: (0, 1), MX: (2, 1), SRV: (6, 1), SOA: (0, 2),
    14: (0, 2), 17: (0, 2), 18: (2, 1), 21: (2, 1), 26: (2, 2), 36: (2, 1), 39: (0, 1),
}  # fmt: skip
#: Types whose names nobody may compress again: those younger than RFC 1035.
_NEVER_COMPRESSED = frozenset({SRV, 17, 18, 21, 26, 36, 39})


class Malformed(ValueError):
    """These bytes are no DNS message."""


class Question(NamedTuple):
    """What is asked; the name in wire form, its case as it came."""

    name: bytes
    kind: int
    klass: int

    @property
    def wire(self) -> bytes:
        """As it stands in a message."""
        return self.name + struct.pack("!HH", self.kind, self.klass)


class Resource(NamedTuple):
    """A resource record; `data` has its names written out."""

    name: bytes
    kind: int
    klass: int
    ttl: int
    data: bytes


class Place(NamedTuple):
    """Where a record lies in a message; section 0 is the answer, 2 the additional one."""

    section: int
    owner: int
    fixed: int
    kind: int
    klass: int
    ttl: int
    data: int
    end: int


@dataclass(slots=True)
class Message:
    """A message; `sections` are answer, authority and additional."""

    id: int
    bits: int
    question: Question
    sections: tuple[list[Resource], list[Resource], list[Resource]] = field(
        default_factory=lambda: ([], [], [])
    )

    @property
    def answers(self) -> list[Resource]:
        """The first section."""
        return self.sections[0]

    @property
    def rcode(self) -> int:
        """The lower four bits of the response code."""
        return self.bits & RCODE


def question_of(wire: bytes) -> Question:
    """The only question of a message.  Raises Malformed."""
    if len(wire) < HEADER_BYTES or wire[4:6] != b"\0\1":
        raise Malformed("not exactly one question")
    name, at = read_name(wire, HEADER_BYTES)
    if at != HEADER_BYTES + len(name) or at + 4 > len(wire):
        raise Malformed("question is compressed or cut")
    kind, klass = struct.unpack_from("!HH", wire, at)
    return Question(name, kind, klass)


def read_name(wire: bytes, at: int) -> tuple[bytes, int]:
    """The name that begins at `at`, and where what follows it begins.  Raises Malformed.

    A pointer has to lead backwards, and a name that runs in circles soon is too long.
    """
    labels: list[bytes] = []
    size, end, limit = 1, -1, len(wire)
    while True:
        if at >= limit:
            raise Malformed("name is cut")
        length = wire[at]
        if length == 0:
            labels.append(b"\0")
            return b"".join(labels), at + 1 if end < 0 else end
        if length < 0x40:
            size += length + 1
            if size > MAX_NAME_BYTES or at + 1 + length > limit:
                raise Malformed("name is too long or cut")
            labels.append(wire[at : at + 1 + length])
            at += 1 + length
        elif length >= 0xC0:
            if at + 2 > limit:
                raise Malformed("pointer is cut")
            target = (length & 0x3F) << 8 | wire[at + 1]
            if end < 0:
                end = at + 2
            if target >= at or target < HEADER_BYTES:
                raise Malformed("pointer does not lead backwards")
            at = target
        else:
            raise Malformed("label of an unknown kind")


def check(wire: bytes) -> None:
    """Raise Malformed unless the records of a message can be told apart; `walk` without looking.

    For every reply that comes: a few hundred nanoseconds per record.
    """
    if len(wire) < HEADER_BYTES or wire[4:6] != b"\0\1":
        raise Malformed("not exactly one question")
    at, size = _skip_name(wire, HEADER_BYTES) + 4, len(wire)
    count = sum(_COUNTS.unpack_from(wire, 6))
    if count > MAX_RECORDS:
        raise Malformed("too many records")
    for _ in range(count):
        # mostly a pointer
        at = (at + 2 if at < size and wire[at] >= 0xC0 else _skip_name(wire, at)) + 10
        if at > size:
            raise Malformed("record is cut")
        at += wire[at - 2] << 8 | wire[at - 1]
    if at > size:
        raise Malformed("record data is cut")


def walk(wire: bytes) -> Iterator[Place]:
    """Every record of a message with one question, in order.  Raises Malformed.

    Costs a few steps per record; names are skipped, not read.
    """
    if len(wire) < HEADER_BYTES or wire[4:6] != b"\0\1":
        raise Malformed("not exactly one question")
    at = _skip_name(wire, HEADER_BYTES) + 4
    if at > len(wire):
        raise Malformed("question is cut")
    counts = _COUNTS.unpack_from(wire, 6)
    if sum(counts) > MAX_RECORDS:
        raise Malformed("too many records")
    for section, count in enumerate(counts):
        for _ in range(count):
            fixed = _skip_name(wire, at)
            if fixed + 10 > len(wire):
                raise Malformed("record is cut")
            kind, klass, ttl, size = _FIXED.unpack_from(wire, fixed)
            end = fixed + 10 + size
            if end > len(wire):
                raise Malformed("record data is cut")
            yield Place(section, at, fixed, kind, klass, ttl, fixed + 10, end)
            at = end


def _skip_name(wire: bytes, at: int) -> int:
    limit = len(wire)
    while at < limit:
        length = wire[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length >= 0x40:
            break
        at += 1 + length
    raise Malformed("name is cut")


def parse(wire: bytes) -> Message:
    """A whole message.  Raises Malformed."""
    question = question_of(wire)
    qid, bits = struct.unpack_from("!HH", wire)
    message = Message(qid, bits, question)
    for place in walk(wire):
        name, _ = read_name(wire, place.owner)
        data = _data(wire, place)
        message.sections[place.section].append(
            Resource(name, place.kind, place.klass, place.ttl, data)
        )
    return message


def _data(wire: bytes, place: Place) -> bytes:
    """Record data with its names written out."""
    layout = NAMES_IN_DATA.get(place.kind)
    if layout is None or place.data == place.end:  # RFC 2136 has records without data
        return wire[place.data : place.end]
    before, names = layout
    at = place.data + before
    parts = [wire[place.data : at]]
    for _ in range(names):
        if at >= place.end:
            raise Malformed("record data is cut")
        name, at = read_name(wire, at)
        parts.append(name)
    if at > place.end:
        raise Malformed("a name leaves its record")
    parts.append(wire[at : place.end])
    return b"".join(parts)


def split_data(kind: int, data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Record data as bytes before its names, the names, and the bytes behind."""
    layout = NAMES_IN_DATA.get(kind)
    if layout is None or not data:
        return data, [], b""
    before, count = layout
    at, names = before, []
    for _ in range(count):
        name, at = read_name(data, at) if at else _first_name(data)
        names.append(name)
    return data[:before], names, data[at:]


def _first_name(data: bytes) -> tuple[bytes, int]:
    end = _skip_name(data, 0)
    return data[:end], end


def build(message: Message, limit: int = 65535) -> bytes:
    """Bytes of a message, names compressed.

    limit: what does not fit is left out as whole records, the additional section first; TC says
    that answers are missing.
    """
    writer = _Writer(message.question)
    counts = [0, 0, 0]
    # An OPT record belongs to the message and not to the names: it has its place always.
    opt = [r for r in message.sections[2] if r.kind == OPT][:1]
    reserved = sum(11 + len(r.data) for r in opt)
    bits = message.bits
    for section, records in enumerate(message.sections):
        for record in records:
            if record.kind == OPT:
                continue
            if not writer.add(record, limit - reserved):
                if section == 0:
                    bits |= TC
                break
            counts[section] += 1
        if bits & TC:
            break
    for record in opt:
        writer.add(record, limit)
        counts[2] += 1
    head = _HEADER.pack(message.id, bits, 1, *counts)
    return head + bytes(writer.out[HEADER_BYTES:])


class _Writer:
    def __init__(self, question: Question) -> None:
        self.out = bytearray(HEADER_BYTES)
        #: Lower-cased names and their ends: where they lie.
        self.places: dict[bytes, int] = {}
        self._name(question.name)
        self.out += struct.pack("!HH", question.kind, question.klass)

    def add(self, record: Resource, limit: int) -> bool:
        """Write a record unless that exceeds `limit` bytes."""
        start = len(self.out)
        self._name(record.name)
        fixed = len(self.out)
        self.out += _FIXED.pack(record.kind, record.klass, record.ttl, 0)
        before, names, behind = split_data(record.kind, record.data)
        self.out += before
        for name in names:
            if record.kind in _NEVER_COMPRESSED:
                self.out += name
            else:
                self._name(name)
        self.out += behind
        if len(self.out) > limit:
            del self.out[start:]
            self.places = {name: at for name, at in self.places.items() if at < start}
            return False
        struct.pack_into("!H", self.out, fixed + 8, len(self.out) - fixed - 10)
        return True

    def _name(self, name: bytes) -> None:
        rest = name
        while rest[0]:
            place = self.places.get(rest.lower())
            if place is not None:
                self.out += struct.pack("!H", 0xC000 | place)
                return
            if len(self.out) < 0x4000:
                self.places[rest.lower()] = len(self.out)
            self.out += rest[: 1 + rest[0]]
            rest = rest[1 + rest[0] :]
        self.out += b"\0"
