"""The ways to answer for the names of one zone, in wire form (see `table.Variant`)."""

import struct
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

from msgspec import Struct

from .table import Entry
from .wire import (
    AAAA,
    CNAME,
    HEADER_BYTES,
    IN,
    LENGTHS,
    MAX_NAME_BYTES,
    NS,
    PTR,
    SOA,
    SRV,
    TCP_BYTES,
    TXT,
    A,
    BadName,
    wire_name,
)  # fmt: skip
from .zone import RecordSet, Value

#: Orders in which the answers of one question are given, in turn.  Of a plain UDP answer 29
#: addresses fit, so all of 464 show.
MAX_ROTATIONS = 16
#: Addresses of targets that are added to one SRV answer.
MAX_ADDITIONAL = 32
#: Names that one chain of CNAMEs leads through.
MAX_CHAIN = 8
#: Bytes of answers, so that with the longest question and OPT they fit into a TCP message.
MAX_ANSWER_BYTES = TCP_BYTES - HEADER_BYTES - 259 - 11
#: Ends of names whose wire form is remembered.
_MAX_ENDS = 16_384
_TO_QUESTION = b"\xc0\x0c"
_MAX_POINTER = 0x3FFF
_COUNTS = struct.Struct("!HHH")
_FIXED = struct.Struct("!HHIH")
#: Where the target of an SRV record is: behind owner, fixed part, and three numbers.
_TARGET_AT = 2 + _FIXED.size + 6
T = TypeVar("T")


class ZoneSettings(Struct, frozen=True, kw_only=True):
    """How the names of one zone are answered; times in seconds.

    soa_minimum: for how long others may keep that a name does not exist; None: the ttl.
    nameservers: names for NS; none: soa_mname. additional: whether SRV answers bring addresses.
    """

    domain: str
    ttl: int = 60
    srv_priority: int = 0
    srv_weight: int = 1
    additional: bool = True
    soa_mname: str = "ns1.mesos"
    soa_rname: str = "root.ns1.mesos"
    soa_refresh: int = 60
    soa_retry: int = 600
    soa_expire: int = 86400
    soa_minimum: int | None = None
    nameservers: tuple[str, ...] = ()
    nameserver_ttl: int | None = None


class WireNames:
    """`wire_name` for many names that end alike: what is behind the first dot is remembered."""

    def __init__(self) -> None:
        self._ends: dict[str, bytes] = {}

    def wire(self, name: str) -> bytes:
        """A name, in lower case, in wire form; empty when DNS cannot express it."""
        first, dot, rest = name.partition(".")
        end = self._ends.get(rest)
        try:
            if end is None:
                if len(self._ends) >= _MAX_ENDS:
                    self._ends.clear()
                end = self._ends[rest] = wire_name(rest) if dot else b"\0"
            label = first.encode("ascii")
            wire = LENGTHS[len(label)] + label + end
        except (BadName, KeyError, UnicodeEncodeError):
            return b""
        return wire if len(wire) <= MAX_NAME_BYTES else b""


class ZoneWriter:
    """Writes entries of one zone.

    counter: the first byte of the variants of a type.  Raises BadName for settings that make none.
    """

    def __init__(
        self, settings: ZoneSettings, counter: Callable[[int], bytes], names: WireNames
    ) -> None:
        self.domain = settings.domain.lower().removesuffix(".")
        self.apex = wire_name(self.domain)
        self._settings = settings
        self._counter = counter
        self._mailbox = wire_name(settings.soa_mname) + wire_name(settings.soa_rname)
        self._nameservers = [wire_name(x) for x in settings.nameservers or [settings.soa_mname]]
        # what is the same in front of every address, and in front of one that is alone
        self._before = {
            kind: _TO_QUESTION + _FIXED.pack(kind, IN, settings.ttl, size)
            for kind, size in ((A, 4), (AAAA, 16))
        }
        self._alone: dict[int, bytes] = {}
        self._service = _TO_QUESTION + struct.pack("!HHI", SRV, IN, settings.ttl)
        self._priorities = struct.pack("!HH", settings.srv_priority, settings.srv_weight)
        self._wire = names.wire
        #: First addresses of targets, behind their owners; true until `forget`.
        self._extras: dict[str, list[bytes]] = {}
        self.set_serial(0)

    def forget(self) -> None:
        """Records may have changed since the last entry."""
        self._extras.clear()

    def set_serial(self, serial: int) -> None:
        """Put another serial into the SOA."""
        its = self._settings
        minimum = its.ttl if its.soa_minimum is None else its.soa_minimum
        times = (serial & 0xFFFFFFFF, its.soa_refresh, its.soa_retry, its.soa_expire, minimum)
        self._soa = self._mailbox + struct.pack("!IIIII", *times)
        #: The SOA for the authority section; its TTL is that of a negative answer (RFC 2308, 3).
        self.authority = _record(SOA, min(its.ttl, minimum), self._soa, self.apex)

    def own(self) -> Iterator[tuple[int, Entry]]:
        """SOA and NS of the apex."""
        its = self._settings
        yield SOA, self._entry(SOA, [_record(SOA, its.ttl, self._soa)])
        ttl = its.ttl if its.nameserver_ttl is None else its.nameserver_ttl
        yield NS, self._entry(NS, [_record(NS, ttl, name) for name in self._nameservers])

    def entries(
        self, name: str, wire: bytes, found: dict[int, list[Value]], records: RecordSet
    ) -> Iterator[tuple[int, Entry]]:
        """Each type that a name is asked for with success, and how it is answered.

        wire: the name in wire form. found: its records by type.
        """
        for kind, values in found.items():
            if kind in (A, AAAA):
                yield kind, self._addresses(kind, cast("list[bytes]", values))
            elif kind == SRV:
                services = cast("list[tuple[str, int]]", values)
                if entry := self._services(len(wire), services, records):
                    yield kind, entry
            elif kind == CNAME:
                yield CNAME, self._chain(name, wire, CNAME, records)
                for other in {A, AAAA} - found.keys():
                    yield other, self._chain(name, wire, other, records)
            elif kind == TXT:
                texts = cast("list[bytes | str]", values)
                yield kind, self._entry(kind, [self._record(kind, _text(text)) for text in texts])
            elif kind in (PTR, NS):
                names = [self._wire(one) for one in cast("list[str]", values)]
                if written := [self._record(kind, one) for one in names if one]:
                    yield kind, self._entry(kind, written)

    def _addresses(self, kind: int, values: list[bytes]) -> Entry:
        before = self._before[kind]
        if len(values) > 1:
            return self._entry(kind, [before + value for value in values])
        alone = self._alone.get(kind)
        if alone is None:
            alone = self._alone[kind] = self._counter(kind) + _COUNTS.pack(1, 0, 0) + before
        return alone + values[0]

    def _services(
        self, name_bytes: int, services: list[tuple[str, int]], records: RecordSet
    ) -> Entry | None:
        """SRV answers; those of one target stay together, and each target is first in turn.

        Targets are written out, for RFC 2782 forbids to compress them; additional records point
        to where theirs is.
        """
        #: How many answers each target has, their bytes, and its addresses.
        groups: list[tuple[int, bytes, list[bytes]]] = []
        for target, ports in _by_target(services):
            wire = self._wire(target)
            if wire:
                before = self._service + (6 + len(wire)).to_bytes(2) + self._priorities
                answers = b"".join([before + port.to_bytes(2) + wire for port in ports])
                groups.append((len(ports), answers, self._extra(target, records)))
        start = HEADER_BYTES + name_bytes + 4
        variants, counter = [], self._counter(SRV)
        for order in _orders(groups) if groups else ():
            at, count, parts, more = start, 0, [b""], list[bytes]()
            for number, answers, addresses in order:
                if at + len(answers) > MAX_ANSWER_BYTES and count:
                    break
                parts.append(answers)
                if at <= _MAX_POINTER - _TARGET_AT:
                    place = (at + _TARGET_AT | 0xC000).to_bytes(2)
                    for address in addresses:
                        more += (place, address)
                at += len(answers)
                count += number
            del more[2 * MAX_ADDITIONAL :]
            parts[0] = counter + _COUNTS.pack(count, 0, len(more) // 2)
            variants.append(b"".join(parts + more))
        if not variants:
            return None
        return tuple(variants) if len(variants) > 1 else variants[0]

    def _extra(self, target: str, records: RecordSet) -> list[bytes]:
        """The first A and the first AAAA of a target, without their owners."""
        found = self._extras.get(target)
        if found is None:
            values = records.by_kind(target) if self._settings.additional else {}
            found = self._extras[target] = [
                self._before[kind][2:] + cast("bytes", values[kind][0])
                for kind in (A, AAAA)
                if kind in values
            ]
        return found

    def _chain(self, name: str, wire: bytes, kind: int, records: RecordSet) -> Entry:
        """A CNAME, and unless it was asked for itself, what it leads to as far as we know it."""
        owner, at = _TO_QUESTION, HEADER_BYTES + len(wire) + 4
        chain: list[bytes] = []
        end = name
        seen = {name}
        while len(chain) < MAX_CHAIN and CNAME in records.kinds(end):
            end = cast("str", records.values(end, CNAME)[0])
            target = self._wire(end)
            if not target or end in seen:
                break
            seen.add(end)
            chain.append(self._record(CNAME, target, owner))
            owner = struct.pack("!H", 0xC000 | (at + 2 + _FIXED.size))
            at += len(chain[-1])
            if kind == CNAME:
                break
        if not chain:  # leads to itself, or to what is no name
            chain = [self._record(CNAME, wire)]
        found = cast("list[bytes]", records.values(end, kind)) if kind != CNAME else []
        before = owner + self._before[kind][2:] if found else b""
        return self._entry(kind, [before + value for value in found], b"".join(chain), len(chain))

    def _entry(
        self, kind: int, written: list[bytes], chain: bytes = b"", chained: int = 0
    ) -> Entry:
        """All orders of records; `chain`, of `chained` records, stays in front."""
        counter, variants = self._counter(kind), []
        for order in _orders(written):
            body = [chain, *order] if chain else order
            size = sum(map(len, body))
            while size > MAX_ANSWER_BYTES:
                size -= len(body.pop())
            count = chained + len(body) - bool(chain)
            variants.append(b"".join([counter, _COUNTS.pack(count, 0, 0), *body]))
        return tuple(variants) if len(variants) > 1 else variants[0]

    def _record(self, kind: int, data: bytes, owner: bytes = _TO_QUESTION) -> bytes:
        return _record(kind, self._settings.ttl, data, owner)


def _record(kind: int, ttl: int, data: bytes, owner: bytes = _TO_QUESTION) -> bytes:
    return owner + _FIXED.pack(kind, IN, ttl, len(data)) + data


def _text(value: bytes | str) -> bytes:
    """Strings of at most 255 bytes (RFC 1035, 3.3.14)."""
    data = value.encode() if isinstance(value, str) else value
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)] or [b""]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces)


def _orders(items: list[T]) -> Iterator[list[T]]:
    """The items from several starts, evenly spread; none: once."""
    turns = min(len(items), MAX_ROTATIONS) or 1
    for turn in range(turns):
        start = turn * len(items) // turns
        yield items[start:] + items[:start]


def _by_target(services: list[tuple[str, int]]) -> Iterator[tuple[str, list[int]]]:
    """Targets and their ports, of sorted (target, port)."""
    last, ports = "", list[int]()
    for target, port in services:
        if target != last:
            if ports:
                yield last, ports
            last, ports = target, []
        ports.append(port)
    yield last, ports
