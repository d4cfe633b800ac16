"""Follows the operator event stream of a master: the source for masters of Apache Mesos.

SUBSCRIBE at the leader gives a snapshot and then events.  Events in quick succession are handed on
together, since each batch makes a snapshot of the view.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from random import Random, SystemRandom

from cairn_core.errors import RemoteError, Unavailable, shorten
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.http_client import HttpClient, StreamReply
from cairn_core.mesos import codec
from cairn_core.mesos.feed_rows import Row
from cairn_core.mesos.operator_api import Event, Response
from cairn_core.mesos.types import MasterInfo

from .operator_events import OperatorTables

log = logging.getLogger(__name__)

OPERATOR_PATH = "/api/v1"
#: Events are collected this long, seconds.
COALESCE_S = 0.05
#: Silence after which a stream is given up: five of the original's heartbeats, seconds.
SILENCE_S = 75.0
RETRY_MIN_S = 0.25
RETRY_MAX_S = 15.0
_HEADERS = {"Content-Type": codec.JSON, "Accept": codec.JSON}


class NoStream(RemoteError):
    """The master answers, but will not have us as a subscriber."""


class OperatorStream:
    """One subscription kept open.

    masters: base URLs, tried in turn. whole: called with all rows after each subscription, and
    whether another master speaks than before. changed: called with changed rows.
    """

    def __init__(
        self,
        masters: Sequence[str],
        whole: Callable[[list[Row], bool], None],
        changed: Callable[[Mapping[str, Row | None]], None],
        *,
        rng: Random | None = None,
    ) -> None:
        #: Loop time of the last event; None before the first.
        self.heard_at: float | None = None
        self._masters = [url.rstrip("/") for url in masters]
        self._whole = whole
        self._changed = changed
        self._backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, rng or SystemRandom())
        self._tables = OperatorTables()
        self._master_id: str | None = None
        self._pending: dict[str, Row | None] = {}
        self._flushing: asyncio.TimerHandle | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop`.  Raises NoStream when the first master that answers refuses."""
        stopping = asyncio.create_task(stop.wait(), name="operator-stop")
        following = asyncio.create_task(self._follow(), name="operator-follow")
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
            while True:
                master = self._masters[turn % len(self._masters)]
                reason = "stream ended"
                try:
                    await self._one_stream(http, master)
                except NoStream as error:
                    if self.heard_at is None:
                        raise
                    reason = str(error)
                except (Unavailable, RemoteError) as error:
                    reason = str(error)
                finally:
                    self._drop_pending()
                turn += 1
                wait_s = self._backoff.next()
                log.warning(
                    "operator stream lost reason=%s retrying in %.1f s", shorten(reason), wait_s
                )
                await asyncio.sleep(wait_s)

    async def _one_stream(self, http: HttpClient, master: str) -> None:
        async with http.stream(
            "POST", master + OPERATOR_PATH, body=b'{"type":"SUBSCRIBE"}', headers=_HEADERS,
            idle_s=SILENCE_S,
        ) as reply:  # fmt: skip
            if reply.status in (400, 401, 403, 404, 405, 415, 501):
                raise NoStream(f"{master} refuses a subscription with status {reply.status}")
            if reply.status != 200:
                raise Unavailable(f"{master} answers {reply.status}")
            await self._read(http, reply)

    async def _read(self, http: HttpClient, reply: StreamReply) -> None:
        async for record in reply.records():
            event = codec.decode(Event, record)
            if event.type == "SUBSCRIBED":
                state = event.subscribed.get_state if event.subscribed is not None else None
                if state is None:
                    raise NoStream(f"{reply.url} sends no state")
                info = await self._leader(http, reply.url)
                another = self._master_id not in (None, info.id)
                self._master_id = info.id
                rows = self._tables.begin(state, info)
                self._backoff.reset()
                log.info("operator stream open at=%s rows=%d", reply.url, len(rows))
                self._whole(rows, another)
            else:
                self._collect(self._tables.event(event))
            self.heard_at = asyncio.get_running_loop().time()

    async def _leader(self, http: HttpClient, url: str) -> MasterInfo:
        """Who sends the stream, which it does not say itself."""
        reply = await http.request("POST", url, body=b'{"type":"GET_MASTER"}', headers=_HEADERS)
        answer = codec.decode(Response, reply.expect(200).body)
        if answer.get_master is None or answer.get_master.master_info is None:
            raise Unavailable(f"{url} does not say who it is")
        return answer.get_master.master_info

    def _collect(self, changed: Mapping[str, Row | None]) -> None:
        if not changed:
            return
        self._pending.update(changed)
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(COALESCE_S, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        pending, self._pending = self._pending, {}
        self._changed(pending)

    def _drop_pending(self) -> None:
        """What was collected is part of the next snapshot."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._pending = {}
