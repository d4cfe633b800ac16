"""Follows the node feed of a master and hands on what changed.

Any master that serves the feed will do; a redirect to the leader is followed.  A stream that
contradicts itself is dropped and started from nothing; one that does not begin as a feed is none,
whatever its status says.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from cairn_core.errors import RemoteError, Unavailable
from cairn_core.kit.feed import BadMessage, Digest, decode
from cairn_core.kit.http_client import CannotConnect, HttpClient, StreamReply
from cairn_core.kit.io_feed import FEED_PATH, HEARTBEAT_S
from cairn_core.mesos.recordio import RecordError

from .feed import Delta, FeedBroken, FeedReader
from .io_access import MasterAccess
from .io_follow import Lacks, check_status

log = logging.getLogger(__name__)

#: Silence after which a stream is given up, seconds.
SILENCE_S = 3 * HEARTBEAT_S
#: Answers of masters that know no feed: those of Apache Mesos, and doors before them.
NO_FEED = (400, 403, 404, 405, 501)


class FeedSource:
    """The feed as a source; `changed` is called with each batch, in the event loop."""

    def __init__(self, access: MasterAccess, changed: Callable[[Delta], None]) -> None:
        self.reader = FeedReader()
        self.heard_at: float | None = None
        self._access = access
        self._changed = changed

    async def visit(self, http: HttpClient, url: str) -> None:
        """Follow one stream.  Raises Lacks, Unavailable, RemoteError."""
        epoch, seq = self.reader.subscribe()
        async with self._open(http, url, epoch, seq) as reply:
            try:
                await self._read(reply, url)
            except FeedBroken:
                self.reader.forget()
                raise

    async def serves(self, http: HttpClient, url: str) -> bool:
        """Whether a master serves the feed now: one message of it is enough."""
        try:
            async with self._open(http, url, 0, 0) as reply:
                decode(await anext(reply.records()))
        except (RemoteError, Unavailable, StopAsyncIteration):
            return False
        return True

    @contextlib.asynccontextmanager
    async def _open(
        self, http: HttpClient, url: str, epoch: int, seq: int
    ) -> AsyncIterator[StreamReply]:
        async with http.stream(
            "GET", f"{url}{FEED_PATH}?epoch={epoch}&seq={seq}",
            headers=await self._access.headers(), idle_s=SILENCE_S,
        ) as reply:  # fmt: skip
            check_status(reply, self._access, NO_FEED)
            yield reply

    async def _read(self, reply: StreamReply, url: str) -> None:
        in_step = begun = False
        problem = "nothing"
        try:
            async for record in reply.records():
                message = decode(record)
                begun = True
                delta = self.reader.received(message)
                self.heard_at = asyncio.get_running_loop().time()
                if isinstance(message, Digest) and not in_step:
                    in_step = True
                    log.info(
                        "feed in step at=%s epoch=%d rows=%d",
                        url, self.reader.epoch, len(self.reader.values),
                    )  # fmt: skip
                if delta is not None:
                    self._changed(delta)
        except (BadMessage, RecordError, CannotConnect) as error:
            if begun:
                raise
            problem = str(error)
        if not begun:
            raise Lacks(f"{url}: no feed, but {problem}")

    def forget(self) -> None:
        """Something else told about the cluster since: begin from nothing."""
        self.reader = FeedReader()
