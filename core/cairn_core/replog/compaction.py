"""Rolling compaction: which old records an append carries forward, and where the log may begin.

There is no snapshot.  Once a log has grown well beyond what is alive in it, each append also
re-writes a few of the oldest live records at the end; the positions before the oldest live
record that remains are then dead and `begin` moves there.  A replay from `begin` is complete
because every live key has a record in [begin, end), and what it superseded lies before it.

    begin                                        end
      | a1 . b1 . . c1 . | a2 . . . d1             |     live: b1 c1 a2 d1
      append e1 carrying b1, c1:
                         | a2 . . . d1 b1 c1 e1    |     begin moved to a2

Cost: at most `CARRY_PER_RECORD` carried records for each appended one.  In a steady state the
log is at most `GARBAGE_FACTOR` times as long as it has live keys, plus `SLACK`.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

#: Records carried at most for each record appended.
CARRY_PER_RECORD = 4
#: Carrying starts when the log is longer than this multiple of its live keys ...
GARBAGE_FACTOR = 2
#: ... plus this many positions, so that small logs are left alone.
SLACK = 256
#: Bytes carried at most by one append, so that it stays within the limits of every engine.
MAX_CARRY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Live:
    """Where the newest record of a key is, and how many bytes it has."""

    position: int
    size_bytes: int


@dataclass(slots=True)
class Compaction:
    """The live records of one log, oldest first.

    Invariant: `_live` is ordered by position, and every position in it is in [begin, end).
    """

    begin: int = 0
    end: int = 0
    _live: OrderedDict[str, Live] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        """Number of live keys."""
        return len(self._live)

    def note(self, key: str, size_bytes: int | None) -> None:
        """Account for a record at `end` (size None: a tombstone) and move `end` past it."""
        self._live.pop(key, None)
        if size_bytes is not None:
            self._live[key] = Live(self.end, size_bytes)
        self.end += 1

    def choose(self, appended: int, written: Collection[str], room_bytes: int) -> list[str]:
        """Keys to carry in front of an append of `appended` records, oldest first.

        written: keys of that append; they are about to be superseded and never carried.
        room_bytes: what the engine can still take in the same transaction.
        """
        garbage = self.end - self.begin - GARBAGE_FACTOR * len(self._live) - SLACK
        if garbage <= 0:
            return []
        chosen: list[str] = []
        total = 0
        for key, live in self._live.items():
            if key in written:
                continue
            total += live.size_bytes
            over = total > room_bytes or (chosen and total > MAX_CARRY_BYTES)
            if over or len(chosen) >= CARRY_PER_RECORD * appended:
                break
            chosen.append(key)
        return chosen

    def advance(self) -> int:
        """Move `begin` to the oldest live record and return it.

        The last `SLACK` positions stay even when they are dead, so that a reader who follows
        closely is not sent back to the beginning.
        """
        oldest = next(iter(self._live.values()), None)
        dead = self.end if oldest is None else oldest.position
        self.begin = max(self.begin, min(dead, self.end - SLACK))
        return self.begin

    def position_of(self, key: str) -> int:
        """Position of the newest record of a live key.  Raises KeyError."""
        return self._live[key].position

    def check(self) -> None:
        """Assert the invariant."""
        positions = [live.position for live in self._live.values()]
        assert positions == sorted(set(positions))
        assert all(self.begin <= position < self.end for position in positions)


def replay(records: Iterable[tuple[str, bytes | None]]) -> dict[str, bytes]:
    """Keys and values after `records` in this order; the meaning that compaction preserves."""
    state: dict[str, bytes] = {}
    for key, value in records:
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    return state
