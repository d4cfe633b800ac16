"""Time, chance and connections of the simulation."""

import contextlib
import heapq
from collections.abc import Callable, Coroutine, Generator
from random import Random
from typing import Any, TypeAlias, TypeVar

_Action: TypeAlias = Callable[[], None]
T = TypeVar("T")

#: Wall-clock time of the simulation's start.
WALL = 1_800_000_000.0


class World:
    """A virtual clock with what is to happen, in order."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.events = 0
        self._queue: list[tuple[float, int, _Action]] = []
        self._number = 0

    @property
    def wall(self) -> float:
        """Seconds since the epoch."""
        return WALL + self.now

    def at(self, when: float, action: _Action) -> None:
        """Do something at a time; things of one time happen in the order they were asked for."""
        self._number += 1
        heapq.heappush(self._queue, (max(when, self.now), self._number, action))

    def after(self, delay: float, action: _Action) -> None:
        """Do something after a delay in seconds."""
        self.at(self.now + delay, action)

    def spawn(
        self, work: Coroutine[float, None, None], alive: Callable[[], bool] = lambda: True
    ) -> None:
        """Run a coroutine that waits for `Pause` alone; it ends for good when not `alive`."""

        def go_on() -> None:
            if not alive():
                work.close()
                return
            with contextlib.suppress(StopIteration):
                self.after(work.send(None), go_on)

        go_on()

    def run(self, seconds: float, *, each: _Action | None = None) -> None:
        """Let time pass; `each` is called behind every event."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            self.events += 1
            action()
            if each is not None:
                each()
        self.now = end


class Pause:
    """Awaited by a coroutine of `World.spawn`: virtual seconds pass."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the coroutine waits")


class Connection:
    """Two directions, each in order, each message late by chance; cut at once for both ends.

    on_cut: called once for each end, some time after the cut, unless it cut itself.
    """

    def __init__(self, world: World, *, latency_s: float = 0.02) -> None:
        self.world = world
        self.is_open = True
        self._latency_s = latency_s
        self._last = [0.0, 0.0]
        self.on_cut: list[_Action | None] = [None, None]

    def send(self, towards: int, action: _Action) -> None:
        """Deliver to end 0 or 1; lost when the connection is cut before it arrives."""
        if not self.is_open:
            return
        late = self.world.rng.random() * self._latency_s
        when = self._last[towards] = max(self._last[towards], self.world.now + late)

        def arrive() -> None:
            if self.is_open:
                action()

        self.world.at(when, arrive)

    def cut(self, *, silent: int | None = None) -> None:
        """End it; what is under way is lost. silent: the end that need not be told."""
        if not self.is_open:
            return
        self.is_open = False
        for end, told in enumerate(self.on_cut):
            if told is not None and end != silent:
                self.world.after(self.world.rng.random() * self._latency_s, told)

    def vanish(self) -> None:
        """Lose everything from now on, and tell nobody, as a broken network does."""
        self.is_open = False
