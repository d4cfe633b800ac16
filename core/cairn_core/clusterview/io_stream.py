"""Follows the operator event stream of a master: the source for masters of Apache Mesos.

SUBSCRIBE at the leader gives a snapshot and then events.  Events in quick succession are handed on
together.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from cairn_core.errors import Unavailable
from cairn_core.kit.http_client import HttpClient, StreamReply
from cairn_core.mesos import codec
from cairn_core.mesos.feed_rows import Row
from cairn_core.mesos.operator_api import Response
from cairn_core.mesos.recordio import Decoder, RecordError
from cairn_core.mesos.types import MasterInfo

from .io_access import MasterAccess
from .io_decode import MAX_BYTES, decode_told, pieces_of
from .io_follow import Lacks, check_status
from .operator_events import BadEvent, OperatorTables, master_row
from .state_json import BadState, Told
from .view import STEP_ROWS

log = logging.getLogger(__name__)

OPERATOR_PATH = "/api/v1"
#: Events are collected this long, seconds.
COALESCE_S = 0.05
#: Silence after which a stream is given up: five of the original's heartbeats, seconds.
SILENCE_S = 75.0
#: Answers of masters that will not have us as a subscriber.
NO_STREAM = (400, 403, 404, 405, 415, 501)
_HEADERS = {"Content-Type": codec.JSON, "Accept": codec.JSON}


class OperatorStream:
    """The event stream as a source.

    whole: awaited with the cluster after each subscription. changed: called with changed rows.
    """

    def __init__(
        self,
        access: MasterAccess,
        whole: Callable[[Told], Awaitable[None]],
        changed: Callable[[Mapping[str, Row | None]], None],
    ) -> None:
        self.heard_at: float | None = None
        self.tables = OperatorTables()
        self._access = access
        self._whole = whole
        self._changed = changed
        self._pending: dict[str, Row | None] = {}
        self._flushing: asyncio.TimerHandle | None = None

    async def visit(self, http: HttpClient, url: str) -> None:
        """Follow one stream.  Raises Lacks, Unavailable, RemoteError."""
        try:
            async with http.stream(
                "POST", url + OPERATOR_PATH, body=b'{"type":"SUBSCRIBE"}',
                headers=_HEADERS | await self._access.headers(), idle_s=SILENCE_S,
            ) as reply:  # fmt: skip
                check_status(reply, self._access, NO_STREAM)
                await self._read(http, url, reply)
        finally:
            self._drop_pending()

    async def _read(self, http: HttpClient, url: str, reply: StreamReply) -> None:
        subscribed = False
        try:
            async for record in _records(reply):
                if subscribed:
                    self.heard_at = asyncio.get_running_loop().time()
                    self._collect(self.tables.record(record))
                else:
                    await self._begin(http, url, record)
                    subscribed = True
        except RecordError as error:
            if subscribed:
                raise
            raise Lacks(f"{url}: no event stream, but {error}") from None
        if not subscribed:
            raise Lacks(f"{url}: an event stream without events")

    async def _begin(self, http: HttpClient, url: str, record: bytes) -> None:
        try:
            told = await decode_told("subscribed", pieces_of(record))
        except (BadEvent, BadState) as error:
            raise Lacks(f"{url}: {error}") from None
        info = await self._leader(http, url)
        told.master_id = info.id
        told.rows.insert(0, master_row(info))
        self.tables.begin((), told.skipped)
        for at in range(0, len(told.rows), STEP_ROWS):
            self.tables.add(told.rows[at : at + STEP_ROWS])
            await asyncio.sleep(0)
        log.info("operator stream open at=%s rows=%d", url, len(told.rows))
        self.heard_at = asyncio.get_running_loop().time()
        await self._whole(told)

    async def _leader(self, http: HttpClient, url: str) -> MasterInfo:
        """Who sends the stream, which it does not say itself."""
        headers = _HEADERS | await self._access.headers()
        reply = await http.request(
            "POST", url + OPERATOR_PATH, body=b'{"type":"GET_MASTER"}', headers=headers
        )
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


async def _records(reply: StreamReply) -> AsyncIterator[bytes]:
    """Records of a stream; an answer that is complete, but not its last record, has none."""
    decoder = Decoder(MAX_BYTES)
    async for piece in reply.chunks():
        for record in decoder.feed(piece):
            yield record
    if decoder.pending:
        raise RecordError("it ends inside a record")
