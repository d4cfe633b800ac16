"""The feed over HTTP: `GET /cairn/v1/feed?epoch=<n>&seq=<n>` answers a stream that never ends.

The answer is RecordIO of the messages that `feed` describes; both parameters are 0, or absent,
for a reader that has nothing.  Changes are collected for some milliseconds and go out together.
Each subscriber is given more only while little is queued for it: a slow one skips intermediate
values instead of filling memory, and one that takes nothing for a minute is cut off.
"""

import asyncio
import logging
from dataclasses import dataclass

from cairn_core.kit.feed import Backlog, FeedPublisher, encode
from cairn_core.kit.http_types import Answer, Refused, Request, Stream
from cairn_core.mesos import recordio

log = logging.getLogger(__name__)

FEED_PATH = "/cairn/v1/feed"
CONTENT_TYPE = "application/vnd.cairn.feed"
#: Changes are collected this long, seconds.
COALESCE_S = 0.03
#: A digest goes out at least this often, seconds; it is the heartbeat too.
HEARTBEAT_S = 15.0
#: A subscriber that has this much queued gets nothing more for now, bytes.
QUEUE_BYTES = 1024 * 1024
#: While somebody catches up, look this often whether there is room again, seconds.
CATCH_UP_S = 0.02
#: A subscriber that takes nothing for so long is cut off, seconds.
STUCK_S = 60.0
#: More subscribers get 503; one daemon per host subscribes, relays come before this.
MAX_SUBSCRIBERS = 10_000


@dataclass(slots=True, eq=False)
class _Subscriber:
    """One stream; `backlog` is None when it has everything up to `seq`."""

    stream: Stream
    epoch: int
    seq: int
    backlog: Backlog | None = None
    #: When something was last taken off its queue, or the queue was empty.
    moved_at: float = 0.0
    queued: int = 0


class FeedServer:
    """Serves the feed of one publisher; `answer` is the handler of the route.

    Call `changed` after `put` or `delete`, or use `put` and `delete` here, which do.
    """

    def __init__(self, publisher: FeedPublisher) -> None:
        self.publisher = publisher
        self._subscribers: set[_Subscriber] = set()
        self._changed = asyncio.Event()

    @property
    def subscribers(self) -> int:
        """Number of streams open now."""
        return len(self._subscribers)

    def put(self, key: str, value: bytes) -> None:
        """Set a row and have it sent."""
        if self.publisher.put(key, value):
            self.changed()

    def delete(self, key: str) -> None:
        """Remove a row and have that sent."""
        if self.publisher.delete(key):
            self.changed()

    def changed(self) -> None:
        """The publisher's table changed; cheap, may be called for every change."""
        self._changed.set()

    async def answer(self, request: Request) -> Answer:
        """Handler of the route; 400 for numbers that are none, 503 above MAX_SUBSCRIBERS."""
        epoch = request.integer("epoch", 0) or 0
        seq = request.integer("seq", 0) or 0
        if epoch < 0 or seq < 0:
            raise Refused(400, f"epoch {epoch} or seq {seq} is negative")
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise Refused(503, f"{MAX_SUBSCRIBERS} subscribers are enough")
        stream = Stream(CONTENT_TYPE, on_close=lambda _: self._subscribers.discard(subscriber))
        subscriber = _Subscriber(stream, epoch, seq, moved_at=_now())
        self._subscribers.add(subscriber)
        subscriber.backlog = self.publisher.frames_since(epoch, seq)
        stream.send(recordio.encode(encode(subscriber.backlog.hello)))
        self.changed()
        return stream

    async def run(self, stop: asyncio.Event) -> None:
        """The service that sends; streams are closed when it ends."""
        stopping = asyncio.create_task(stop.wait(), name="feed-stop")
        try:
            heartbeat_at = _now() + HEARTBEAT_S
            catching_up = False
            while not stop.is_set():
                await self._pause(stopping, heartbeat_at, catching_up)
                self._changed.clear()
                beat = _now() >= heartbeat_at
                if beat:
                    heartbeat_at = _now() + HEARTBEAT_S
                catching_up = self._send(beat)
        finally:
            stopping.cancel()
            for subscriber in list(self._subscribers):
                subscriber.stream.close()
            self._subscribers.clear()

    async def _pause(
        self, stopping: "asyncio.Task[bool]", heartbeat_at: float, catching_up: bool
    ) -> None:
        """Wait for a change and collect what follows it, or for the next heartbeat."""
        if catching_up:
            await asyncio.wait({stopping}, timeout=CATCH_UP_S)
            return
        changed = asyncio.create_task(self._changed.wait(), name="feed-changed")
        try:
            timeout = max(0.0, heartbeat_at - _now())
            await asyncio.wait(
                {stopping, changed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            changed.cancel()
        if self._changed.is_set():
            await asyncio.wait({stopping}, timeout=COALESCE_S)

    def _send(self, beat: bool) -> bool:
        """Give each subscriber what it can take; True when some did not get everything."""
        behind = False
        # Those that are at the same point get the very same bytes.
        shared: dict[tuple[int, int], list[bytes]] = {}
        digest = recordio.encode(self.publisher.digest())
        current = (self.publisher.epoch, self.publisher.seq)
        for one in list(self._subscribers):
            if self._is_stuck(one):
                one.stream.abort("slow subscriber")
                continue
            if one.backlog is None and (one.epoch, one.seq) != current:
                at = (one.epoch, one.seq)
                if at not in shared:
                    backlog = self.publisher.frames_since(*at)
                    if not backlog.hello.whole and len(backlog.frames) < 1000:
                        shared[at] = [recordio.encode(data) for data in backlog.messages()]
                if at in shared:
                    if one.stream.queued_bytes < QUEUE_BYTES:
                        for data in shared[at]:
                            one.stream.send(data)
                        one.epoch, one.seq = current
                    else:
                        behind = True
                    continue
                one.backlog = self.publisher.frames_since(*at)
                one.stream.send(recordio.encode(encode(one.backlog.hello)))
            if one.backlog is not None:
                behind |= not self._go_on(one, one.backlog)
            elif beat:
                one.stream.send(digest)
        return behind

    def _go_on(self, one: _Subscriber, backlog: Backlog) -> bool:
        """Send more of the backlog; True when all of it is sent."""
        messages = backlog.messages()
        while one.stream.queued_bytes < QUEUE_BYTES:
            data = next(messages, None)
            if data is None:
                one.epoch, one.seq, one.backlog = backlog.hello.epoch, backlog.hello.seq, None
                if (one.epoch, one.seq) != (self.publisher.epoch, self.publisher.seq):
                    self.changed()
                return True
            if not one.stream.send(recordio.encode(data)):
                return True
        return False

    def _is_stuck(self, one: _Subscriber) -> bool:
        queued = one.stream.queued_bytes
        if queued == 0 or queued < one.queued:
            one.moved_at = _now()
        one.queued = queued
        return _now() - one.moved_at > STUCK_S


def _now() -> float:
    return asyncio.get_running_loop().time()
