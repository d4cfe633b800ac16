"""One serving process from outside: its start, its end, and what waits to be told to it."""

import asyncio
import contextlib
import logging
import random
import socket
import sys
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from cairn_core.errors import cause
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.messages import Messages, message

from .control import ASK, STATS, decode_stats
from .stats import Stats

log = logging.getLogger(__name__)

#: Bytes that wait for a serving process: above the first its sender waits, above the second it is
#: given up, and gets a whole table when it has taken what it is being sent.
ENOUGH_BYTES, TOO_MANY_BYTES = 1024 * 1024, 32 * 1024 * 1024
#: Delay before one that died is replaced, seconds.
BACKOFF_S = (0.1, 10.0)
#: How long one may take to end, seconds.
END_S = 3.0
#: One that reports nothing for so long hangs, and is replaced; at its start it may take longer.
HUNG_S, START_S, LATE_S = 4.0, 30.0, 1.0
#: How long one has to live for its next death not to count as a repeated one, seconds.
STEADY_S = 30.0


class Owner(Protocol):
    """Who has the worker."""

    def settings_for(self, sockets: Sequence[socket.socket]) -> bytes:
        """The message with the settings of a worker that has these sockets."""

    def hungry(self) -> None:
        """A worker needs a whole table."""

    def serves(self) -> None:
        """A worker answers."""

    def gave_up(self) -> None:
        """A worker was too slow."""

    def died(self, stats: Stats) -> None:
        """A worker has died; what it had counted."""


class _State(Enum):
    """What a worker knows: it does not run; it knows nothing, or too little; it is being given a
    whole table; it is in step."""

    DOWN, HUNGRY, FEEDING, FED = range(4)


class Worker:
    """One serving process, and what waits for it.

    Invariant: `_queue` begins at a message's start; while `FEEDING` it has parts of a whole table,
    and `_behind` the updates that came meanwhile; both are empty or stale before.
    """

    def __init__(self, sockets: Sequence[socket.socket], owner: Owner) -> None:
        self.stats = Stats()
        self.pid: int | None = None
        self.serves = False
        #: Bytes that wait, and whether they are few.
        self.waiting = 0
        #: Nobody waits for it any longer, until it has taken what it was sent.
        self.slow = False
        self.taken = asyncio.Event()
        self._sockets, self._owner = sockets, owner
        self._state = _State.DOWN
        self._queue: deque[bytes] = deque()
        self._behind: list[bytes] = []
        self._behind_bytes = 0
        self._sending = False
        self._more = asyncio.Event()
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        #: When we must have heard of it, in the loop's time.
        self._due = 0.0
        self._backoff = Backoff(*BACKOFF_S, random.Random())
        self.taken.set()

    # -- what it is told ---------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """An update."""
        if self._state is _State.FED:
            self._add(data)
        elif self._state is _State.FEEDING:
            self._behind.append(data)
            self._behind_bytes += len(data)
        if self.waiting + self._behind_bytes > TOO_MANY_BYTES:
            self._give_up()

    def begin(self) -> bool:
        """A whole table comes, if it needs one and has taken all that it was sent before."""
        if self._state is not _State.HUNGRY or self._sending:
            return False
        self._state = _State.FEEDING
        return True

    def put_whole(self, data: bytes) -> bool:
        """A part of a whole table; False when it does not get on with it."""
        if self._state is not _State.FEEDING:
            return False
        self._add(data)
        if self.waiting > TOO_MANY_BYTES:
            self._give_up()
        return self._state is _State.FEEDING

    def finish(self) -> None:
        """The whole table is whole."""
        if self._state is _State.FEEDING:
            behind = self._behind
            self._behind, self._behind_bytes = [], 0
            for data in behind:
                self._add(data)
            self._add(message(ASK))
            self._state = _State.FED

    def configure(self) -> None:
        """Other settings; these are never dropped."""
        if self._state is not _State.DOWN:
            self._add(self._owner.settings_for(self._sockets))

    def forget(self) -> None:
        """Let it have a whole table, when it has taken what it is being sent."""
        if self._state is _State.DOWN:
            return
        self._state = _State.HUNGRY
        self._clear()
        self.configure()
        self._owner.hungry()

    def _give_up(self) -> None:
        log.warning("serving process is too slow pid=%s waiting=%d", self.pid, self.waiting)
        self._owner.gave_up()
        self.forget()

    def _add(self, data: bytes) -> None:
        self._queue.append(data)
        self._count(len(data))
        self._more.set()

    def _clear(self) -> None:
        self._queue.clear()
        self._behind, self._behind_bytes = [], 0
        self._count(-self.waiting)

    def _count(self, change: int) -> None:
        self.waiting += change
        if self.waiting <= ENOUGH_BYTES:
            self.slow = False
            self.taken.set()
        else:
            self.taken.clear()

    # -- the process -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep it running."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                code = await self._live()
            except OSError as error:
                log.error("serving process cannot be started reason=%s", cause(error))
            else:
                log.error("serving process ended pid=%s code=%s", self.pid, code)
            self._died()
            if loop.time() - started > STEADY_S:
                self._backoff.reset()
            await asyncio.sleep(self._backoff.next())

    async def _live(self) -> int:
        """From its start to its end; its code."""
        ours, its = socket.socketpair()
        ours.setblocking(False)
        self._control = ours
        numbers = [its.fileno(), *(sock.fileno() for sock in self._sockets)]
        with its:
            self._process = process = await asyncio.create_subprocess_exec(
                # -P: no code of the directory that we happen to be in
                sys.executable, "-P", "-m", "cairn_dns.server", str(its.fileno()),
                stdin=asyncio.subprocess.DEVNULL, pass_fds=numbers,
            )  # fmt: skip
        self.pid = process.pid
        log.info("serving process started pid=%d", process.pid)
        self._state = _State.HUNGRY
        self.configure()
        self._owner.hungry()
        self._due = asyncio.get_running_loop().time() + START_S
        parts = (self._write(ours), self._read(ours), self._watch())
        talking = [asyncio.create_task(part) for part in parts]
        try:
            # it ends when it hears no more of us, so each of these is as good as its end
            await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in talking:
                task.cancel()
            await asyncio.gather(*talking, return_exceptions=True)
        return await self._close()

    async def _write(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                data = self._queue.popleft()
                self._count(-len(data))
                self._sending = True
                await loop.sock_sendall(control, data)
                self._sending = False
            if self._state is _State.HUNGRY:
                self._owner.hungry()

    async def _read(self, control: socket.socket) -> None:
        loop, messages = asyncio.get_running_loop(), Messages()
        while data := await loop.sock_recv(control, 65536):
            messages.feed(data)
            while found := messages.next():
                if found[0] == STATS:
                    self._due = loop.time() + HUNG_S
                    self.stats = decode_stats(found[1])
                    if self.stats.counts["updates"] and self._state is _State.FED:
                        self.serves = True
                        self._owner.serves()

    async def _watch(self) -> None:
        """Return, with the process killed, when it hangs."""
        loop = asyncio.get_running_loop()
        overdue = False
        while not overdue:
            due, late = self._due, loop.time() >= self._due
            # it may be us who are late: let what it sent be read
            await asyncio.sleep(LATE_S)
            overdue = late and due == self._due
        log.error("serving process hangs, killed pid=%s", self.pid)
        self.serves = False
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _died(self) -> None:
        self._owner.died(self.stats)
        self.stats, self.serves, self.pid = Stats(), False, None
        self._state, self._sending = _State.DOWN, False
        self._clear()

    async def _close(self) -> int:
        """Let it end; its code."""
        if self._control is not None:
            self._control.close()
        process = self._process
        if process is None:
            return 0
        try:
            async with asyncio.timeout(END_S):
                return await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return await process.wait()

    async def end(self) -> None:
        """End it for good."""
        self._state = _State.DOWN
        await self._close()
