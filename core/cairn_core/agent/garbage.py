"""When the directories of ended executors are removed.

A directory stays for `gc_delay`, shorter when the disk fills: the longest age allowed is gc_delay
times what is free above the headroom, `gc_delay * max(0, 1 - headroom - usage)`. Source: Apache
Mesos `src/slave/gc.cpp`, `Slave::checkDiskUsage`.
"""

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True)
class Garbage:
    """Directories that wait for their removal.

    Times are wall-clock seconds, because they come from the directories' own times when an agent
    starts anew. Invariant: `_queue` is a heap by the time since when nobody needs the path.
    """

    #: Seconds that a path stays on an empty disk.
    delay_s: float
    #: Fraction of the disk that shall stay free.
    headroom: float = 0.1
    _queue: list[tuple[float, str]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, path: str) -> bool:
        return path in self._known

    def add(self, path: str, *, wall: float) -> None:
        """Nobody needs `path` since `wall`; repeating it changes nothing."""
        if path not in self._known:
            self._known.add(path)
            heapq.heappush(self._queue, (wall, path))

    def max_age_s(self, usage: float) -> float:
        """How old a directory may get. usage: used fraction of the disk, 0 to 1."""
        return self.delay_s * max(0.0, 1.0 - self.headroom - usage)

    def due(self, usage: float, *, wall: float) -> list[str]:
        """Paths to remove now, oldest first; they are forgotten here."""
        oldest = wall - self.max_age_s(usage)
        paths = []
        while self._queue and self._queue[0][0] <= oldest:
            _, path = heapq.heappop(self._queue)
            self._known.discard(path)
            paths.append(path)
        return paths
