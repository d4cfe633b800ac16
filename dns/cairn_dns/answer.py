"""From a query to its answer: one look-up in the table of encoded answers.

RFC 1035, RFC 2308 (negative answers), RFC 6891 (EDNS), RFC 8482 (ANY).  Where Mesos-DNS
(`resolver/resolver.go`) is left for the sake of strict resolvers it says `# Differs`; `compat`
answers as it does.  No I/O, and nothing that a client sends raises.
"""

import struct
from collections import Counter
from dataclasses import dataclass

from .table import Entry, Negative, Short, Table, Variant, ZoneState
from .wire import (
    AA,
    AAAA,
    ANY,
    AXFR,
    BADVERS,
    CD,
    CNAME,
    EDNS_BYTES,
    FORMERR,
    HEADER_BYTES,
    IN,
    IXFR,
    NOERROR,
    NOTIMP,
    NS,
    NXDOMAIN,
    OPCODE,
    OPT,
    PLAIN_BYTES,
    PTR,
    QR,
    RA,
    RCODE_NAMES,
    RD,
    REFUSED,
    SERVFAIL,
    SOA,
    SRV,
    TC,
    TCP_BYTES,
    TXT,
    TYPE_NAMES,
    A,
    question_end,
    read_opt,
)  # fmt: skip

_HEADER = struct.Struct("!HHHHHH")
#: Types that a name may have entries of, likely ones first; ANY is answered by the first.
KINDS = (A, SRV, AAAA, CNAME, PTR, TXT, SOA, NS)
TYPE_CLASS = {kind: struct.pack("!HH", kind, IN) for kind in KINDS}
#: Bytes of a variant before its records.
VARIANT_HEAD = 7
_ONE_QUESTION = b"\0\1\0\0\0\0\0"
#: Different OPT records of clients that are remembered.
_MAX_OPTS = 256
_BYTES = [bytes([number]) for number in range(256)]


@dataclass(frozen=True, slots=True)
class Foreign:
    """The name is not in our zones: ask somebody else.

    refused: the answer when there is nobody to ask. failed: when nobody answered.
    """

    refused: bytes
    failed: bytes


class Answerer:
    """Answers queries from a table that may change between two of them.

    recursion_available: the RA bit, which Mesos-DNS sets by its configuration alone.
    truncate: set TC where an answer was cut (`SetTruncateBit`).
    """

    def __init__(
        self, table: Table, *, recursion_available: bool = True, truncate: bool = True
    ) -> None:
        self.table = table
        #: Answers that `Table.hits` does not count, by zone, type and rcode.
        self.others: Counter[tuple[str, str, str]] = Counter()
        self._ra = RA if recursion_available else 0
        self._truncate = truncate
        self._turn = 0
        #: Bytes 2-5 of a positive answer, by bytes 2-11 of usual queries without and with EDNS.
        self._plain: dict[bytes, bytes] = {}
        self._edns: dict[bytes, bytes] = {}
        for bits in (rd | ignored for rd in (0, RD) for ignored in (0, CD, 0x20, CD | 0x20)):
            head = struct.pack("!HH", QR | AA | self._ra | bits & (RD | CD), 1)
            self._plain[struct.pack("!H", bits) + _ONE_QUESTION + b"\0"] = head
            self._edns[struct.pack("!H", bits) + _ONE_QUESTION + b"\1"] = head
        #: OPTs of clients without options: what an answer may have, and the OPT of the answer.
        self._opts: dict[bytes, tuple[int, bytes]] = {}

    def answer(self, query: bytes, *, tcp: bool = False) -> bytes | Foreign | None:
        """The answer to a query; None when it deserves none.

        Most queries are one question, perhaps with an OPT that has no options; they cost a look-up
        and a join.  All others, and all that are odd, go the general way.
        """
        self._turn += 1
        start = query[2:12]
        head = self._plain.get(start)
        if head is not None:
            question = query[12:]
            folded = question.lower()
            entry = self.table.entries.get(folded)
            if entry is not None:
                if entry.__class__ is tuple:
                    entry = entry[(self._turn + query[1]) % len(entry)]
                size = len(query) + len(entry) - VARIANT_HEAD
                if size <= PLAIN_BYTES or (tcp and size <= TCP_BYTES):
                    self.table.hits[entry[0]] += 1  # type: ignore[index]  # a variant now
                    return b"".join((query[:2], head, entry[1:7], question, entry[7:]))  # type: ignore[arg-type]
                if not tcp:
                    return self._cut(query, head, question, entry)  # type: ignore[arg-type]
            else:
                negative = self.table.negatives.get(folded)
                if negative is not None:
                    return self._negative(query, head, question, negative, b"")
        else:
            head = self._edns.get(start)
            if head is not None:
                opt = self._opts.get(query[-11:])
                if opt is not None:
                    reply = self._with_opt(query, head, opt, tcp)
                    if reply is not None:
                        return reply
        return self._general(query, tcp)

    def _cut(self, query: bytes, head: bytes, question: bytes, variant: Variant) -> bytes:
        """What of a variant fits a plain datagram; remembered, for it is always the same."""
        # names of different length may have the same variant
        key = len(question), variant
        short = self.table.shorts.get(key)
        if short is None:
            room = PLAIN_BYTES - HEADER_BYTES - len(question)
            answers, additional, body, whole = cut(variant, room)
            short = Short(whole, struct.pack("!HHH", answers, 0, additional), body)
            self.table.put_short(key, short)
        if self._truncate and not short.whole:
            head = _BYTES[head[0] | TC >> 8] + head[1:]
        self.table.hits[variant[0]] += 1
        return b"".join((query[:2], head, short.counts, question, short.body))

    def _with_opt(
        self, query: bytes, head: bytes, opt: tuple[int, bytes], tcp: bool
    ) -> bytes | None:
        """`answer`, for queries that end in an OPT that we have seen before."""
        question = query[12:-11]
        folded = question.lower()
        entry = self.table.entries.get(folded)
        if entry is None:
            negative = self.table.negatives.get(folded)
            if negative is None:
                return None
            return self._negative(query, head, question, negative, opt[1])
        variant = self._pick(entry, query)
        if len(query) + len(variant) > (TCP_BYTES if tcp else opt[0]) + VARIANT_HEAD:
            return None
        self.table.hits[variant[0]] += 1
        return b"".join(
            (query[:2], head, variant[1:6], _BYTES[variant[6] + 1], question, variant[7:], opt[1])
        )

    def _negative(
        self, query: bytes, head: bytes, question: bytes, negative: Negative, opt: bytes
    ) -> bytes:
        self.others[negative.label] += 1
        bits = _BYTES[head[1] | negative.rcode]
        counts = b"\0\1\0\0\0\1\0\1" if opt else b"\0\1\0\0\0\1\0\0"
        return b"".join((query[:2], head[:1], bits, counts, question, negative.soa, opt))

    def _pick(self, entry: Entry, query: bytes) -> Variant:
        # the id stands in for chance, lest who asks two things by turns always gets the same orders
        if isinstance(entry, bytes):
            return entry
        return entry[(self._turn + query[1]) % len(entry)]

    # -- the general way -------------------------------------------------------------------------

    def _general(self, query: bytes, tcp: bool) -> bytes | Foreign | None:
        if len(query) < HEADER_BYTES:
            return None
        bits = query[2] << 8 | query[3]
        if bits & QR:
            return None
        bits = bits & (OPCODE | RD | CD) | QR | self._ra
        # Differs: Mesos-DNS answers every opcode and every class as if it were a usual query.
        if bits & OPCODE:
            return self._bare(query, bits, NOTIMP)
        end = question_end(query) if query[4:6] == b"\0\1" else None
        opt = read_opt(query, end) if end is not None else None
        if end is None or opt is None:
            return self._bare(query, bits, FORMERR)
        ask = _Ask(query[:2], query[HEADER_BYTES:end], bits, PLAIN_BYTES, b"")
        if opt:
            ask.limit = min(max(opt[3] << 8 | opt[4], PLAIN_BYTES), EDNS_BYTES)
            ask.opt = _opt(opt)
            if opt[6]:
                ask.opt = _opt(opt, BADVERS)
                self.others["", "", RCODE_NAMES[BADVERS]] += 1
                return ask.reply(NOERROR)
            if query[end:] == opt and opt[9:] == b"\0\0":
                if len(self._opts) >= _MAX_OPTS:  # somebody plays with odd ones
                    self._opts.clear()
                self._opts[opt] = ask.limit, ask.opt
        if tcp:
            ask.limit = TCP_BYTES
        if ask.question[-2:] != TYPE_CLASS[A][2:]:
            return self._count("", ask.kind, REFUSED, ask.reply(REFUSED))
        return self._find(ask, query, tcp)

    def _find(self, ask: "_Ask", query: bytes, tcp: bool) -> bytes | Foreign:
        """The answer to a well-formed question of our class."""
        folded = ask.question.lower()
        name, shift = folded[:-4], 0
        if b"\1*" in name:
            name = without_stars(name)
            shift = len(folded) - 4 - len(name)
        kind = ask.kind
        if kind == IXFR and not tcp:
            kind = SOA  # whoever asks takes the whole zone over TCP (RFC 1995, 2)
        zone = zone_of(self.table, name)
        entry = self._entry(name, kind)
        if entry is not None:
            return self._positive(ask, self._pick(entry, query), shift)
        if zone is None:
            return Foreign(ask.reply(REFUSED), ask.reply(SERVFAIL))
        label = zone_text(zone)
        if not zone.loaded:
            return self._count(label, kind, SERVFAIL, ask.reply(SERVFAIL))
        if kind in (AXFR, IXFR):
            return self._count(label, kind, REFUSED, ask.reply(REFUSED))
        rcode = NOERROR if exists(self.table, name) else NXDOMAIN
        ask.bits |= AA
        if not shift and kind == ask.kind:
            count = label, TYPE_NAMES.get(kind, "other"), RCODE_NAMES[rcode]
            if len(ask.question) + len(zone.soa) + HEADER_BYTES + 11 <= PLAIN_BYTES:
                self.table.put_negative(folded, Negative(rcode, zone.soa, count))
        return self._count(label, kind, rcode, ask.reply(rcode, zone.soa))

    def _entry(self, name: bytes, kind: int) -> Entry | None:
        entries = self.table.entries
        if kind == ANY:  # RFC 8482: one type is enough of an answer
            found = (entries.get(name + end) for end in TYPE_CLASS.values())
            return next((entry for entry in found if entry is not None), None)
        entry = entries.get(name + TYPE_CLASS[kind]) if kind in TYPE_CLASS else None
        return entry or entries.get(name + TYPE_CLASS[CNAME])

    def _positive(self, ask: "_Ask", variant: Variant, shift: int) -> bytes:
        self.table.hits[variant[0]] += 1
        if shift:
            variant = moved(variant, shift)
        # Differs: Mesos-DNS sets TC as soon as additional records are left out (RFC 2181, 9).
        answers, additional, body, whole = cut(variant, ask.limit - ask.size)
        bits = ask.bits | AA | (TC if self._truncate and not whole else 0)
        head = struct.pack("!HHHHH", bits, 1, answers, 0, additional + bool(ask.opt))
        return b"".join((ask.id, head, ask.question, body, ask.opt))

    def _bare(self, query: bytes, bits: int, rcode: int) -> bytes:
        self.others["", "", RCODE_NAMES[rcode]] += 1
        return query[:2] + struct.pack("!HHHHH", bits | rcode, 0, 0, 0, 0)

    def _count(self, zone: str, kind: int, rcode: int, reply: bytes) -> bytes:
        self.others[zone, TYPE_NAMES.get(kind, "other"), RCODE_NAMES[rcode]] += 1
        return reply


@dataclass(slots=True)
class _Ask:
    """A query taken apart.

    question: as it came. bits: of the header of the answer. limit: bytes of the answer.
    opt: that of the answer, or nothing.
    """

    id: bytes
    question: bytes
    bits: int
    limit: int
    opt: bytes

    @property
    def kind(self) -> int:
        """The type that is asked for."""
        return self.question[-4] << 8 | self.question[-3]

    @property
    def size(self) -> int:
        """Bytes of an answer without its records."""
        return HEADER_BYTES + len(self.question) + len(self.opt)

    def reply(self, rcode: int, authority: bytes = b"") -> bytes:
        """An answer without answers; the authority is left out where it does not fit."""
        if self.size + len(authority) > self.limit:
            authority = b""
        counts = struct.pack("!HHHHH", self.bits | rcode, 1, 0, bool(authority), bool(self.opt))
        return b"".join((self.id, counts, self.question, authority, self.opt))


def zone_of(table: Table, name: bytes) -> ZoneState | None:
    """The zone with the longest apex that a name, in lower case, ends in."""
    at = 0
    while True:
        zone = table.zones.get(name[at:])
        if zone is not None or not name[at]:
            return zone
        at += 1 + name[at]


def exists(table: Table, name: bytes) -> bool:
    """Whether a name, in lower case, has records or names below it."""
    entries = table.entries
    return name in table.ancestors or any(name + end in entries for end in TYPE_CLASS.values())


def zone_text(zone: ZoneState) -> str:
    """The label of a zone's counters."""
    return b".".join(labels(zone.apex)).decode("ascii", "replace")


def labels(name: bytes) -> list[bytes]:
    """The labels of an uncompressed name in wire form."""
    found, at = [], 0
    while name[at]:
        found.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return found


def without_stars(name: bytes) -> bytes:
    """The name without labels `*` behind the first one.

    # Compat: Mesos-DNS resolver/resolver.go removes every `.*` before it looks a name up.
    """
    first, *others = labels(name)
    kept = [first, *(label for label in others if label != b"*")]
    return b"".join(_BYTES[len(label)] + label for label in kept) + b"\0"


def cut(variant: Variant, room: int) -> tuple[int, int, bytes, bool]:
    """What of a variant fits: answers, additional records, their bytes, whether all answers do.

    Additional records are kept all or none.
    """
    answers, _, additional = struct.unpack_from("!HHH", variant, 1)
    if len(variant) - VARIANT_HEAD <= room:
        return answers, additional, variant[VARIANT_HEAD:], True
    end, count = VARIANT_HEAD, 0
    while count < answers:
        after = end + 12 + (variant[end + 10] << 8 | variant[end + 11])
        if after - VARIANT_HEAD > room:
            break
        end, count = after, count + 1
    return count, 0, variant[VARIANT_HEAD:end], count == answers


def moved(variant: Variant, shift: int) -> Variant:
    """A variant behind a question that is `shift` bytes longer: all its pointers but those to the
    question itself lead further."""
    data, at = bytearray(variant), VARIANT_HEAD
    answers, _, additional = struct.unpack_from("!HHH", variant, 1)
    for _ in range(answers + additional):
        pointer = data[at] << 8 | data[at + 1]
        if pointer != 0xC00C:
            struct.pack_into("!H", data, at, min(pointer + shift, 0xFFFF))
        at += 12 + (data[at + 10] << 8 | data[at + 11])
    return bytes(data)


def _opt(opt: bytes, rcode: int = NOERROR) -> bytes:
    """Our OPT for a client's: without options, with its DO bit (RFC 3225, 3); `rcode` beyond 15
    has its upper bits here."""
    flags = opt[7] << 8 & 0x8000
    return struct.pack("!BHHBBHH", 0, OPT, EDNS_BYTES, rcode >> 4, 0, flags, 0)
