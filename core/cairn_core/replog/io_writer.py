"""A queue in front of a keyed store: one append at a time, whatever waits goes along together.

    writer = QueuedWriter(records_of, durable)
    writer.add(item)                    never blocks
    await writer.run(store)             a task: `durable(item)` in order, each after its records

A log that is fenced, or cannot be written for `GIVE_UP_S`, ends the task with its error: whoever
cannot keep a promise must not make any. What still waits then, or when the task is cancelled, is as
if it had never happened.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from cairn_core.errors import Unavailable
from cairn_core.replog.interface import MAX_APPEND_BYTES, MAX_APPEND_RECORDS, Record
from cairn_core.replog.state import KeyedStore

log = logging.getLogger(__name__)

T = TypeVar("T")

#: As the original's store timeout.
GIVE_UP_S = 20.0
RETRY_S = 1.0


class QueuedWriter(Generic[T]):
    """See the module.

    records_of: what an item wants written; an item without records is durable at once unless
        others wait before it. max_waiting: items after which `room` makes callers wait.
    """

    def __init__(
        self,
        records_of: Callable[[T], Sequence[Record]],
        durable: Callable[[T], None],
        *,
        max_waiting: int = 4096,
    ) -> None:
        self._records_of = records_of
        self._durable = durable
        self._max_waiting = max_waiting
        self._waiting: deque[T] = deque()
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._writing = False
        #: How long the last append took, and how many records were written.
        self.append_s = 0.0
        self.records = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T) -> None:
        """Take an item; at once done where nothing has to be written or waited for."""
        if not self._waiting and not self._writing and not self._records_of(item):
            self._durable(item)
            return
        self._waiting.append(item)
        if len(self._waiting) >= self._max_waiting:
            self._room.clear()
        self._work.set()

    async def room(self) -> None:
        """Wait until there is room for more."""
        await self._room.wait()

    async def run(self, store: KeyedStore) -> None:
        """Write until cancelled. Raises what the store raises."""
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            self._work.clear()
            items = list(self._waiting)
            self._waiting.clear()
            self._room.set()
            self._writing = True
            began = loop.time()
            records = [record for item in items for record in self._records_of(item)]
            for part in parts(records):
                await _write(store, part)
            self.append_s = loop.time() - began
            self.records += len(records)
            self._writing = False
            for item in items:
                self._durable(item)


async def _write(store: KeyedStore, records: list[Record]) -> None:
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
