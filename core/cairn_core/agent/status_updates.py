"""Status updates that nobody has acknowledged yet: kept, repeated, in order, once each.

Per (framework, task) a queue; only its head is on the way. It is repeated 10 s after it was sent,
then after 20 s and so on to 10 min, until the acknowledgement with its uuid comes; then the next
one goes. Source: Apache Mesos `src/slave/task_status_update_manager.cpp`.

What is on disk is the caller's business: `record_update` and `record_ack` give the bytes to append
to a task's `task.updates`, `replay` reads them back.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from cairn_core.mesos import recordio
from cairn_core.mesos.types import TaskState, TaskStatus

RETRY_MIN_S = 10.0
RETRY_MAX_S = 600.0
#: Updates of one task that may wait; a task that sends more is refused its update.
MAX_PENDING = 4096
MAX_REMEMBERED = 256
#: Records in a task's file from which it is written anew; health updates of years would fill it.
COMPACT_AFTER = 1024

Key: TypeAlias = tuple[str, str]


class UpdateRecord(msgspec.Struct, frozen=True, tag="UPDATE"):
    """An update was accepted."""

    status: TaskStatus


class AckRecord(msgspec.Struct, frozen=True, tag="ACK"):
    """The update with this uuid was acknowledged."""

    uuid: bytes


_records: msgspec.json.Decoder[UpdateRecord | AckRecord] = msgspec.json.Decoder(
    UpdateRecord | AckRecord
)


def record_update(status: TaskStatus) -> bytes:
    """The record to append before the update leaves."""
    return recordio.encode(msgspec.json.encode(UpdateRecord(status)))


def record_ack(uuid: bytes) -> bytes:
    """The record to append when the update was acknowledged."""
    return recordio.encode(msgspec.json.encode(AckRecord(uuid)))


def read_records(data: bytes) -> tuple[list[UpdateRecord | AckRecord], str | None]:
    """Records of a `task.updates` file, and what is wrong with it.

    A torn record at the end is what a crash leaves; it is ignored without a problem.
    """
    decoder = recordio.Decoder()
    found: list[UpdateRecord | AckRecord] = []
    try:
        for record in decoder.feed(data):
            found.append(_records.decode(record))
    except (recordio.RecordError, msgspec.MsgspecError) as error:
        return found, str(error)
    return found, None


def without_torn(data: bytes) -> bytes | None:
    """The file without the torn record at its end; None when it has none.

    It must be cut off before anything is appended, or what follows could never be read.
    """
    decoder = recordio.Decoder()
    try:
        whole = decoder.feed(data)
    except recordio.RecordError:
        return None
    return b"".join(map(recordio.encode, whole)) if decoder.pending else None


@dataclass(slots=True)
class Stream:
    """Updates of one task.

    Invariant: `pending[0]` is the one on the way; after a terminal update nothing is accepted.
    """

    pending: deque[TaskStatus] = field(default_factory=deque)
    #: The last that were acknowledged. An executor repeats only what the agent has not confirmed
    #: to it, so a short memory suffices to recognise it.
    acknowledged: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))
    #: Records in the file on disk, roughly: what `compacted` goes by.
    records: int = 0
    latest_state: TaskState = TaskState.STAGING
    #: When the head is repeated; None when it is not on the way.
    due: float | None = None
    wait_s: float = RETRY_MIN_S
    terminal: bool = False
    #: Of `acknowledged`, those that the disk refused.
    unwritten: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Forward:
    """Send this update to the master."""

    framework_id: str
    status: TaskStatus
    latest_state: TaskState


class UpdateStreams:
    """All streams of one agent.

    While paused (no master) nothing is forwarded; `resume` forwards every head again.
    """

    def __init__(self) -> None:
        self._streams: dict[Key, Stream] = {}
        self._paused = True

    def __len__(self) -> int:
        return len(self._streams)

    def pending(self) -> Iterator[tuple[Key, TaskStatus]]:
        """Every update that waits for its acknowledgement, in order per task."""
        for key, stream in self._streams.items():
            for status in stream.pending:
                yield key, status

    def head(self, framework_id: str, task_id: str) -> TaskStatus | None:
        """The update of this task that is on the way."""
        stream = self._streams.get((framework_id, task_id))
        return stream.pending[0] if stream is not None and stream.pending else None

    def knows(self, framework_id: str, task_id: str, uuid: bytes) -> bool:
        """Whether an update was accepted before."""
        stream = self._streams.get((framework_id, task_id))
        return stream is not None and self._knows(stream, uuid)

    @staticmethod
    def _knows(stream: Stream, uuid: bytes) -> bool:
        return uuid in stream.acknowledged or any(s.uuid == uuid for s in stream.pending)

    def is_open(self, framework_id: str, task_id: str) -> bool:
        """Whether another update may follow: none was terminal, and there is room."""
        stream = self._streams.get((framework_id, task_id))
        return stream is None or (not stream.terminal and len(stream.pending) < MAX_PENDING)

    def add(self, framework_id: str, status: TaskStatus, *, now: float) -> list[Forward]:
        """Accept an update with a uuid; the caller has asked `knows` and `is_open`."""
        assert status.uuid is not None
        key = (framework_id, status.task_id.value)
        stream = self._streams.setdefault(key, Stream())
        assert not self._knows(stream, status.uuid)
        self._take(stream, status)
        return self._forward(key, stream, now) if len(stream.pending) == 1 else []

    @staticmethod
    def _take(stream: Stream, status: TaskStatus) -> None:
        assert status.uuid is not None
        stream.pending.append(status)
        stream.records += 1
        if not stream.terminal:
            stream.latest_state = status.state
        stream.terminal = stream.terminal or status.state.is_terminal

    def acknowledge(
        self, framework_id: str, task_id: str, uuid: bytes, *, now: float
    ) -> tuple[TaskStatus | None, list[Forward]]:
        """The update that was acknowledged, and what goes next.

        None when the uuid is not that of the head: repeated or late, to be ignored.
        """
        key = (framework_id, task_id)
        stream = self._streams.get(key)
        if stream is None or not stream.pending or stream.pending[0].uuid != uuid:
            return None, []
        status = stream.pending.popleft()
        stream.acknowledged.append(uuid)
        stream.records += 1
        stream.due = None
        stream.wait_s = RETRY_MIN_S
        if stream.terminal and not stream.pending:
            del self._streams[key]
            return status, []
        return status, self._forward(key, stream, now)

    def compacted(
        self, framework_id: str, task_id: str, statuses: Iterable[TaskStatus]
    ) -> bytes | None:
        """A shorter file that says the same, once the present one has grown long.

        statuses: the newest of each state, in order, which is all that the history shows.
        """
        stream = self._streams.get((framework_id, task_id))
        if stream is None or stream.records < COMPACT_AFTER:
            return None
        waiting = {s.uuid for s in stream.pending}
        kept = [s for s in statuses if s.uuid is not None and s.uuid not in waiting]
        stream.records = 2 * len(kept) + len(stream.pending)
        return b"".join(
            [record_update(s) + record_ack(s.uuid) for s in kept if s.uuid is not None]
            + [record_update(s) for s in stream.pending]
        )

    def close(self, framework_id: str, task_id: str) -> None:
        """Nobody wants updates of this task any more."""
        self._streams.pop((framework_id, task_id), None)

    def close_framework(self, framework_id: str) -> None:
        """Nobody wants updates of this framework any more."""
        for key in [key for key in self._streams if key[0] == framework_id]:
            del self._streams[key]

    def pause(self) -> None:
        """The master is away."""
        self._paused = True
        for stream in self._streams.values():
            stream.due = None

    def resume(self, *, now: float) -> list[Forward]:
        """A master is there and knows what we run: every head goes out."""
        self._paused = False
        out: list[Forward] = []
        for key, stream in self._streams.items():
            stream.wait_s = RETRY_MIN_S
            out += self._forward(key, stream, now)
        return out

    def unwritten(self, framework_id: str, task_id: str) -> set[bytes]:
        """Updates that were acknowledged and, as `replay` found, are not on disk themselves."""
        stream = self._streams.get((framework_id, task_id))
        return set(stream.unwritten) if stream is not None else set()

    def next_deadline(self) -> float | None:
        """When `repeat` has something to do; monotonic seconds."""
        return min((s.due for s in self._streams.values() if s.due is not None), default=None)

    def repeat(self, *, now: float) -> list[Forward]:
        """Heads whose acknowledgement did not come in time."""
        out: list[Forward] = []
        for key, stream in self._streams.items():
            if stream.due is not None and stream.due <= now:
                stream.wait_s = min(stream.wait_s * 2, RETRY_MAX_S)
                out += self._forward(key, stream, now)
        return out

    def _forward(self, key: Key, stream: Stream, now: float) -> list[Forward]:
        if self._paused or not stream.pending:
            return []
        stream.due = now + stream.wait_s
        return [Forward(key[0], stream.pending[0], stream.latest_state)]

    def replay(
        self, framework_id: str, task_id: str, records: Iterable[UpdateRecord | AckRecord]
    ) -> list[TaskStatus]:
        """Rebuild a stream from disk; gives every update ever accepted, in order.

        The stream is left out when it is finished: terminal and all acknowledged.
        """
        stream = Stream()
        history: list[TaskStatus] = []
        for record in records:
            if isinstance(record, AckRecord):
                stream.acknowledged.append(record.uuid)
                stream.records += 1
                if all(s.uuid != record.uuid for s in history):
                    stream.unwritten.add(record.uuid)
                if any(s.uuid == record.uuid for s in stream.pending):
                    # They are acknowledged in order: where the disk refused an earlier
                    # acknowledgement, a later one says the same.
                    while stream.pending.popleft().uuid != record.uuid:
                        pass
            elif record.status.uuid in stream.unwritten:
                # Refused by the disk at first, it was written behind its acknowledgement.
                stream.unwritten.discard(record.status.uuid)
                history.append(record.status)
                stream.terminal = stream.terminal or record.status.state.is_terminal
            elif record.status.uuid and not self._knows(stream, record.status.uuid):
                self._take(stream, record.status)
                history.append(record.status)
        if history and not (stream.terminal and not stream.pending):
            self._streams[framework_id, task_id] = stream
        return history
