"""Follows the node feed of a master and hands on what changed.

Any master that serves the feed will do; a redirect to the leader is followed.  A stream that
contradicts itself is dropped and started from nothing.
"""

import asyncio
import logging
from collections.abc import Callable

from cairn_core.kit.feed import Digest, decode
from cairn_core.kit.http_client import HttpClient
from cairn_core.kit.io_feed import FEED_PATH, HEARTBEAT_S

from .feed import Delta, FeedBroken, FeedReader
from .io_access import MasterAccess
from .io_follow import check_status

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
        async with http.stream(
            "GET", f"{url}{FEED_PATH}?epoch={epoch}&seq={seq}",
            headers=await self._access.headers(), idle_s=SILENCE_S,
        ) as reply:  # fmt: skip
            check_status(reply, self._access, NO_FEED)
            in_step = False
            try:
                async for record in reply.records():
                    message = decode(record)
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
            except FeedBroken:
                self.reader.forget()
                raise

    def forget(self) -> None:
        """Something else told about the cluster since: begin from nothing."""
        self.reader = FeedReader()
