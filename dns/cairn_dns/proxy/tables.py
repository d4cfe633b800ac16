"""The zones of this host as tables that queries are answered from.

Two of them: `near` for zones whose answers are whole, `far` for those that a CNAME may lead out of
and for `thisdcos.directory` (see `io_resolver`).  A zone that is replaced costs what changed in
it; one that is new, gone, or has another TTL has the whole table made anew, in slices.  No I/O.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from msgspec.structs import replace

from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.table import Table, Update
from cairn_dns.zone import Record, RecordSet

from .routes import DIRECTORY
from .zones import LocalZone

#: The SOA and NS of all local zones, as dcos-net `dcos_dns.hrl` has them.
SOA_MNAME = "ns.spartan"
SOA_RNAME = "support.mesosphere.com"
REFRESH, RETRY, EXPIRE, MINIMUM = 60, 180, 86400, 1
NS_TTL = 3600


#: Records that are changed in one go: a few milliseconds.
SLICE = 1000


def settings_of(name: str, ttl: int) -> ZoneSettings:
    """How a local zone is encoded."""
    return ZoneSettings(
        domain=name,
        ttl=ttl,
        srv_priority=1,
        srv_weight=1,
        soa_mname=SOA_MNAME,
        soa_rname=SOA_RNAME,
        soa_refresh=REFRESH,
        soa_retry=RETRY,
        soa_expire=EXPIRE,
        soa_minimum=MINIMUM,
        nameserver_ttl=NS_TTL,
    )


class ZoneTable:
    """Zones and the table of their answers.

    Invariant: when the iterator of a method has ended, and its updates were applied, the table
    answers for `zones` and for nothing else.  Between two of its values others may have their turn;
    None is nothing but that.

    turning: whether answers are given in different orders in turn, or always in the same.
    """

    def __init__(self, *, turning: bool = True) -> None:
        self._turning = turning
        self.zones: dict[str, LocalZone] = {}
        self.table = Table()
        self._records = RecordSet()
        self._encoder: Encoder | None = None

    def replace(
        self, put: Iterable[LocalZone], drop: Iterable[str] = (), *, now: float
    ) -> Iterator[Update | None]:
        """Updates that put zones in place of those of the same name, and drop others.

        now: seconds since the epoch; also the serial.
        """
        anew = self._encoder is None
        for name in drop:
            gone = self.zones.pop(name, None)
            if gone is not None:
                yield from self._change(gone.records, frozenset(), now)
                anew = True
        for zone in put:
            old = self.zones.get(zone.name)
            before = old.records if old is not None else frozenset()
            yield from self._change(before, zone.records, now)
            self.zones[zone.name] = zone
            anew = anew or old is None or old.ttl != zone.ttl
        changed = self._records.take_changed()
        if anew or self._encoder is None:
            self._encoder = Encoder([settings_of(z.name, z.ttl) for z in self.zones.values()])
            updates = self._encoder.whole(self._records, int(now))
        elif changed:
            updates = self._encoder.changed(self._records, changed, int(now))
        else:
            return
        yield from updates if self._turning else map(_first_orders, updates)

    def _change(self, old: frozenset[Record], new: frozenset[Record], now: float) -> Iterator[None]:
        """Put records in place of others, in slices."""
        more = (record for record in new if record not in old)
        while batch := list(islice(more, SLICE)):
            self._records.change((), batch, now=now)
            yield
        less = (record for record in old if record not in new)
        while batch := list(islice(less, SLICE)):
            self._records.change(batch, (), now=now)
            yield


def _first_orders(update: Update) -> Update:
    """The same with the first order of each answer alone."""
    put: list[tuple[bytes, bytes | tuple[bytes, ...]]] = [
        (question, entry[0] if isinstance(entry, tuple) else entry)
        for question, entry in update.put
    ]
    return replace(update, put=put)


class LocalTables:
    """Both tables, and which zone is in which. turning: see `ZoneTable`."""

    def __init__(self, *, turning: bool = True) -> None:
        self.near, self.far = ZoneTable(turning=turning), ZoneTable(turning=turning)

    @property
    def zones(self) -> dict[str, LocalZone]:
        """All zones by name."""
        return {
            name: zone
            for name, zone in (self.near.zones | self.far.zones).items()
            if name != DIRECTORY
        }

    def replace(
        self,
        put: Iterable[LocalZone],
        drop: Iterable[str] = (),
        *,
        now: float,
        foreign: Sequence[str] = (),
    ) -> Iterator[tuple[Table, Update | None]]:
        """Updates, each with the table it belongs to; None as for `ZoneTable`.

        foreign: domains that others answer for.  A zone that moves between the tables is put into
        its new one first.
        """
        fresh = {zone.name: zone for zone in put}
        zones = {DIRECTORY: LocalZone(DIRECTORY, frozenset())} | self.zones | fresh
        for name in set(drop) - fresh.keys():
            zones.pop(name, None)
        far = far_names(zones.values(), foreign)
        for table, names in ((self.far, far), (self.near, zones.keys() - far)):
            changed = [zones[name] for name in names if zones[name] != table.zones.get(name)]
            for update in table.replace(changed, (), now=now):
                yield table.table, update
        for table, names in ((self.near, zones.keys() - far), (self.far, far)):
            gone = table.zones.keys() - names
            for update in table.replace((), gone, now=now) if gone else ():
                yield table.table, update


def far_names(zones: Iterable[LocalZone], foreign: Sequence[str]) -> set[str]:
    """Zones that must not answer for all below them: something else is there, or beyond.

    O(zones squared), and there are few.
    """
    far: set[str] = set()
    # Those below come first, for what is below decides.
    for zone in sorted(zones, key=lambda one: -one.name.count(".")):
        end = "." + zone.name
        if (
            zone.name == DIRECTORY
            or zone.leads_away
            or any(name.endswith(end) for name in (*foreign, *far))
        ):
            far.add(zone.name)
    return far
