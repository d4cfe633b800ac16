"""Answers made ahead: what a table has to learn when records change.

RFC 1035 (messages, compression), RFC 2782 (SRV), RFC 2308 (negative answers).  The owner of
an answer is a pointer to the question, which stands at a fixed place; for a given name the
question has a fixed length, so that even the pointers into the additional section are known now.
The records themselves are written by `variants`.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from .table import Entry, Update, ZoneState
from .tree import NameTree
from .variants import WireNames, ZoneSettings, ZoneWriter
from .wire import AAAA, CNAME, IN, NS, PTR, SOA, SRV, TXT, TYPE_NAMES, A, wire_name
from .zone import RecordSet, Value

__all__ = ["Encoder", "ZoneSettings"]

#: Questions, and bytes of answers, of one update.
MAX_QUESTIONS, MAX_BYTES = 1000, 256 * 1024
#: Zone of the counters for names outside of all zones: those of addresses (PTR).
OUTSIDE = "arpa"
#: The last counter takes what has none of its own.
_MAX_COUNTERS = 256
_OTHER = ("other", "other")
#: Types that names are asked for with success, besides the SOA.
_KINDS = (A, NS, CNAME, PTR, TXT, AAAA, SRV)
_TYPE_CLASS = {kind: struct.pack("!HH", kind, IN) for kind in (*_KINDS, SOA)}


class Encoder:
    """Turns names of a RecordSet into updates of a table.

    Invariant: a table that took all updates of a `whole`, and of every `changed` since that was
    begun, answers as the records are.  A name belongs to the zone with the longest apex that it
    ends in.

    zones: the first one lends its TTL to names outside of all.  Raises BadName.
    """

    def __init__(self, zones: Sequence[ZoneSettings]) -> None:
        self._counters: list[tuple[str, str]] = []
        self._numbers: dict[tuple[str, str], bytes] = {}
        self._names = WireNames()
        writers = [
            ZoneWriter(zone, partial(self._counter, zone.domain), self._names) for zone in zones
        ]
        self._zones = {writer.domain: writer for writer in writers}
        lender = zones[0] if zones else ZoneSettings(domain=OUTSIDE)
        self._outside = ZoneWriter(lender, partial(self._counter, OUTSIDE), self._names)
        self._tree = NameTree()
        #: CNAMEs, and backwards: answers of who leads to a name hold those of the name.
        self._leads: dict[str, str] = {}
        self._led: dict[str, set[str]] = {}
        self._skipped: set[str] = set()
        self._filled = False
        #: Whether names that are not there are known not to exist.
        self.loaded = True

    @property
    def skipped(self) -> int:
        """Names with records that DNS cannot express."""
        return len(self._skipped)

    def unloaded(self) -> Update:
        """The table of a server that knows nothing of the cluster yet."""
        zones = [ZoneState(z.apex, z.authority, loaded=False) for z in self._zones.values()]
        return Update(begin=True, done=True, zones=zones)

    def whole(self, records: RecordSet, serial: int) -> Iterator[Update]:
        """A whole table.

        serial: used by the first call; later ones repeat what the last `changed` said.
        Between two updates the records may change, if `changed` is called for that.
        """
        first = not self._filled
        if first:
            for zone in self._zones.values():
                zone.set_serial(serial)
        part = _Part(begin=True)
        for name in list(self._tree.ancestors()):
            part.ancestors[wire_name(name)] = True
            if part.full:
                yield part.take()
        self._forget()
        for name in list(records.names()):
            found = records.by_kind(name)
            wire = self._wire(name, found)
            if not found or not wire:
                continue
            zone = self._zone_of(name)
            if first:
                self._appear(name, zone, found, part)
            for kind, entry in zone.entries(name, wire, found, records):
                part.add(wire + _TYPE_CLASS[kind], entry)
            if part.full:
                yield part.take()
                self._forget()
        for zone in self._zones.values():
            self._own(zone, records, part)
        # not before: one that was broken off has not noted all names
        self._filled = True
        yield self._last(part)

    def changed(self, records: RecordSet, names: Iterable[str], serial: int) -> Iterator[Update]:
        """What has to change for `names` (see `RecordSet.take_changed`).  O(names).

        A zone without a changed name keeps its serial.
        """
        part = _Part()
        touched: set[str] = set()
        self._forget()
        for name in self._with_aliases(names):
            found = records.by_kind(name)
            wire = self._wire(name, found)
            if not wire:
                continue
            zone = self._zone_of(name)
            touched.add(zone.domain)
            known = name in self._tree
            kinds: set[int] = set()
            if found:
                self._appear(name, zone, found, part)
                for kind, entry in zone.entries(name, wire, found, records):
                    kinds.add(kind)
                    part.add(wire + _TYPE_CLASS[kind], entry)
            elif known:
                self._vanish(name, zone, part)
            if known:
                part.drop += [wire + _TYPE_CLASS[kind] for kind in _KINDS if kind not in kinds]
            if part.full:
                yield part.take()
                self._forget()
        for zone in self._zones.values():
            if zone.domain in touched:
                zone.set_serial(serial)
                if part.drop:
                    yield part.take()  # from the apex perhaps, before its own are put
                self._own(zone, records, part)
        yield self._last(part)

    def _forget(self) -> None:
        """Records may have changed while others had their turn."""
        for zone in (*self._zones.values(), self._outside):
            zone.forget()

    def _own(self, zone: ZoneWriter, records: RecordSet, part: "_Part") -> None:
        """SOA and NS of a zone; NS only where the records have none."""
        theirs = records.kinds(zone.domain)
        for kind, entry in zone.own():
            if kind not in theirs:
                part.add(zone.apex + _TYPE_CLASS[kind], entry)

    def _last(self, part: "_Part") -> Update:
        zones = [ZoneState(z.apex, z.authority, self.loaded) for z in self._zones.values()]
        return part.take(zones, list(self._counters))

    def _wire(self, name: str, found: object) -> bytes:
        """A name in wire form; empty, and noted if anything was found, when it has none."""
        wire = self._names.wire(name)
        if not wire and found:
            self._skipped.add(name)
        elif not wire:
            self._skipped.discard(name)
        return wire

    def _zone_of(self, name: str) -> ZoneWriter:
        at = name
        while at:
            zone = self._zones.get(at)
            if zone is not None:
                return zone
            at = at.partition(".")[2]
        return self._outside

    def _appear(
        self, name: str, zone: ZoneWriter, found: dict[int, list[Value]], part: "_Part"
    ) -> None:
        """A name has records now, or has others than before."""
        if name not in self._tree:
            apex = zone.domain if zone is not self._outside else name
            for ancestor in self._tree.add(name, apex):
                part.ancestors[wire_name(ancestor)] = True
        if CNAME in found or name in self._leads:
            self._lead(name, str(found[CNAME][0]) if CNAME in found else None)

    def _vanish(self, name: str, zone: ZoneWriter, part: "_Part") -> None:
        apex = zone.domain if zone is not self._outside else name
        for ancestor in self._tree.remove(name, apex):
            part.ancestors[wire_name(ancestor)] = False
        self._lead(name, None)

    def _lead(self, name: str, target: str | None) -> None:
        """Note where a name leads by CNAME."""
        old = self._leads.pop(name, None)
        if old is not None:
            self._led[old].discard(name)
            if not self._led[old]:
                del self._led[old]
        if target is not None:
            self._leads[name] = target
            self._led.setdefault(target, set()).add(name)

    def _with_aliases(self, names: Iterable[str]) -> set[str]:
        """The names, and those whose CNAMEs lead to them."""
        found = set(names)
        ahead = list(found) if self._led else []
        while ahead:
            new = self._led.get(ahead.pop(), set()) - found
            found |= new
            ahead += new
        return found

    def _counter(self, zone: str, kind: int) -> bytes:
        """The first byte of variants that are counted for a zone and a type."""
        label = (zone, TYPE_NAMES[kind])
        number = self._numbers.get(label)
        if number is None:
            label = label if len(self._counters) < _MAX_COUNTERS - 1 else _OTHER
            if label not in self._counters:
                self._counters.append(label)
            number = self._numbers[zone, TYPE_NAMES[kind]] = bytes([self._counters.index(label)])
        return number


class _Part:
    """An update being made; `take` gives it away and starts the next one."""

    def __init__(self, *, begin: bool = False) -> None:
        self._begin = begin
        self._clear()

    def _clear(self) -> None:
        self.put: list[tuple[bytes, Entry]] = []
        self.drop: list[bytes] = []
        #: Names that are ancestors now, and that are none any more; the last word counts.
        self.ancestors: dict[bytes, bool] = {}
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether it is as large as an update may be."""
        return (
            len(self.put) + len(self.drop) + len(self.ancestors) >= MAX_QUESTIONS
            or self._bytes >= MAX_BYTES
        )

    def add(self, question: bytes, entry: Entry) -> None:
        """Put an entry."""
        self.put.append((question, entry))
        self._bytes += len(entry) if isinstance(entry, bytes) else len(entry[0]) * len(entry)

    def take(
        self,
        zones: list[ZoneState] | None = None,
        counters: list[tuple[str, str]] | None = None,
    ) -> Update:
        """The update; with zones it is the last one."""
        more = [name for name, exists in self.ancestors.items() if exists]
        less = [name for name, exists in self.ancestors.items() if not exists]
        update = Update(
            self.put, self.drop, more, less,
            zones, counters, self._begin, zones is not None,
        )  # fmt: skip
        self._begin = False
        self._clear()
        return update
