"""Writes of Marathon's log: one append at a time, whatever waits goes along together.

Outcomes are handed on in their order, each after its records are durable. A log that is fenced, or
cannot be written for `GIVE_UP_S`, ends the daemon: what it promised could be forgotten.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from cairn_core.errors import Unavailable
from cairn_core.replog.interface import MAX_APPEND_BYTES, MAX_APPEND_RECORDS, Record
from cairn_core.replog.state import KeyedStore
from cairn_scheduler.marathon.effects import Outcome

log = logging.getLogger(__name__)

GIVE_UP_S = 20.0
RETRY_S = 1.0
#: Outcomes that may wait before the master's events are not read any more.
MAX_WAITING = 4096


class LogWriter:
    """Queue and service. durable: called with each outcome once its records are in the log."""

    def __init__(self, durable: Callable[[Outcome], None]) -> None:
        self._durable = durable
        self._waiting: deque[Outcome] = deque()
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._writing = False
        #: How long the last append took, and how many records were written.
        self.append_s = 0.0
        self.records = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; at once done where nothing has to be written or waited for."""
        if not outcome.records and not outcome.effects:
            return
        if not outcome.records and not self._waiting and not self._writing:
            self._durable(outcome)
            return
        self._waiting.append(outcome)
        if len(self._waiting) >= MAX_WAITING:
            self._room.clear()
        self._work.set()

    async def room(self) -> None:
        """Wait until there is room for more."""
        await self._room.wait()

    async def run(self, store: KeyedStore) -> None:
        """Write until cancelled; what waits then is as if it had never happened."""
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            self._work.clear()
            outcomes = list(self._waiting)
            self._waiting.clear()
            self._room.set()
            self._writing = True
            began = loop.time()
            records = [record for outcome in outcomes for record in outcome.records]
            for part in parts(records):
                await self._write(store, part)
            self.append_s = loop.time() - began
            self.records += len(records)
            self._writing = False
            for outcome in outcomes:
                self._durable(outcome)

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
                log.warning("log cannot be written, trying again reason=%s", error)
                await asyncio.sleep(RETRY_S)


def parts(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Cut records into appends that the log takes, in their order."""
    part: list[Record] = []
    size = 0
    for record in records:
        full = size + record.size_bytes > MAX_APPEND_BYTES or len(part) >= MAX_APPEND_RECORDS
        if part and full:
            yield part
            part, size = [], 0
        part.append(record)
        size += record.size_bytes
    if part:
        yield part
