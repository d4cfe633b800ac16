"""The steering process from outside: its start, what it is told and tells, its end.

send(update) --> queue --> socket pair --> `io_steer_server`
whole()      --> when it starts, and when it was too slow
             <-- READY, Report, Answer
"""

import asyncio
import contextlib
import logging
import random
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from cairn_core.errors import Unavailable, cause
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.messages import Messages, message

from . import channel
from .channel import Answer, Question, Report, SteerSettings, Update
from .model import Service, Vip

log = logging.getLogger(__name__)

#: Bytes that wait for it; above, it is given a whole table when it has taken what it is being sent.
MAX_WAITING_BYTES = 32 * 1024 * 1024
#: Backends in one message, or one more service's: packets and signs of life have their turn between
#: them, 10,000 new backends take 0.1 s.
CHUNK_BACKENDS = 1000
#: Delay before one that died is replaced, seconds.
BACKOFF_S = (0.1, 5.0)
#: One that reports nothing for so long hangs, and is replaced, when also nothing comes in the time
#: that we may be late; it reports each half second at least, and at its start it may take longer.
HUNG_S, START_S, LATE_S = 1.75, 30.0, 0.25
#: How long one has to live for its next death not to count as a repeated one, seconds.
STEADY_S = 30.0
#: How long it may take to end, seconds; to answer a question.
END_S, ANSWER_S = 3.0, 2.0
_NOBODY = Vip("tcp", "0.0.0.0", 1)


class SteerProcess:
    """Keeps one steering process running and in step; all methods on the event loop's thread.

    Invariant: while a process runs, `_queue` together with what was sent gives it a table equal to
    `whole()`, or `_hungry` is set.
    """

    def __init__(
        self,
        settings: SteerSettings,
        on_report: Callable[[Report], None],
        whole: Callable[[], Update],
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        """whole: all services there are; asked for when a process starts. on_death: it is gone;
        another one will know nothing of what this one had counted."""
        self.deaths = 0
        self.overflows = 0
        self.pid: int | None = None
        self._settings, self._on_report = settings, on_report
        self._whole, self._on_death = whole, on_death
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._hungry = self._ending = False
        self._running = False
        self._more, self._ready, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._report_failed = False
        self._process: asyncio.subprocess.Process | None = None
        #: When we must have heard of it, in the loop's time.
        self._due = 0.0
        self._backoff = Backoff(*BACKOFF_S, random.Random())

    # -- what it is told ---------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a process has the queues, and serves what there was when it started."""
        return self._ready.is_set()

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait for that; False when it takes longer."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        return self.ready

    def send(self, update: Update) -> None:
        """Tell it of a change of what `whole` returns; nothing while none runs, as the next one
        asks for the whole."""
        if self._running and not self._hungry:
            for part in (update,) if update.whole else _chunks(update):
                self._put(message(channel.UPDATE, channel.encode(part)))
            if self._waiting > MAX_WAITING_BYTES:
                log.warning("steering process is too slow waiting=%d", self._waiting)
                self.overflows += 1
                self._clear()
                self._hungry = True
                self._more.set()

    async def settle(self, timeout_s: float = ANSWER_S) -> bool:
        """Wait until it acts upon all that was sent; False when it does not in time. True when
        none runs: then nobody acts upon anything older."""
        while self._running:
            try:
                await self.ask(_NOBODY, timeout_s=timeout_s)
            except Unavailable:
                return not self._running
            if not self._hungry:
                return True
        return True

    async def ask(
        self, vip: Vip, client: str = "", client_port: int = 0, *, timeout_s: float = ANSWER_S
    ) -> Answer:
        """Which backend a client would get, and why.  Raises Unavailable without an answer."""
        if not self._running:
            raise Unavailable("steering process does not run")
        self._number += 1
        number = self._number
        self._asked[number] = answered = asyncio.get_running_loop().create_future()
        question = Question(number, vip, client, client_port)
        self._put(message(channel.ASK, channel.encode(question)))
        try:
            return await asyncio.wait_for(answered, timeout_s)
        except TimeoutError:
            raise Unavailable(f"steering process does not answer within {timeout_s:g} s") from None
        finally:
            self._asked.pop(number, None)

    def configure(self, settings: SteerSettings) -> None:
        """Have it go on with other settings."""
        self._settings = settings
        if self._running:
            self._put(message(channel.SETTINGS, channel.encode(settings)))

    async def drain(self, timeout_s: float = END_S) -> None:
        """Let it decide on what waits in the queues, then end for good."""
        self._ending = True
        if self._running:
            self._put(message(channel.DRAIN))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout_s)
        self._kill()

    def _put(self, data: bytes) -> None:
        self._queue.append(data)
        self._waiting += len(data)
        self._more.set()

    def _clear(self) -> None:
        """Forget updates that wait, and what is said after all of them; settings, questions and
        the end are not forgotten."""
        kept = [one for one in self._queue if one[4:5] not in (channel.UPDATE, channel.READY)]
        self._queue = deque(kept)
        self._waiting = sum(len(one) for one in kept)

    def _feed(self) -> None:
        """All that a process needs to begin."""
        self._queue.clear()
        self._waiting = 0
        self._hungry = False
        self._put(message(channel.SETTINGS, channel.encode(self._settings)))
        for part in _chunks(self._whole()):
            self._put(message(channel.UPDATE, channel.encode(part)))
        self._put(message(channel.READY))

    # -- the process -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep one running, until `drain` or until cancelled.

        Raises what is no fault of the process: what the owner's functions raise, and
        ValueError for messages that make no sense.
        """
        loop = asyncio.get_running_loop()
        while not self._ending:
            started = loop.time()
            code: int | str
            try:
                code = await self._live()
            except OSError as error:
                code = cause(error)
            if self._ending:
                return
            log.error("steering process ended pid=%s code=%s", self.pid, code)
            self.deaths += 1
            if loop.time() - started > STEADY_S:
                self._backoff.reset()
            self.pid = None
            await asyncio.sleep(self._backoff.next())

    async def _live(self) -> int:
        """From its start to its end; its code."""
        ours, its = socket.socketpair()
        ours.setblocking(False)
        try:
            with its:
                self._process = process = await asyncio.create_subprocess_exec(
                    # -P: no code of the directory that we happen to be in
                    sys.executable, "-P", "-m", "cairn_l4lb.io_steer_server", str(its.fileno()),
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=(its.fileno(),),
                )  # fmt: skip
            self.pid = process.pid
            log.info("steering process started pid=%d", process.pid)
            self._running = True
            self._ended.clear()
            self._due = asyncio.get_running_loop().time() + START_S
            self._feed()
            parts = (self._write(ours), self._read(ours), self._watch())
            talking = [asyncio.create_task(part) for part in parts]
            try:
                # it ends when it hears no more of us, so each of these is as good as its end
                await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in talking:
                    task.cancel()
                ends = await asyncio.gather(*talking, return_exceptions=True)
            for end in ends:
                # a socket that is closed is its end; all else is a bug, and must not go on unseen
                if isinstance(end, Exception) and not isinstance(end, OSError):
                    raise end
        finally:
            ours.close()
            code = await self._close()
            self._gone()
        return code

    async def _write(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue or self._hungry:
                if not self._queue:
                    self._hungry = False
                    self._put(message(channel.UPDATE, channel.encode(self._whole())))
                    self._put(message(channel.READY))
                data = self._queue.popleft()
                self._waiting -= len(data)
                await loop.sock_sendall(control, data)

    async def _read(self, control: socket.socket) -> None:
        loop, messages = asyncio.get_running_loop(), Messages()
        while data := await loop.sock_recv(control, 65536):
            messages.feed(data)
            while found := messages.next():
                kind, content = found
                self._due = loop.time() + HUNG_S
                if kind == channel.REPORT:
                    self._report(channel.decode_report(content))
                elif kind == channel.ANSWER:
                    answer = channel.decode_answer(content)
                    waiting = self._asked.get(answer.number)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(answer)
                elif kind == channel.READY:
                    self._ready.set()

    def _report(self, report: Report) -> None:
        try:
            self._on_report(report)
        except Exception:
            # figures are not worth the steering process, and the next ones have the totals again
            if not self._report_failed:
                log.exception("report not taken, a bug")
            self._report_failed = True
        else:
            self._report_failed = False

    async def _watch(self) -> None:
        """Return, with the process killed, when it hangs."""
        loop = asyncio.get_running_loop()
        overdue = False
        while not overdue:
            due, late = self._due, loop.time() >= self._due
            # it may be us who are late: let what it sent be read
            await asyncio.sleep(LATE_S)
            overdue = late and due == self._due
        log.error("steering process hangs, killed pid=%s", self.pid)
        self._kill()

    def _gone(self) -> None:
        self._running = False
        self._ready.clear()
        self._ended.set()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("steering process ended"))
        self._queue.clear()
        self._waiting = 0
        self._on_death()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _close(self) -> int:
        """Let it end, as its socket is closed; its code."""
        process = self._process
        if process is None:
            return 0
        try:
            async with asyncio.timeout(END_S):
                return await process.wait()
        except TimeoutError:
            self._kill()
            return await process.wait()


def _chunks(update: Update) -> Iterator[Update]:
    """An update in parts; a whole table only for a process that has none, for what comes later is
    added."""
    part: list[Service] = []
    size = 0
    first = True
    for service in update.services:
        if size >= CHUNK_BACKENDS:
            yield replace(update, services=part) if first else Update(part)
            part, size, first = [], 0, False
        part.append(service)
        size += 1 + len(service.backends)
    yield replace(update, services=part) if first else Update(part)
