"""The operator event stream: `SUBSCRIBE` of the operator API.

Order as in the original: SUBSCRIBED with everything, a HEARTBEAT at once and every 15 s, then one
event a change. TASK_UPDATED only when state or health changed. A subscriber that does not read is
closed by the stream's own bound; above `MAX_SUBSCRIBERS` a new one gets 503.
"""

import asyncio
import logging

import msgspec

from cairn_core.kit.http_server import Refused, Stream
from cairn_core.master import operator_read
from cairn_core.master.http_context import MasterContext
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


class OperatorStreams:
    """All subscribers; every event is encoded once."""

    def __init__(self, master: MasterContext) -> None:
        self.master = master
        self._streams: set[Stream] = set()
        master.listen_changes(self.changed)

    def __len__(self) -> int:
        return len(self._streams)

    def subscribe(self) -> Stream:
        """A new stream that starts with everything as it is now."""
        if len(self._streams) >= MAX_SUBSCRIBERS:
            raise Refused(
                503, f"{MAX_SUBSCRIBERS} subscribers already", headers={"Retry-After": "15"}
            )
        stream = Stream(codec.JSON, on_close=lambda reason: self._streams.discard(stream))
        snapshot = b"".join(
            (
                b'{"type":"SUBSCRIBED","subscribed":{"get_state":',
                *operator_read.state(self.master.cluster),
                b',"heartbeat_interval_seconds":15.0}}',
            )
        )
        # a whole state may be larger than what a reader may leave lying
        stream.limit_bytes += len(snapshot) + 64
        stream.send(recordio.encode(snapshot))
        stream.send(recordio.encode(codec.encode(api.HEARTBEAT)))
        self._streams.add(stream)
        return stream

    def changed(self, effect: Changed) -> None:
        """Tell all subscribers about a change. Nothing is encoded when there are none."""
        if not self._streams:
            return
        body = self._event(effect)
        if body is not None:
            self._send(body)

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

    def _send(self, body: bytes) -> None:
        record = recordio.encode(body)
        for stream in list(self._streams):
            stream.send(record)

    async def heartbeats(self, stop: asyncio.Event) -> None:
        """A service: HEARTBEAT to everyone every 15 s; ends all streams at the end."""
        beat = codec.encode(api.HEARTBEAT)
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), HEARTBEAT_S)
            except TimeoutError:
                self._send(beat)
        for stream in list(self._streams):
            stream.close()
