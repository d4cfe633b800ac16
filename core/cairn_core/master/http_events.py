"""The operator event stream: `SUBSCRIBE` of the operator API.

Order as in the original: SUBSCRIBED with everything, a HEARTBEAT at once and every 15 s, then one
event a change. TASK_UPDATED only when state or health changed. A subscriber that does not read is
closed by the stream's own bound, or when it took nothing for a minute; above `MAX_SUBSCRIBERS` a
new one gets 503.
"""

import asyncio
import logging

import msgspec

from cairn_core.kit.http_server import Refused, Stream
from cairn_core.kit.http_types import MAX_QUEUED_BYTES
from cairn_core.master import operator_read
from cairn_core.master.http_context import MasterContext
from cairn_core.master.http_slices import in_blocks
from cairn_core.master.operator_snapshot import Snapshot
from cairn_core.master.state.effects import (
    AgentChanged,
    Change,
    Changed,
    FrameworkChanged,
    TaskChanged,
)
from cairn_core.mesos import codec, recordio
from cairn_core.mesos import operator_api as api
from cairn_core.mesos.types import AgentID

log = logging.getLogger(__name__)

#: The original drops the oldest subscriber instead, silently.
MAX_SUBSCRIBERS = 1000
HEARTBEAT_S = 15.0
#: A subscriber that takes nothing of what is queued for so many beats is cut off.
STUCK_BEATS = 4
_HEAD = b'{"type":"SUBSCRIBED","subscribed":{"get_state":'
_TAIL = b',"heartbeat_interval_seconds":15.0}}'
_BEAT = recordio.encode(codec.encode(api.HEARTBEAT))


class OperatorStreams:
    """All subscribers; every event is encoded once."""

    def __init__(self, master: MasterContext) -> None:
        self.master = master
        #: How much was taken up to the last beat, and for how many beats nothing was.
        self._streams: dict[Stream, tuple[int, int]] = {}
        self._joining: list[Stream] = []
        self._snapshots = asyncio.Lock()
        #: The snapshot that is being made, and events that it does not cover.
        self._snapshot: tuple[Snapshot, list[bytes]] | None = None
        master.listen_changes(self.changed)

    def __len__(self) -> int:
        return len(self._streams)

    async def subscribe(self) -> Stream:
        """A new stream that starts with everything as it is then. Those who come while a snapshot
        is made wait for the next one, and share it."""
        if len(self._streams) + len(self._joining) >= MAX_SUBSCRIBERS:
            raise Refused(
                503, f"{MAX_SUBSCRIBERS} subscribers already", headers={"Retry-After": "15"}
            )
        stream = Stream(codec.JSON, on_close=lambda reason: self._forget(stream))
        self._joining.append(stream)
        async with self._snapshots:
            if stream in self._joining:
                together, self._joining = self._joining, []
                try:
                    await self._begin(together)
                except BaseException:
                    for one in together:
                        one.abort("no snapshot")
                    raise
        return stream

    async def _begin(self, together: list[Stream]) -> None:
        """Send a snapshot on new streams, then what happened meanwhile, and take them in."""
        missed: list[bytes] = []
        snapshot = Snapshot(self.master.cluster)
        self._snapshot = (snapshot, missed)
        try:
            pieces = await in_blocks(snapshot.steps())
        finally:
            self._snapshot = None
        pieces = [_HEAD, *pieces, _TAIL]
        size = sum(map(len, pieces))
        if sum(map(len, missed)) > MAX_QUEUED_BYTES:
            raise Refused(503, "too much changed meanwhile", headers={"Retry-After": "15"})
        for stream in together:
            # a whole state may be larger than what a reader may leave lying
            stream.limit_bytes += size
            for data in (b"%d\n" % size, *pieces, _BEAT, *missed):
                stream.send(data)
            if not stream.closed:
                self._streams[stream] = (stream.sent_bytes, 0)

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream, None)
        if stream in self._joining:
            self._joining.remove(stream)

    def changed(self, effect: Changed) -> None:
        """Tell all subscribers about a change. Nothing is encoded when there are none."""
        if not self._streams and self._snapshot is None:
            return
        body = self._event(effect)
        if body is None:
            return
        record = recordio.encode(body)
        self._send(record)
        if self._snapshot is not None:
            snapshot, missed = self._snapshot
            if not snapshot.covers(effect):
                missed.append(record)

    def _event(self, effect: Changed) -> bytes | None:
        cluster = self.master.cluster
        match effect:
            case TaskChanged(task=task, change=Change.ADDED):
                return b'{"type":"TASK_ADDED","task_added":{"task":%s}}' % operator_read.task(task)
            case TaskChanged(task=task, change=Change.UPDATED, status=status) if status is not None:
                return msgspec.json.encode(
                    {
                        "type": "TASK_UPDATED",
                        "task_updated": {
                            "framework_id": {"value": task.framework_id},
                            "status": status,
                            "state": task.state,
                        },
                    }
                )
            case AgentChanged(agent=agent, change=Change.ADDED):
                body = operator_read.agent(agent)
                return msgspec.json.encode({"type": "AGENT_ADDED", "agent_added": {"agent": body}})
            case AgentChanged(agent=agent, change=Change.REMOVED):
                removed = api.AgentRemoved(agent_id=AgentID(agent.agent_id))
                return codec.encode(api.Event(type="AGENT_REMOVED", agent_removed=removed))
            case FrameworkChanged(framework=framework, change=Change.REMOVED):
                gone = api.FrameworkRemoved(framework_info=framework.info)
                return codec.encode(api.Event(type="FRAMEWORK_REMOVED", framework_removed=gone))
            case FrameworkChanged(framework=framework, change=change):
                name = f"FRAMEWORK_{change.name}"
                shown = {"framework": operator_read.framework(cluster, framework)}
                return msgspec.json.encode({"type": name, name.lower(): shown})
        return None

    def _send(self, record: bytes) -> None:
        for stream in list(self._streams):
            stream.send(record)

    async def heartbeats(self, stop: asyncio.Event) -> None:
        """A service: HEARTBEAT to everyone every 15 s; ends all streams at the end."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), HEARTBEAT_S)
            except TimeoutError:
                self._drop_stuck()
                self._send(_BEAT)
        for stream in list(self._streams):
            stream.close()

    def _drop_stuck(self) -> None:
        for stream, (sent, beats) in list(self._streams.items()):
            stuck = stream.queued_bytes > 0 and stream.sent_bytes == sent
            beats = beats + 1 if stuck else 0
            self._streams[stream] = (stream.sent_bytes, beats)
            if beats >= STUCK_BEATS:
                stream.abort("slow subscriber")
