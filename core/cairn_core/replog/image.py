"""One named log held in memory, with every rule of `interface` and no I/O.

The in-memory engine and the simulator run on it, and the tests of the other engines compare
themselves with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .compaction import Compaction
from .interface import (
    MAX_APPEND_BYTES,
    Bounds,
    Entry,
    Fenced,
    Moved,
    Record,
    Truncated,
    check_records,
)


@dataclass(slots=True)
class LogImage:
    """Entries of one log in [begin, end), its newest epoch and its compaction."""

    name: str
    epoch: int = 0
    #: Entries by position; those before `begin` are gone.
    entries: dict[int, Entry] = field(default_factory=dict)
    compaction: Compaction = field(default_factory=Compaction)

    @property
    def bounds(self) -> Bounds:
        """Extent of the log."""
        return Bounds(self.compaction.begin, self.compaction.end, self.epoch)

    def take_epoch(self) -> int:
        """Open the log: every older writer is fenced from now on."""
        self.epoch += 1
        return self.epoch

    def check_append(self, epoch: int, records: Sequence[Record], after: int | None) -> None:
        """Raise what `append` would raise, without writing.  Fenced, Moved or TooLarge."""
        check_records(self.name, records)
        if epoch != self.epoch:
            raise Fenced(self.name, epoch, self.epoch)
        if after is not None and after != self.compaction.end:
            raise Moved(self.name, after, self.compaction.end)

    def append(
        self, epoch: int, records: Sequence[Record], write_id: str, after: int | None = None
    ) -> int:
        """Append `records` behind a few carried ones and return the new end."""
        self.check_append(epoch, records, after)
        room = MAX_APPEND_BYTES - sum(record.size_bytes for record in records)
        carried = self.compaction.choose(len(records), {r.key for r in records}, room)
        for key in carried:
            old = self.entries[self.compaction.position_of(key)]
            self._put(Entry(self.compaction.end, epoch, write_id, old.record, carried=True))
        for record in records:
            self._put(Entry(self.compaction.end, epoch, write_id, record))
        before = self.compaction.begin
        for position in range(before, self.compaction.advance()):
            self.entries.pop(position, None)
        return self.compaction.end

    def read(self, start: int | None, limit: int) -> list[Entry]:
        """Up to `limit` entries from `start` (None: `begin`) on.  Raises Truncated."""
        begin, end = self.compaction.begin, self.compaction.end
        first = begin if start is None else start
        if first < begin:
            raise Truncated(self.name, first, begin)
        return [self.entries[p] for p in range(first, min(end, first + limit))]

    def _put(self, entry: Entry) -> None:
        self.entries[entry.position] = entry
        value = entry.record.value
        self.compaction.note(entry.record.key, None if value is None else entry.record.size_bytes)
