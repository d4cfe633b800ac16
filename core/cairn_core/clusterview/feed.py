"""Reader's side of the node feed: frames in, a table and its changes out.

The messages are those of `cairn_core.kit.feed`.  A whole table is built aside and takes the place
of the old one only when its digest has proved it complete, so that nobody ever acts on half a
cluster; increments show at their digest too, which ends each batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cairn_core.errors import RemoteError
from cairn_core.kit.feed import SHARDS, Digest, Hello, Message, Rows, row_hash, shard_of

#: Rows that a reader will hold; a master that sends more is not believed.
MAX_ROWS = 4_000_000


class FeedBroken(RemoteError):
    """The stream contradicts itself: drop it and subscribe from nothing."""


@dataclass(slots=True)
class _Table:
    """Rows with their digest."""

    values: dict[str, bytes] = field(default_factory=dict)
    shards: list[int] = field(default_factory=lambda: [0] * SHARDS)

    def put(self, key: str, value: bytes | None) -> None:
        old = self.values.pop(key, None)
        if old is not None:
            self.shards[shard_of(key)] ^= row_hash(key, old)
        if value is not None:
            self.values[key] = value
            self.shards[shard_of(key)] ^= row_hash(key, value)


@dataclass(frozen=True, slots=True)
class Delta:
    """Changed keys with their new values (None: gone) since the last Delta.

    epoch: of the publisher. new_epoch: the table was replaced under another epoch than before,
        so that what is missing now may only not have come back yet.
    """

    epoch: int
    values: Mapping[str, bytes | None]
    new_epoch: bool = False


class FeedReader:
    """The table as last proved complete, and where to go on from.

    Invariant: `values` is what all Deltas together say, and was proved by a digest; `epoch` and
    `seq` say when, or are 0 after `forget`.
    """

    def __init__(self) -> None:
        #: Position to subscribe from; (0, 0) at first and after `forget`.
        self.epoch = 0
        self.seq = 0
        self._table = _Table()
        self._aside: _Table | None = None
        self._pending: dict[str, bytes | None] = {}
        self._epoch_shown = 0
        self._greeted = False

    @property
    def values(self) -> Mapping[str, bytes]:
        """Rows as last proved complete."""
        return self._table.values

    def subscribe(self) -> tuple[int, int]:
        """A new stream begins: the (epoch, seq) to ask for."""
        self._greeted = False
        self._aside = None
        self._pending = {}
        return self.epoch, self.seq

    def forget(self) -> None:
        """Subscribe from nothing next time; the rows stay until others are proved complete."""
        self.epoch = self.seq = 0

    def received(self, message: Message) -> Delta | None:
        """Take one message; a Delta when a batch is complete and changed something.

        Raises FeedBroken; then call `forget` and subscribe again.
        """
        match message:
            case Hello(epoch, _, whole):
                self._greeted = True
                if whole:
                    self._aside = _Table()
                elif epoch != self.epoch:
                    raise FeedBroken(f"epoch {epoch} continues epoch {self.epoch}")
                return None
            case Rows(frames):
                if not self._greeted:
                    raise FeedBroken("rows before the hello")
                for frame in frames:
                    if self._aside is None:
                        self._pending[frame.key] = frame.value
                    else:
                        self._aside.put(frame.key, frame.value)
                if len(self._pending) + len((self._aside or self._table).values) > MAX_ROWS:
                    raise FeedBroken(f"more than {MAX_ROWS} rows")
                return None
            case Digest(epoch, seq, shards):
                if not self._greeted:
                    raise FeedBroken("digest before the hello")
                return self._complete(epoch, seq, shards)

    def _complete(self, epoch: int, seq: int, shards: list[int]) -> Delta | None:
        old = self._table.values
        if self._aside is None:
            changed = {k: v for k, v in self._pending.items() if old.get(k) != v}
            before = {key: old.get(key) for key in changed}
            for key, value in changed.items():
                self._table.put(key, value)
            if shards != self._table.shards:
                for key, value in before.items():
                    self._table.put(key, value)
                raise self._differing(seq)
        else:
            if shards != self._aside.shards:
                raise self._differing(seq)
            new = self._aside.values
            changed = {key: value for key, value in new.items() if old.get(key) != value}
            changed |= dict.fromkeys(key for key in old if key not in new)
            self._table, self._aside = self._aside, None
        self._pending = {}
        self.epoch, self.seq = epoch, seq
        new_epoch = self._epoch_shown not in (0, epoch)
        first = self._epoch_shown == 0
        self._epoch_shown = epoch
        if not changed and not new_epoch and not first:
            return None
        return Delta(epoch, changed, new_epoch)

    def _differing(self, seq: int) -> FeedBroken:
        return FeedBroken(f"rows at seq {seq} do not match their digest")
