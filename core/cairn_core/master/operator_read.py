"""Bodies of the operator API's reads, in pieces of JSON made straight from the records.

Source: `master.proto`, messages `GetState`, `GetTasks`, `GetAgents`, `GetFrameworks`,
`GetExecutors`. The records keep most of the JSON ready; only what changes is encoded here. A piece
is one record: between two pieces the tables may change.
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


def separated(objects: Iterable[bytes]) -> Iterator[bytes]:
    """JSON objects with commas before all but the first."""
    first = True
    for one in objects:
        yield one if first else b"," + one
        first = False


def tasks(cluster: Cluster) -> Iterator[bytes]:
    """`GetTasks`."""
    yield b'{"tasks":['
    yield from separated(
        task(record)
        for framework in list(cluster.frameworks.values())
        for record in list(framework.tasks.values())
    )
    yield b'],"unreachable_tasks":['
    yield from unreachable_tasks(cluster)
    yield b'],"completed_tasks":['
    yield from completed_tasks(cluster)
    yield b"]}"


def unreachable_tasks(cluster: Cluster) -> Iterator[bytes]:
    """Tasks on unreachable agents."""
    return separated(
        task(record)
        for framework in list(cluster.frameworks.values())
        for record in list(framework.unreachable_tasks.values())
    )


def completed_tasks(cluster: Cluster) -> Iterator[bytes]:
    """Tasks that ended, also those of completed frameworks."""
    known = (*cluster.frameworks.values(), *cluster.completed_frameworks.values())
    return separated(
        task(record) for framework in known for record in list(framework.completed_tasks)
    )


def executors(cluster: Cluster) -> Iterator[bytes]:
    """`GetExecutors`."""
    yield b'{"executors":['
    yield from separated(
        b'{"executor_info":%s,"agent_id":%s}' % (record.info, _encode({"value": record.agent_id}))
        for framework in list(cluster.frameworks.values())
        for record in list(framework.executors.values())
    )
    yield b"]}"


def frameworks(cluster: Cluster) -> Iterator[bytes]:
    """`GetFrameworks`."""
    yield b'{"frameworks":['
    live = list(cluster.frameworks.values())
    yield from separated(framework_json(cluster, record) for record in live)
    yield b'],"completed_frameworks":['
    yield from completed_frameworks(cluster)
    yield b"]}"


def completed_frameworks(cluster: Cluster) -> Iterator[bytes]:
    """Frameworks that ended."""
    ended = list(cluster.completed_frameworks.values())
    return separated(framework_json(cluster, record) for record in ended)


def framework_json(cluster: Cluster, record: FrameworkRecord) -> bytes:
    """A `GetFrameworks.Framework`, encoded."""
    return _encode(framework(cluster, record))


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
    yield from separated(agent_json(record) for record in list(cluster.agents.values()))
    yield b'],"recovered_agents":['
    yield from recovered_agents(cluster)
    yield b"]}"


def recovered_agents(cluster: Cluster) -> Iterator[bytes]:
    """Agents that are waited for after a change of masters."""
    return separated(known.info for known in list(cluster.recovered_agents.values()))


def agent_json(record: AgentRecord) -> bytes:
    """A `GetAgents.Agent`, encoded."""
    return _encode(agent(record))


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


def _time(seconds: float) -> TimeInfo:
    return TimeInfo(nanoseconds=int(seconds * 1e9))
