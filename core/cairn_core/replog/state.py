"""A keyed store on a log: replay to a dictionary, then put and delete in batches.

This is what master, Marathon and the address allocator keep their durable facts in.  It also
resolves `Unknown`: it reads the log back, looks for the write id, and tries again when the write
is not there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cairn_core.errors import CairnError

from .interface import Entry, Log, Record, Unknown, Writer

#: Attempts to settle one write before `Unknown` is passed to the caller.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Held:
    """Newest value of a key, the schema of its encoding, and the position that said so."""

    value: bytes
    schema: int
    position: int


@dataclass(slots=True)
class Replay:
    """State after a prefix of the log.  Applying entries in the order of the log is enough."""

    held: dict[str, Held] = field(default_factory=dict)
    #: Position after the last entry applied.
    end: int = 0

    def apply(self, entry: Entry) -> None:
        """Take one entry into account; an entry older than what is held is ignored."""
        if entry.position < self.end:
            return
        self.end = entry.position + 1
        record = entry.record
        if record.value is None:
            self.held.pop(record.key, None)
        else:
            self.held[record.key] = Held(record.value, record.schema, entry.position)


class KeyedStore:
    """The newest value of every key of one log, and the right to change them.

    What `items` and `get` show is durable: a change is visible only after its append returned.
    """

    def __init__(self, log: Log, writer: Writer, replay: Replay) -> None:
        self._log = log
        self._writer = writer
        self._held = replay.held
        #: Deleted keys and the end of the deletion, so that two writes of one key that are in
        #: flight together cannot be applied in the wrong order.
        self._deleted: dict[str, int] = {}
        self._in_flight = 0
        self._writes = 0

    @classmethod
    async def open(cls, log: Log, name: str) -> "KeyedStore":
        """Take a new epoch of the log and read it to its end.  Raises Unavailable."""
        writer = await log.open(name)
        replay = Replay()
        async for entry in log.read(name):
            replay.apply(entry)
        return cls(log, writer, replay)

    @property
    def epoch(self) -> int:
        """Epoch of this store's writer; what commands to others are fenced with."""
        return self._writer.epoch

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str) -> Held | None:
        """Newest durable value of `key`."""
        return self._held.get(key)

    def items(self, prefix: str = "") -> Iterator[tuple[str, Held]]:
        """Keys that start with `prefix`, in no particular order.  O(number of keys)."""
        return ((key, held) for key, held in self._held.items() if key.startswith(prefix))

    async def put(self, key: str, value: bytes, schema: int = 1) -> None:
        """Make `value` the durable value of `key`.  Raises as `write`."""
        await self.write([Record(key, value, schema)])

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete those of `keys` that exist, atomically.  Raises as `write`."""
        if gone := [Record(key, None) for key in keys if key in self._held]:
            await self.write(gone)

    async def write(self, records: Sequence[Record]) -> int:
        """Append `records` atomically, settling an unknown outcome, and return the new end.

        Raises Fenced, TooLarge, Unavailable (nothing written), or Unknown when the outcome
        could not be settled: then stop acting and start over.
        """
        self._writes += 1
        write_id = f"{self._writer.epoch}.{self._writes}"
        self._in_flight += 1
        try:
            end = await self._settled(records, write_id)
            self._apply(records, end)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._deleted.clear()
        return end

    async def _settled(self, records: Sequence[Record], write_id: str) -> int:
        unknown: Unknown | None = None
        for _ in range(ATTEMPTS):
            try:
                return await self._writer.append(records, write_id=write_id)
            except Unknown as error:
                unknown = error
            if (end := await self._find(unknown)) is not None:
                return end
        assert unknown is not None
        raise unknown

    async def _find(self, unknown: Unknown) -> int | None:
        end = None
        try:
            async for entry in self._log.read(self._writer.name, unknown.position):
                if entry.write_id == unknown.write_id:
                    end = entry.position + 1
        except CairnError:
            # Compacted away, or the engine is gone: the caller must start over.
            raise unknown from None
        return end

    def _apply(self, records: Sequence[Record], end: int) -> None:
        """Show the records whose append ended at `end`; older than what is shown loses."""
        for position, record in enumerate(records, end - len(records)):
            held = self._held.get(record.key)
            shown = held.position if held else self._deleted.get(record.key, -1)
            if position < shown:
                continue
            if record.value is None:
                self._held.pop(record.key, None)
                self._deleted[record.key] = position
            else:
                self._held[record.key] = Held(record.value, record.schema, position)


def contents(store: KeyedStore) -> Mapping[str, bytes]:
    """Keys and values as a plain dictionary, for tests and for `/debug/state`."""
    return {key: held.value for key, held in store.items()}
