"""Runs races: the exchanges with the servers of one question, as `race` says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol

from cairn_dns.wire import NOERROR

from .ask import rcode_of
from .message import Malformed, check
from .race import AFTERWARDS_S, Race, Servers, ServerState
from .routes import Server

log = logging.getLogger(__name__)

#: Servers that lost their race and are still listened to, in all.
MAX_AFTERWARDS = 256

#: (query, server, over TCP, seconds) -> reply; raises OSError, TimeoutError or EOFError.
Exchange = Callable[[bytes, Server, bool, float], Awaitable[bytes]]


class Observer(Protocol):
    """Who is told how servers do."""

    def answered(self, server: Server, tcp: bool, took_s: float) -> None:
        """A reply came, of whatever code."""

    def silent(self, server: Server, tcp: bool, reason: str) -> None:
        """None came."""


class Asker:
    """Asks servers; what it learns about them is in `servers`.

    server_s, total_s: how long one server, and all, are waited for.
    """

    def __init__(
        self,
        exchange: Exchange,
        servers: Servers,
        observer: Observer,
        rng: Random,
        *,
        server_s: float,
        total_s: float,
    ) -> None:
        self.servers = servers
        self._exchange = exchange
        self._observer = observer
        self._rng = rng
        self._server_s, self._total_s = server_s, total_s
        self._afterwards = 0

    async def ask(self, query: bytes, places: Sequence[Server], *, tcp: bool) -> bytes | None:
        """The answer of whoever answers first, an unwilling one when all are, or None."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        order = self.servers.order(places, now=now, rng=self._rng)
        race = Race(order, now, self._server_s, self._total_s)
        running: dict[asyncio.Task[bytes], tuple[ServerState, float]] = {}
        wake: asyncio.Future[None] = loop.create_future()

        def ended(task: asyncio.Task[bytes]) -> None:
            state, asked = running.pop(task)
            if task.cancelled():
                return
            at, error = loop.time(), task.exception()
            if error is None and not _makes_sense(task.result()):
                self._observer.silent(state.server, tcp, "Malformed")
                race.failed(state, at)
            elif error is None:
                self._observer.answered(state.server, tcp, at - asked)
                race.replied(state, task.result(), at)
            else:
                if not isinstance(error, OSError | TimeoutError | EOFError):
                    log.error("exchange failed because of a bug", exc_info=error)
                self._observer.silent(state.server, tcp, type(error).__name__)
                race.failed(state, at)
            if not wake.done():
                wake.set_result(None)

        try:
            while not race.over(now):
                for state in race.due(now):
                    exchange = self._exchange(query, state.server, tcp, self._server_s)
                    task = asyncio.ensure_future(exchange)
                    running[task] = (state, now)
                    task.add_done_callback(ended)
                wake = loop.create_future()
                timer = loop.call_at(race.wake_at(), _set, wake)
                await wake
                timer.cancel()
                now = loop.time()
        finally:
            if running:
                self._listen_on(race, running)
        return race.answer

    def _listen_on(
        self, race: Race, running: dict[asyncio.Task[bytes], tuple[ServerState, float]]
    ) -> None:
        """Learn how the losers do, within bounds."""
        known = race.winner is not None and self._afterwards + len(running) <= MAX_AFTERWARDS
        if not known:
            for task, (state, _) in list(running.items()):
                if race.winner is None:
                    self._observer.silent(state.server, False, "TimeoutError")
                    race.failed(state, race.started + self._total_s)
                task.cancel()
            return
        count = len(running)
        self._afterwards += count

        def give_up() -> None:
            self._afterwards -= count
            now = asyncio.get_running_loop().time()
            for task, (state, _) in list(running.items()):
                race.failed(state, now)
                task.cancel()

        asyncio.get_running_loop().call_later(AFTERWARDS_S, give_up)


def _makes_sense(reply: bytes) -> bool:
    """Whether the records of a reply can be told apart; a failure may come without its question."""
    try:
        if reply[4:6] == b"\0\1":
            check(reply)
    except Malformed:
        return False
    return reply[4:6] == b"\0\1" or rcode_of(reply) != NOERROR


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
