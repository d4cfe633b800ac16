"""Goes from master to master until one serves what is asked for, the leader first.

What is asked of a master is the affair of the sources (`io_feed`, `io_stream`, `io_poll`); when
to try which master, how long to wait in between, and to leave at once when another master leads,
is decided here for all of them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random, SystemRandom
from typing import Any, Protocol

from cairn_core.errors import RemoteError, Unavailable, shorten
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.http_client import CannotConnect, HttpClient, StreamReply

from .io_access import MasterAccess
from .io_detect import Masters

log = logging.getLogger(__name__)

#: Delays between rounds over all masters, seconds.
RETRY_MIN_S = 0.25
RETRY_MAX_S = 10.0
#: A master that served us for so long is no trouble, seconds.
STEADY_S = 5.0
#: While another source than the best is followed, the best is looked for this often, seconds.
BETTER_S = 60.0


class Lacks(RemoteError):
    """The master answers, but does not serve this source, or not us."""


class Source(Protocol):
    """One way to learn about the cluster.

    heard_at: loop time of the last good message; None before the first.
    """

    @property
    def heard_at(self) -> float | None: ...

    async def visit(self, http: HttpClient, url: str) -> None:
        """Follow the master at a base URL as long as it goes.

        Raises Lacks, Unavailable, RemoteError.
        """
        ...


def check_status(reply: StreamReply, access: MasterAccess, lacking: Sequence[int] = ()) -> None:
    """Raise Lacks for the statuses in `lacking`, Unavailable for all others but 200."""
    if reply.status == 401:
        access.refused()
    if reply.status in lacking:
        raise Lacks(f"{reply.url} answers {reply.status}")
    if reply.status != 200:
        raise Unavailable(f"{reply.url} answers {reply.status}")


class Follower:
    """Keeps one source going at one master.

    sources: by name, the best first; what a master lacks is replaced by the next one there.
    better: whether the best of them is served by the master at a base URL; asked now and then
    while another one is followed there.
    """

    def __init__(
        self,
        masters: Masters,
        access: MasterAccess,
        sources: Sequence[tuple[str, Source]],
        *,
        better: Callable[[HttpClient, str], Awaitable[bool]] | None = None,
        timeout_s: float = 30.0,
        rng: Random | None = None,
    ) -> None:
        self._masters = masters
        self._access = access
        self._sources = sources
        self._better = better
        self._timeout_s = timeout_s
        self._backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, rng or SystemRandom())
        self._moved = asyncio.Event()
        self._told = ""
        masters.watch(self._moved.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop`."""
        stopping = asyncio.create_task(stop.wait(), name="follower-stop")
        following = asyncio.create_task(self._follow(), name="follower")
        try:
            await asyncio.wait({stopping, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            await _end(stopping, following)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        turn = 0
        async with self._access.client(total_s=self._timeout_s) as http:
            while True:
                places = self._masters.current
                if not places:
                    await self._moved.wait()
                    self._moved.clear()
                    continue
                place = places[turn % len(places)]
                began, heard = loop.time(), self._heard_at()
                reason = await self._while_it_leads(http, place)
                if reason is None:
                    log.info("another master leads leader=%s instead of=%s",
                             self._masters.leader, place)  # fmt: skip
                    turn = 0
                    continue
                self._tell(reason)
                if self._heard_at() != heard:
                    # It did serve us: that one again, unless the leader is known.
                    turn = 0 if self._masters.leader is not None else turn
                    if loop.time() - began > STEADY_S:
                        self._backoff.reset()
                else:
                    turn += 1
                    if turn % len(places):
                        continue
                await self._pause()
                if self._moved.is_set():
                    turn = 0

    async def _while_it_leads(self, http: HttpClient, place: str) -> str | None:
        """Why the visit ended; None because another master leads."""
        self._moved.clear()
        visit = asyncio.create_task(self._visit(http, place), name="follower-visit")
        moved = asyncio.create_task(self._another_leads(place), name="follower-moved")
        try:
            await asyncio.wait({visit, moved}, return_when=asyncio.FIRST_COMPLETED)
            return visit.result() if visit.done() else None
        finally:
            await _end(visit, moved)

    async def _another_leads(self, place: str) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            if self._masters.leader not in (None, place):
                return

    async def _visit(self, http: HttpClient, place: str) -> str:
        url = self._access.url(place)
        reason = ""
        for number, (name, source) in enumerate(self._sources):
            try:
                if number and self._better is not None:
                    return await self._visit_for_now(http, place, name, source)
                await source.visit(http, url)
                return f"{name} of {place} ended"
            except Lacks as error:
                reason = str(error)
                log.debug("no %s here reason=%s", name, reason)
            except CannotConnect as error:
                return f"no answer from {place}: {error.reason}"
            except (Unavailable, RemoteError) as error:
                return str(error)
        return reason

    async def _visit_for_now(self, http: HttpClient, place: str, name: str, source: Source) -> str:
        """Follow a source until it ends, or the best one is served here."""
        url = self._access.url(place)
        visit = asyncio.create_task(source.visit(http, url), name="follower-source")
        looking = asyncio.create_task(self._look_for_better(http, url), name="follower-better")
        try:
            await asyncio.wait({visit, looking}, return_when=asyncio.FIRST_COMPLETED)
            if not visit.done():
                looking.result()
                return f"{place} serves more than a {name}"
            visit.result()
            return f"{name} of {place} ended"
        finally:
            await _end(visit, looking)

    async def _look_for_better(self, http: HttpClient, url: str) -> None:
        assert self._better is not None
        while True:
            await asyncio.sleep(BETTER_S)
            if await self._better(http, url):
                return

    async def _pause(self) -> None:
        """Wait before the next attempt, but not for a new leader."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._backoff.next()):
                await self._moved.wait()

    def _heard_at(self) -> float:
        return max((source.heard_at or 0.0 for _, source in self._sources), default=0.0)

    def _tell(self, reason: str) -> None:
        """Log why a master was left; one that stays away is reported once."""
        again = reason == self._told
        self._told = reason
        log.log(
            logging.DEBUG if again else logging.WARNING, "master left reason=%s", shorten(reason)
        )


async def _end(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
