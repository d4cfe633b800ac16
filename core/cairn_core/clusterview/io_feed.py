"""Follows the node feed of a master and hands on what changed.

Any master that serves the feed will do; masters are tried in turn, and a redirect to the leader
is followed.  A stream that contradicts itself is dropped and started from nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random, SystemRandom

from cairn_core.errors import RemoteError, Unavailable, shorten
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.feed import Digest, decode
from cairn_core.kit.http_client import CannotConnect, HttpClient
from cairn_core.kit.io_feed import FEED_PATH, HEARTBEAT_S

from .feed import Delta, FeedBroken, FeedReader

log = logging.getLogger(__name__)

#: Silence after which a stream is given up, seconds.
SILENCE_S = 3 * HEARTBEAT_S
#: Delays between attempts, seconds.
RETRY_MIN_S = 0.25
RETRY_MAX_S = 10.0


class NoFeed(RemoteError):
    """The master answers, but serves no feed: it is no master of Cairn."""


class FeedClient:
    """One subscription kept open.

    masters: base URLs, tried in turn. changed: called with each batch, in the event loop.
    """

    def __init__(
        self,
        masters: Sequence[str],
        changed: Callable[[Delta], None],
        *,
        rng: Random | None = None,
    ) -> None:
        self.reader = FeedReader()
        #: Loop time of the last message; None before the first.
        self.heard_at: float | None = None
        self._masters = [url.rstrip("/") for url in masters]
        self._changed = changed
        self._backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, rng or SystemRandom())

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop`.  Raises NoFeed when the first master that answers has none."""
        stopping = asyncio.create_task(stop.wait(), name="feed-stop")
        following = asyncio.create_task(self._follow(), name="feed-follow")
        try:
            await asyncio.wait({stopping, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (stopping, following):
                task.cancel()
            await asyncio.gather(stopping, following, return_exceptions=True)

    async def _follow(self) -> None:
        async with HttpClient() as http:
            turn = 0
            told = ""
            while True:
                master = self._masters[turn % len(self._masters)]
                try:
                    await self._one_stream(http, master)
                    reason = "stream ended"
                except NoFeed:
                    if self.heard_at is None:
                        raise
                    reason = f"{master} serves no feed"
                except FeedBroken as error:
                    self.reader.forget()
                    reason = str(error)
                except CannotConnect as error:
                    reason = f"no answer from {master}: {error.reason}"
                except (Unavailable, RemoteError) as error:
                    reason = str(error)
                turn += 1
                wait_s = self._backoff.next()
                # A master that stays away is reported once.
                again = reason == told and self._backoff.failures > 1
                level = logging.DEBUG if again else logging.WARNING
                told = reason
                log.log(level, "feed lost reason=%s retrying in %.1f s", shorten(reason), wait_s)
                await asyncio.sleep(wait_s)

    async def _one_stream(self, http: HttpClient, master: str) -> None:
        epoch, seq = self.reader.subscribe()
        url = f"{master}{FEED_PATH}?epoch={epoch}&seq={seq}"
        async with http.stream("GET", url, idle_s=SILENCE_S) as reply:
            if reply.status in (404, 405, 501):
                raise NoFeed(f"{master} serves no feed")
            if reply.status != 200:
                raise Unavailable(f"{master} answers {reply.status}")
            async for record in reply.records():
                message = decode(record)
                delta = self.reader.received(message)
                self.heard_at = asyncio.get_running_loop().time()
                if isinstance(message, Digest) and self._backoff.failures:
                    self._backoff.reset()
                    log.info(
                        "feed in step at=%s epoch=%d rows=%d",
                        master, self.reader.epoch, len(self.reader.values),
                    )  # fmt: skip
                if delta is not None:
                    self._changed(delta)
