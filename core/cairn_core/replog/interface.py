"""What every log engine promises; no engine is named here.

A *log* is a sequence of keyed records.  Each record has a *position*, counted from 0.  The log
holds the positions in [begin, end); a rolling compaction (`compaction`) moves `begin`, so that a
replay from `begin` always yields the same keys and values as a replay of the whole history.

Promises:

- An append is atomic over its records, and durable once `append` has returned.
- Opening a log takes a new *epoch*; from then on every append of an older writer is `Fenced`.
- Each append is bound to a position, so an append that ended `Unknown` can no longer land once
  a later one has.  Hence the remedy: read the position back, look for the write id, and append
  again with the same id when it is not there (`state.KeyedStore` does this).
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cairn_core.errors import CairnError, Unavailable

#: Largest value of one record in bytes.  A ZooKeeper request must stay below 1 MiB.
MAX_RECORD_BYTES = 512 * 1024
#: Largest key in bytes of UTF-8.
MAX_KEY_BYTES = 1024
#: Largest sum of keys and values in one append, in bytes, for the same reason.
MAX_APPEND_BYTES = 896 * 1024
#: Most records in one append.
MAX_APPEND_RECORDS = 4096


class Fenced(CairnError):
    """Somebody opened a newer epoch: stop acting and exit."""

    def __init__(self, name: str, epoch: int, newer: int) -> None:
        super().__init__(f"log {name}: epoch {epoch} is fenced by epoch {newer}")
        self.name, self.epoch, self.newer = name, epoch, newer


class Unknown(CairnError):
    """The append may or may not have landed: read from `position` on and look for `write_id`."""

    def __init__(self, name: str, position: int, write_id: str, why: str) -> None:
        super().__init__(f"log {name}: outcome of write {write_id} at {position} unknown: {why}")
        self.name, self.position, self.write_id = name, position, write_id


class Moved(CairnError):
    """The log does not end where the append demanded; nothing was written."""

    def __init__(self, name: str, expected: int, end: int) -> None:
        super().__init__(f"log {name}: ends at {end}, not at {expected}")
        self.name, self.expected, self.end = name, expected, end


class Truncated(CairnError):
    """The position asked for was compacted away: start over from `begin` with an empty state."""

    def __init__(self, name: str, position: int, begin: int) -> None:
        super().__init__(f"log {name}: position {position} is before the begin {begin}")
        self.name, self.position, self.begin = name, position, begin


class Corrupt(Unavailable):
    """The stored log cannot be read; `path` names the file.  Restore it from a dump."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"log file {path} is damaged: {why}")
        self.path = path


class TooLarge(CairnError):
    """The caller exceeded one of the limits of this module; nothing was written."""


@dataclass(frozen=True, slots=True)
class Record:
    """One fact: `key` now has `value`.

    value: None deletes the key.
    schema: version of the value's encoding, >= 0, chosen by the owner of the key.
    """

    key: str
    value: bytes | None
    schema: int = 1

    @property
    def size_bytes(self) -> int:
        """Bytes that count against the limits."""
        return len(self.key.encode()) + len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in its place.

    carried: True for a copy that the compaction brought forward; it repeats what an older
        position said and is no news for somebody who has read that.
    """

    position: int
    epoch: int
    write_id: str
    record: Record
    carried: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """Extent of a log: positions [begin, end), and the newest epoch (0: never opened)."""

    begin: int
    end: int
    epoch: int


class Writer(Protocol):
    """The right to append to one log, until somebody else opens it."""

    @property
    def name(self) -> str:
        """Name of the log."""

    @property
    def epoch(self) -> int:
        """Epoch of this writer, >= 1, larger than that of every earlier writer."""

    @property
    def end(self) -> int:
        """Position after the last record that this writer knows to be in the log."""

    async def append(
        self, records: Sequence[Record], *, after: int | None = None, write_id: str | None = None
    ) -> int:
        """Append `records` atomically and return the position after the last of them.

        after: refuse with `Moved` unless the log ends exactly there.
        write_id: marks the entries, to find them after `Unknown`; made up when absent.
        Concurrent calls are committed together, in the order of the calls.
        Raises Fenced, Moved, Unknown, TooLarge; Unavailable when nothing was written and a
        later attempt may succeed.
        """


class Log(Protocol):
    """Named logs on one storage."""

    async def open(self, name: str) -> Writer:
        """Take the next epoch of the log `name`, creating it when absent, and return its writer.

        Raises Unavailable.
        """

    async def bounds(self, name: str) -> Bounds:
        """Extent of the log `name`; Bounds(0, 0, 0) when there is none."""

    def read(self, name: str, start: int | None = None) -> AsyncIterator[Entry]:
        """Entries from `start` (None: from `begin`) to the end at the time of the call.

        Raises Truncated when `start` lies before `begin`, also in the midst of a slow read.
        """

    def watch(self, name: str, after: int) -> AsyncIterator[int]:
        """The end of the log each time it lies beyond what was yielded before, first `after`.

        Moves in quick succession are one value.
        """

    async def close(self) -> None:
        """Finish what was begun and release the storage.  Idempotent."""


def check_records(name: str, records: Sequence[Record]) -> None:
    """Raise TooLarge unless `records` may be one append to the log `name`."""
    if not records or len(records) > MAX_APPEND_RECORDS:
        raise TooLarge(f"log {name}: append of {len(records)} records, need 1-{MAX_APPEND_RECORDS}")
    total = 0
    for record in records:
        key_bytes = len(record.key.encode())
        if not 0 < key_bytes <= MAX_KEY_BYTES:
            raise TooLarge(f"log {name}: key of {key_bytes} bytes, need 1-{MAX_KEY_BYTES}")
        value_bytes = len(record.value or b"")
        if value_bytes > MAX_RECORD_BYTES:
            raise TooLarge(
                f"log {name}: value of {record.key[:80]!r} has {value_bytes} bytes, "
                f"limit {MAX_RECORD_BYTES}"
            )
        total += key_bytes + value_bytes
    if total > MAX_APPEND_BYTES:
        raise TooLarge(f"log {name}: append of {total} bytes, limit {MAX_APPEND_BYTES}")
