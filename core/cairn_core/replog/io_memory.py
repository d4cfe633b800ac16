"""A log in memory for tests and the simulator: it can lose, delay, refuse and fence.

It keeps every promise of `interface` except durability.  Faults are queued by the test and are
taken by the appends in order.
"""

import asyncio
import enum
from collections import deque
from collections.abc import AsyncIterator, Sequence

from cairn_core.errors import Unavailable

from .image import LogImage
from .interface import Bounds, Entry, Record, Unknown


class Fault(enum.Enum):
    """What happens to one append."""

    #: Nothing is written, and the caller is told so (a full disk).
    REFUSED = "refused"
    #: Nothing is written, and the caller cannot know.
    LOST = "lost"
    #: It is written, but the answer is lost.
    UNANSWERED = "unanswered"


class MemoryWriter:
    """See `interface.Writer`."""

    def __init__(self, log: "MemoryLog", image: LogImage) -> None:
        self._log = log
        self._image = image
        self._appends = 0
        self.name = image.name
        self.epoch = image.take_epoch()
        self.end = image.bounds.end

    async def append(
        self, records: Sequence[Record], *, after: int | None = None, write_id: str | None = None
    ) -> int:
        """See `interface.Writer.append`."""
        self._appends += 1
        write_id = write_id or f"{self.epoch}.a{self._appends}"
        await self._log.passing()
        image, position = self._image, self._image.bounds.end
        image.check_append(self.epoch, records, after)
        fault = self._log.faults.popleft() if self._log.faults else None
        if fault is Fault.REFUSED:
            raise Unavailable(f"log {self.name}: refused on purpose")
        if fault is Fault.LOST:
            raise Unknown(self.name, position, write_id, "lost on purpose")
        self.end = image.append(self.epoch, records, write_id, after)
        self._log.appended(self.name)
        if fault is Fault.UNANSWERED:
            raise Unknown(self.name, position, write_id, "answer lost on purpose")
        return self.end


class MemoryLog:
    """See `interface.Log`.  Images outlive `close`, as files would."""

    def __init__(self) -> None:
        self.images: dict[str, LogImage] = {}
        #: Faults of the appends to come, the next one first.
        self.faults: deque[Fault] = deque()
        self._open_gate = asyncio.Event()
        self._open_gate.set()
        self._moved: dict[str, asyncio.Event] = {}

    def hold(self) -> None:
        """Delay appends until `release`."""
        self._open_gate.clear()

    def release(self) -> None:
        """Let delayed appends go on, in the order in which they came."""
        self._open_gate.set()

    async def passing(self) -> None:
        """Wait while appends are held."""
        await self._open_gate.wait()

    def appended(self, name: str) -> None:
        """Wake the watchers of the log `name`."""
        self._moved.pop(name, asyncio.Event()).set()

    async def open(self, name: str) -> MemoryWriter:
        """See `interface.Log.open`."""
        return MemoryWriter(self, self.images.setdefault(name, LogImage(name)))

    async def bounds(self, name: str) -> Bounds:
        """See `interface.Log.bounds`."""
        return self.images[name].bounds if name in self.images else Bounds(0, 0, 0)

    async def read(self, name: str, start: int | None = None) -> AsyncIterator[Entry]:
        """See `interface.Log.read`."""
        if name in self.images:
            image = self.images[name]
            for entry in image.read(start, image.bounds.end):
                yield entry

    async def watch(self, name: str, after: int) -> AsyncIterator[int]:
        """See `interface.Log.watch`."""
        while True:
            moved = self._moved.setdefault(name, asyncio.Event())
            end = (await self.bounds(name)).end
            if end > after:
                after = end
                yield end
            else:
                await moved.wait()

    async def close(self) -> None:
        """See `interface.Log.close`."""
