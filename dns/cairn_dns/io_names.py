"""The names of the cluster as they are now, and the way of each change to the serving processes.

    source --Changes--> `on_changes` --merged--> ClusterZone --names--> Encoder --Updates--> send
                                                     `-- `table`: everything, for who knows nothing

A change is applied at once.  While one is applied the next ones queue, merged by row, and are
applied together.  Everything is done in slices between which the event loop has its turn.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cairn_core.clusterview.view import Changes, Snapshot
from cairn_core.mesos.feed_rows import Row

from .addresses import host_addresses, parse_address
from .cluster_zone import ClusterZone
from .encode import Encoder
from .io_hosts import HostTable
from .io_serial import Serials
from .table import Update
from .wire import TYPE_NAMES
from .zone import RecordSet

log = logging.getLogger(__name__)

#: Changed names that are remembered, in all and of one batch.
MAX_RECENT, MAX_RECENT_OF_BATCH = 1000, 100

Send = Callable[[Update], Awaitable[None]]


class Recent(NamedTuple):
    """A name that changed; `types` are those it has since, none when it is gone."""

    at: float
    name: str
    types: tuple[str, ...]


class Names:
    """Keeps records and serving processes in step with the source.

    send: tells the serving processes an update. refresh: has them take a whole `table` again.

    Invariant: whenever the lock is free and nothing is pending, who took a whole `table` and all
    that was sent since it was begun answers as `records` are.
    """

    def __init__(
        self,
        zone: ClusterZone,
        encoder: Encoder,
        send: Send,
        refresh: Callable[[], None],
        *,
        serials: Serials | None = None,
        sure: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.zone, self.encoder = zone, encoder
        self.hosts = HostTable(self._hosts_changed)
        #: Serial of the zones; 0 until something is known.
        self.serial = 0
        self.recent: deque[Recent] = deque(maxlen=MAX_RECENT)
        #: Called with the seconds from a change's arrival until it was sent.
        self.on_sent: Callable[[float], None] = lambda seconds: None
        #: Changes of the table, and names that were encoded anew, since the start.
        self.table_changes = 0
        self.names_changed = 0
        self._send, self._refresh = send, refresh
        self._serials = serials or Serials()
        self._sure = sure
        self._clock, self._monotonic = clock, monotonic
        self._pending: dict[str, tuple[Row | None, Row | None]] = {}
        self._masters: tuple[str, ...] = ()
        self._hosts_dirty = False
        #: Whether the cluster was told since the last time.
        self._heard = False
        self._arrived: float | None = None
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def records(self) -> RecordSet:
        """All records."""
        return self.zone.records

    @property
    def known(self) -> bool:
        """Whether the cluster is known, from a master or from disk."""
        return self.serial > 0

    # -- what happens --------------------------------------------------------------------------

    def on_changes(self, changes: Changes) -> None:
        """The cluster has changed."""
        merge(self._pending, changes.rows)
        self._heard = True
        self._came()

    def on_masters(self, hosts: Sequence[str]) -> None:
        """Addresses or host names of the masters, in the order of their numbers."""
        self._masters = tuple(hosts)
        self._hosts_changed()

    def look_again(self) -> None:
        """`sure` may say something else now."""
        self._came()

    def _hosts_changed(self) -> None:
        self._hosts_dirty = True
        self._came()

    def _came(self) -> None:
        if self._arrived is None:
            self._arrived = self._monotonic()
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Apply what comes until `stop`."""
        stopping = asyncio.create_task(stop.wait(), name="names-stop")
        applying = asyncio.create_task(self._apply_all(), name="names-apply")
        try:
            await asyncio.wait({stopping, applying}, return_when=asyncio.FIRST_COMPLETED)
            if applying.done():
                applying.result()
        finally:
            stopping.cancel()
            applying.cancel()
            await asyncio.gather(stopping, applying, return_exceptions=True)

    async def _apply_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.apply()

    # -- applying ------------------------------------------------------------------------------

    async def apply(self) -> None:
        """Apply and send what is pending."""
        async with self._lock:
            arrived, self._arrived = self._arrived, None
            heard, self._heard = self._heard, False
            rows, self._pending = self._pending, {}
            now = self._clock()
            await _in_slices(self.zone.apply(rows, now=now))
            if self._hosts_dirty:
                self._hosts_dirty = False
                self._set_hosts(self.zone, now)
            self._want_hosts()
            changed = self.records.take_changed()
            sure, self.encoder.loaded = self.encoder.loaded, self._sure()
            if not self.known:
                if heard:
                    self._show()
            elif changed or sure != self.encoder.loaded:
                self.serial = self._serials.next(self._clock())
                self._remember(changed, now)
                self.names_changed += len(changed)
                await self._send_all(self.encoder.changed(self.records, changed, self.serial))
            if arrived is not None and (changed or rows):
                self.on_sent(self._monotonic() - arrived)

    async def rebuild(
        self, zone: ClusterZone, encoder: Encoder, snapshot: Callable[[], Snapshot]
    ) -> None:
        """Put another zone, made of the same cluster by other rules, in place of this one.

        snapshot: of the cluster as it is when it is called.
        """
        async with self._lock:
            # what is pending is in the snapshot already, if it is of this moment
            rows = {key: (None, row) for key, row in snapshot().rows()}
            self._pending.clear()
            now = self._clock()
            self._set_hosts(zone, now)
            await _in_slices(zone.apply(rows, now=now))
            zone.records.take_changed()
            encoder.loaded = self._sure()
            self.zone, self.encoder = zone, encoder
            self._want_hosts()
            if self.known:
                self._show()

    def table(self) -> Iterator[Update]:
        """Everything, as it is while it is taken."""
        if self.known:
            yield from self.encoder.whole(self.records, self.serial)
        else:
            yield self.encoder.unloaded()

    def _show(self) -> None:
        """Have everything taken anew."""
        self.serial = self._serials.next(self._clock())
        self.table_changes += 1
        self._refresh()

    async def _send_all(self, updates: Iterable[Update]) -> None:
        for update in updates:
            await self._send(update)
            await asyncio.sleep(0)
        self.table_changes += 1

    def _set_hosts(self, zone: ClusterZone, now: float) -> None:
        hosts = self.hosts.addresses
        masters = [one for host in self._masters for one in host_addresses(host, hosts)]
        zone.set_masters(masters, now=now)
        zone.set_hosts(hosts, now=now)

    def _want_hosts(self) -> None:
        masters = {host for host in self._masters if parse_address(host) is None}
        self.hosts.want(self.zone.hosts_wanted() | masters)

    def _remember(self, names: Iterable[str], now: float) -> None:
        for name, _ in zip(names, range(MAX_RECENT_OF_BATCH), strict=False):
            types = sorted(TYPE_NAMES[kind] for kind in self.records.kinds(name))
            self.recent.append(Recent(now, name, tuple(types)))


def merge(
    pending: dict[str, tuple[Row | None, Row | None]],
    rows: Mapping[str, tuple[Row | None, Row | None]],
) -> None:
    """Add changes of rows to earlier ones; what was changed and changed back is none."""
    for key, (before, after) in rows.items():
        first = pending.pop(key)[0] if key in pending else before
        if first != after:
            pending[key] = (first, after)


async def _in_slices(work: Iterator[Any]) -> None:
    for _ in work:
        await asyncio.sleep(0)
