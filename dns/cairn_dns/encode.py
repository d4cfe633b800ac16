"""Answers made ahead: for each name and type the records in wire form, ready to be sent.

RFC 1035 (messages, compression), RFC 2782 (SRV), RFC 2308 (negative answers).  The owner of
every answer is a pointer to the question, which stands at a fixed place; for a given name the
question has a fixed length, so that even the pointers into the additional section are known now.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .records import Zone

A, NS, SOA, AAAA, SRV, OPT, ANY = 1, 2, 6, 28, 33, 41, 255
IN = 1
HEADER_BYTES = 12
#: Orders in which the answers of one question are given, in turn.
MAX_ROTATIONS = 4
#: Targets of one SRV answer whose addresses are added.
MAX_ADDITIONAL_TARGETS = 16
_POINTER_TO_QUESTION = b"\xc0\x0c"
_RECORD = struct.Struct("!HHIH")


class BadName(ValueError):
    """A name that cannot be written as DNS labels."""


class Section(NamedTuple):
    """One way to answer a question: `ends[i]` is the length of the first i + 1 answers."""

    answers: bytes
    ends: tuple[int, ...]
    additional: bytes
    additional_count: int


@dataclass(frozen=True, slots=True)
class Name:
    """What is known of one name: per type the orders to answer in.  No type: an empty
    non-terminal, which exists without records."""

    by_type: dict[int, tuple[Section, ...]]


@dataclass(frozen=True, slots=True)
class Table:
    """All names of the zone, by question name in wire form and lower case.

    apex: name of the zone likewise. soa: an SOA record whose owner is written out, for the
    authority section. skipped: names that DNS cannot express. loaded: false until the cluster
    is known; nobody can say then what does not exist.
    """

    names: dict[bytes, Name]
    apex: bytes
    soa: bytes
    skipped: int = 0
    loaded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneSettings:
    """Values of the zone's own records; times in seconds."""

    domain: str = "mesos"
    ttl: int = 60
    srv_weight: int = 1
    soa_mname: str = "ns1.mesos"
    soa_rname: str = "root.ns1.mesos"
    soa_refresh: int = 60
    soa_retry: int = 600
    soa_expire: int = 86400


def wire_name(name: str) -> bytes:
    """A name in wire form, lower-cased.  Raises BadName.

    >>> wire_name("Leader.mesos")
    b'\\x06leader\\x05mesos\\x00'
    """
    parts = name.rstrip(".").split(".")
    try:
        labels = [part.encode("ascii").lower() for part in parts]
    except UnicodeEncodeError:
        raise BadName(f"name is not ascii: {name[:80]!r}") from None
    if not all(0 < len(label) < 64 for label in labels):
        raise BadName(f"name has a label of 0 or more than 63 bytes: {name[:80]!r}")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > 255:
        raise BadName(f"name has more than 255 bytes: {name[:80]!r}")
    return wire


def encode_zone(
    zone: Zone, settings: ZoneSettings, serial: int, last: tuple[Zone, Table] | None = None
) -> Table:
    """Every answer of a zone.  O(records).

    last: an earlier zone and its table under the same settings, of which names that have not
    changed are taken over; so the cost of a small change is that of comparing.
    """
    encoder = _Encoder(zone, settings)
    apex = wire_name(settings.domain)
    names: dict[bytes, Name] = {}
    for name in zone.names():
        try:
            wire = wire_name(name)
            kept = last[1].names.get(wire) if last and _same(name, zone, last[0]) else None
            # The apex holds the serial, which changes.
            names[wire] = kept if kept is not None and wire != apex else encoder.name(name)
        except BadName:
            encoder.skipped += 1
    soa = _soa(settings, serial)
    top = dict(names[apex].by_type) if apex in names else {}
    top[SOA] = (_section([_record(SOA, settings.ttl, soa)]),)
    top[NS] = (_section([_record(NS, settings.ttl, wire_name(settings.soa_mname))]),)
    names[apex] = Name(top)
    _add_empty_names(names, apex)
    authority = apex + _RECORD.pack(SOA, IN, settings.ttl, len(soa)) + soa
    return Table(names, apex, authority, encoder.skipped)


def _same(name: str, zone: Zone, last: Zone) -> bool:
    """Whether all answers for a name are as they were."""
    services = zone.srv.get(name)
    return (
        zone.a.get(name) == last.a.get(name)
        and zone.aaaa.get(name) == last.aaaa.get(name)
        and services == last.srv.get(name)
        and all(
            zone.a.get(target) == last.a.get(target)
            and zone.aaaa.get(target) == last.aaaa.get(target)
            for target, _ in services or ()
        )
    )


def empty_table(domain: str) -> Table:
    """The table of a server that knows nothing of the cluster yet."""
    return Table({}, wire_name(domain), b"", loaded=False)


class _Encoder:
    """Encodes names of one zone; keeps what it needs again."""

    def __init__(self, zone: Zone, settings: ZoneSettings) -> None:
        self._zone = zone
        self._settings = settings
        self._targets: dict[str, bytes] = {}
        #: Names left out.
        self.skipped = 0

    def name(self, name: str) -> Name:
        """All types of one name."""
        zone, ttl = self._zone, self._settings.ttl
        by_type: dict[int, tuple[Section, ...]] = {}
        if found := zone.a.get(name):
            by_type[A] = _rotations([_record(A, ttl, a) for a in found])
        if also := zone.aaaa.get(name):
            by_type[AAAA] = _rotations([_record(AAAA, ttl, a) for a in also])
        if services := zone.srv.get(name):
            by_type[SRV] = self._services(name, list(services))
        return Name(by_type)

    def _services(self, name: str, services: list[tuple[str, int]]) -> tuple[Section, ...]:
        """SRV answers.  The target is written out once, in its first answer, for RFC 2782 forbids
        to compress it; additional records point to it there."""
        question = HEADER_BYTES + len(wire_name(name)) + 4
        usable: list[tuple[str, bytes, int]] = []
        for target, port in services:
            try:
                usable.append((target, self._target(target), port))
            except BadName:
                self.skipped += 1
        sections = []
        for turn in range(min(len(usable), MAX_ROTATIONS)):
            offset = question
            places: dict[str, int] = {}
            records = []
            for target, wire, port in usable[turn:] + usable[:turn]:
                data = struct.pack("!HHH", 0, self._settings.srv_weight, port) + wire
                records.append(_record(SRV, self._settings.ttl, data))
                # Behind owner, fixed part, and priority, weight, port.
                places.setdefault(target, offset + 2 + _RECORD.size + 6)
                offset += len(records[-1])
            sections.append(_section(records, self._additional(places)))
        return tuple(sections)

    def _additional(self, places: dict[str, int]) -> list[bytes]:
        """First A and first AAAA of each target."""
        records = []
        for target, place in list(places.items())[:MAX_ADDITIONAL_TARGETS]:
            if place >= 0x4000:  # beyond what a pointer reaches
                continue
            owner = struct.pack("!H", 0xC000 | place)
            if found := self._zone.a.get(target):
                records.append(_record(A, self._settings.ttl, next(iter(found)), owner))
            if also := self._zone.aaaa.get(target):
                records.append(_record(AAAA, self._settings.ttl, next(iter(also)), owner))
        return records

    def _target(self, name: str) -> bytes:
        wire = self._targets.get(name)
        if wire is None:
            wire = self._targets[name] = wire_name(name)
        return wire


def _record(kind: int, ttl: int, data: bytes, owner: bytes = _POINTER_TO_QUESTION) -> bytes:
    return owner + _RECORD.pack(kind, IN, ttl, len(data)) + data


def _section(records: Sequence[bytes], additional: Iterable[bytes] = ()) -> Section:
    ends, end = [], 0
    for record in records:
        end += len(record)
        ends.append(end)
    extra = list(additional)
    return Section(b"".join(records), tuple(ends), b"".join(extra), len(extra))


def _rotations(records: list[bytes]) -> tuple[Section, ...]:
    turns = min(len(records), MAX_ROTATIONS)
    step = max(1, len(records) // turns)
    return tuple(
        _section(records[first:] + records[:first]) for first in range(0, turns * step, step)
    )


def _soa(settings: ZoneSettings, serial: int) -> bytes:
    """RDATA.  # Compat: Mesos-DNS resolver/resolver.go: the minimum is the TTL."""
    rname = settings.soa_rname.replace("@", ".")
    return (
        wire_name(settings.soa_mname)
        + wire_name(rname)
        + struct.pack(
            "!IIIII", serial & 0xFFFFFFFF, settings.soa_refresh, settings.soa_retry,
            settings.soa_expire, settings.ttl,
        )
    )  # fmt: skip


def _add_empty_names(names: dict[bytes, Name], apex: bytes) -> None:
    """Names that only have names below them exist too.

    # Differs: Mesos-DNS answers NXDOMAIN for them, from which a resolver may conclude that there
    # is nothing below either (RFC 8020).
    """
    empty = Name({})
    for wire in list(names):
        rest = wire
        while len(rest) > len(apex):
            rest = rest[1 + rest[0] :]
            if rest in names:
                break
            names[rest] = empty
