"""Writes of the registry: one at a time, whatever waits goes along together.

The rules go on only when `stored` was called. A log that is fenced, or cannot be written for
`GIVE_UP_S`, ends the daemon: a master that cannot keep its promises must not make any.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator

from cairn_core.errors import Unavailable
from cairn_core.master.state.effects import StoreRegistry
from cairn_core.replog.interface import MAX_APPEND_BYTES, MAX_APPEND_RECORDS, Record
from cairn_core.replog.state import KeyedStore

log = logging.getLogger(__name__)

#: As the original's store timeout.
GIVE_UP_S = 20.0
RETRY_S = 1.0


class RegistryWriter:
    """Queue and service. stored: called with each operation once it is durable."""

    def __init__(self, stored: Callable[[int], None]) -> None:
        self._stored = stored
        self._waiting: deque[StoreRegistry] = deque()
        self._work = asyncio.Event()
        self.store_s = 0.0  #: how long the last write took

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, effect: StoreRegistry) -> None:
        """Queue a write."""
        self._waiting.append(effect)
        self._work.set()

    async def run(self, store: KeyedStore, stop: asyncio.Event) -> None:
        """A service: writes until told to stop; what is queued then is not written, which is as
        if it had never been asked for."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                if not self._waiting:
                    self._work.clear()
                    working = asyncio.ensure_future(self._work.wait())
                    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    working.cancel()
                    continue
                began = loop.time()
                operations = list(self._waiting)
                self._waiting.clear()
                records = [record for effect in operations for record in effect.records]
                for part in parts(records):
                    await self._write(store, part)
                self.store_s = loop.time() - began
                for effect in operations:
                    self._stored(effect.operation)
        finally:
            stopping.cancel()

    async def _write(self, store: KeyedStore, records: list[Record]) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + GIVE_UP_S
        while True:
            try:
                await store.write(records)
                return
            except Unavailable as error:
                if loop.time() >= give_up:
                    raise
                log.warning("registry cannot be written, trying again reason=%s", error)
                await asyncio.sleep(RETRY_S)


def parts(records: list[Record]) -> Iterator[list[Record]]:
    """Cut a list of records into appends that the log takes."""
    part: list[Record] = []
    size = 0
    for record in records:
        if part and (
            size + record.size_bytes > MAX_APPEND_BYTES or len(part) >= MAX_APPEND_RECORDS
        ):
            yield part
            part, size = [], 0
        part.append(record)
        size += record.size_bytes
    if part:
        yield part
