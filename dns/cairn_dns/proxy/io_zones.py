"""The zones of this host: built in, configured and pushed, from their parts to the tables.

Work on a large zone is done in slices, between which queries are answered.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from cairn_dns.wire import CNAME

from .io_store import Store
from .tables import LocalTables
from .zones import (
    MAX_PUSHED_RECORDS,
    MAX_ZONES,
    BadZone,
    LocalZone,
    ZoneSpec,
    read_records,
    zone_name,
)

log = logging.getLogger(__name__)

#: Records that are checked in one go: about a millisecond.
SLICE = 500
#: Entries of earlier tables that are freed in one go.
FREE_ENTRIES = 2000


class NoRoom(Exception):
    """There are too many zones or records to take one more."""


class Zones:
    """What is served, and why.

    changed: called after the set of zones has changed, with their names: routes depend on it.
    Invariant: a pushed zone is on disk before it is served.
    """

    def __init__(
        self, store: Store, changed: Callable[[list[str]], None], *, turning: bool = True
    ) -> None:
        self.tables = LocalTables(turning=turning)
        self.pushed: dict[str, ZoneSpec] = {}
        self.configured_names: list[str] = []
        #: Domains of others: a zone above one of them must not answer for it.
        self.foreign: Sequence[str] = ()
        #: How long the last push of a zone took, seconds, by zone.
        self.push_s: dict[str, float] = {}
        self._store = store
        self._changed = changed
        self._turn = asyncio.Lock()

    async def restore(self, taken: Iterable[str]) -> None:
        """Serve what was pushed before a restart, except what others own by now."""
        taken = [*taken, *self.configured_names]
        for name, spec in await asyncio.to_thread(lambda: list(self._store.zones())):
            try:
                zone_name(name, pushed=True, taken=taken)
                zone = await self._read(name, spec)
            except BadZone as error:
                log.error("kept zone not served name=%s reason=%s", name, error)
                continue
            self.pushed[name] = spec
            await self._put([zone])

    async def set_own(self, built_in: Iterable[LocalZone], configured: Iterable[LocalZone]) -> None:
        """The zones that this daemon has by itself, in place of the old ones."""
        configured = list(configured)
        names = [zone.name for zone in configured]
        gone = [name for name in self.configured_names if name not in names]
        self.configured_names = names
        await self._put([*built_in, *configured], gone)

    async def push(self, name: str, spec: ZoneSpec) -> None:
        """Keep and serve a pushed zone.  Raises BadZone, NoRoom, OSError."""
        start = time.monotonic()
        if name not in self.pushed and len(self.pushed) >= MAX_ZONES:
            raise NoRoom(f"zone: there are {MAX_ZONES} zones already")
        others = sum(len(one.records) for other, one in self.pushed.items() if other != name)
        if others + len(spec.records) > MAX_PUSHED_RECORDS:
            raise NoRoom(
                f"records: pushed zones have {MAX_PUSHED_RECORDS} at most, "
                f"and others have {others} already"
            )
        zone = await self._read(name, spec)
        await asyncio.to_thread(self._store.keep_zone, name, spec)
        self.pushed[name] = spec
        await self._put([zone])
        self.push_s[name] = time.monotonic() - start

    async def drop(self, name: str) -> None:
        """Forget a pushed zone.  Raises OSError."""
        await asyncio.to_thread(self._store.drop_zone, name)
        self.pushed.pop(name, None)
        await self._put((), [name])

    async def _read(self, name: str, spec: ZoneSpec) -> LocalZone:
        records, away = set(), False
        for number, record in enumerate(read_records(name, spec.records)):
            records.add(record)
            away = away or record[1] == CNAME
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        return LocalZone(name, frozenset(records), spec.ttl, spec.generation, away)

    async def _put(self, zones: Iterable[LocalZone], gone: Iterable[str] = ()) -> None:
        async with self._turn:
            before = self.tables.zones.keys()
            changes = self.tables.replace(zones, gone, now=time.time(), foreign=self.foreign)
            for table, update in changes:
                if update is not None:
                    table.apply(update)
                await asyncio.sleep(0)
            for one in (self.tables.near.table, self.tables.far.table):
                while one.free(FREE_ENTRIES):  # noqa: ASYNC110 - others have their turn
                    await asyncio.sleep(0)
            if before != self.tables.zones.keys():
                self._changed(list(self.tables.zones))
