"""Bodies of the operator API's reads, in pieces of JSON made straight from the records.

Source: `master.proto`, messages `GetState`, `GetTasks`, `GetAgents`, `GetFrameworks`,
`GetExecutors`. The records keep most of the JSON ready; only what changes is encoded here.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from cairn_core.master.legacy_json import agent_used, framework_used, offered
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import AgentRecord, FrameworkRecord, OfferRecord, TaskRecord
from cairn_core.mesos.types import AllocationInfo, Capability, TimeInfo

_encode = msgspec.json.Encoder().encode


def state(cluster: Cluster) -> Iterator[bytes]:
    """`GetState`."""
    yield b'{"get_tasks":'
    yield from tasks(cluster)
    yield b',"get_executors":'
    yield from executors(cluster)
    yield b',"get_frameworks":'
    yield from frameworks(cluster)
    yield b',"get_agents":'
    yield from agents(cluster)
    yield b"}"


def task(record: TaskRecord) -> bytes:
    """A v1 `Task`."""
    parts = [record.static[:-1], b',"state":"', record.state.encode(), b'"']
    if record.statuses:
        parts += [b',"statuses":[', b",".join(kept.json for kept in record.statuses), b"]"]
    if record.status_update_state is not None:
        parts += [b',"status_update_state":"', record.status_update_state.encode(), b'"']
    if record.status_update_uuid is not None:
        parts += [b',"status_update_uuid":', _encode(record.status_update_uuid)]
    parts.append(b"}")
    return b"".join(parts)


def tasks(cluster: Cluster) -> Iterator[bytes]:
    """`GetTasks`."""
    live = cluster.frameworks.values()
    known = (*live, *cluster.completed_frameworks.values())
    yield b'{"tasks":['
    yield b",".join(task(t) for framework in live for t in framework.tasks.values())
    yield b'],"unreachable_tasks":['
    yield b",".join(task(t) for framework in live for t in framework.unreachable_tasks.values())
    yield b'],"completed_tasks":['
    yield b",".join(task(t) for framework in known for t in framework.completed_tasks)
    yield b"]}"


def executors(cluster: Cluster) -> Iterator[bytes]:
    """`GetExecutors`."""
    yield b'{"executors":['
    yield b",".join(
        b'{"executor_info":%s,"agent_id":%s}' % (record.info, _encode({"value": record.agent_id}))
        for framework in cluster.frameworks.values()
        for record in framework.executors.values()
    )
    yield b"]}"


def frameworks(cluster: Cluster) -> Iterator[bytes]:
    """`GetFrameworks`."""
    yield b'{"frameworks":['
    yield _joined(framework(cluster, f) for f in cluster.frameworks.values())
    yield b'],"completed_frameworks":['
    yield _joined(framework(cluster, f) for f in cluster.completed_frameworks.values())
    yield b"]}"


def framework(cluster: Cluster, record: FrameworkRecord) -> dict[str, Any]:
    """A `GetFrameworks.Framework`."""
    offers = record.offers.values()
    out: dict[str, Any] = {
        "framework_info": record.info,
        "active": record.active,
        "connected": record.connected,
        "recovered": record.recovered,
        "registered_time": _time(record.registered_time),
        "allocated_resources": framework_used(record).to_wire(),
        "offered_resources": offered(offers).to_wire(),
        "offers": [_offer(cluster, one) for one in offers],
    }
    if record.reregistered_time is not None:
        out["reregistered_time"] = _time(record.reregistered_time)
    if record.unregistered_time is not None:
        out["unregistered_time"] = _time(record.unregistered_time)
    return out


def _offer(cluster: Cluster, record: OfferRecord) -> dict[str, Any]:
    agent = cluster.agents.get(record.agent_id)
    return {
        "id": {"value": record.offer_id},
        "framework_id": {"value": record.framework_id},
        "agent_id": {"value": record.agent_id},
        "hostname": agent.hostname if agent is not None else "",
        "resources": record.resources.to_wire(allocation_role=record.role),
        "allocation_info": AllocationInfo(role=record.role),
    }


def agents(cluster: Cluster) -> Iterator[bytes]:
    """`GetAgents`."""
    yield b'{"agents":['
    yield _joined(agent(record) for record in cluster.agents.values())
    yield b'],"recovered_agents":['
    yield b",".join(known.info for known in cluster.recovered_agents.values())
    yield b"]}"


def agent(record: AgentRecord) -> dict[str, Any]:
    """A `GetAgents.Agent`."""
    out: dict[str, Any] = {
        "agent_info": msgspec.Raw(record.info),
        "active": record.active,
        "deactivated": record.deactivated,
        "version": record.version,
        "pid": record.pid,
        "registered_time": _time(record.registered_time),
        "total_resources": record.total.to_wire(),
        "allocated_resources": agent_used(record).to_wire(),
        "offered_resources": offered(record.offers.values()).to_wire(),
        "capabilities": [Capability(type=name) for name in sorted(record.capabilities)],
    }
    if record.reregistered_time is not None:
        out["reregistered_time"] = _time(record.reregistered_time)
    return out


def _joined(objects: Iterable[dict[str, Any]]) -> bytes:
    return b",".join(_encode(one) for one in objects)


def _time(seconds: float) -> TimeInfo:
    return TimeInfo(nanoseconds=int(seconds * 1e9))
