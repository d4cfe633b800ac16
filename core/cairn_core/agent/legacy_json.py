"""The legacy JSON of the agent, key by key as third parties read it.

Source: Apache Mesos `src/slave/http.cpp`, `src/common/http.cpp`; docs/endpoints/slave. An agent is
a slave here, labels are bare lists, resources are an object. Each function takes a record and
gives what msgspec encodes.
"""

from collections.abc import Iterable
from typing import Any

from cairn_core.agent.launching import used
from cairn_core.agent.records import ExecutorRecord, FrameworkRecord, TaskRecord
from cairn_core.mesos import types
from cairn_core.resources import Resources, attributes_endpoint


def task(record: TaskRecord, agent_id: str) -> dict[str, Any]:
    """A task with its statuses."""
    info = record.info
    out: dict[str, Any] = {
        "id": record.id,
        "name": info.name,
        "framework_id": record.framework_id,
        "executor_id": record.executor_id if info.executor is not None else "",
        "slave_id": agent_id,
        "state": record.state,
        "resources": Resources.from_wire(info.resources).endpoint(),
        "role": role_of(info.resources),
        "statuses": [status(s) for s in record.statuses],
    }
    optional = {
        "limits": {n: v.value for n, v in info.limits.items()} or None,
        "user": record.user,
        "labels": info.labels.labels if info.labels is not None else None,
        "discovery": info.discovery,
        "container": info.container,
        "health_check": info.health_check,
    }
    return out | {name: value for name, value in optional.items() if value is not None}


def status(value: types.TaskStatus) -> dict[str, Any]:
    """A status inside of a task; message, data and uuid are not shown there."""
    out: dict[str, Any] = {"state": value.state, "timestamp": value.timestamp}
    if value.labels is not None:
        out["labels"] = value.labels.labels
    if value.container_status is not None:
        out["container_status"] = {
            name: item
            for name, item in (
                ("container_id", value.container_status.container_id),
                ("network_infos", value.container_status.network_infos),
                ("cgroup_info", value.container_status.cgroup_info),
            )
            if item is not None
        }
    if value.healthy is not None:
        out["healthy"] = value.healthy
    return out


def role_of(resources: Iterable[types.Resource]) -> str:
    """The role that resources are allocated to; `*` when they do not say."""
    for resource in resources:
        if resource.allocation_info is not None and resource.allocation_info.role is not None:
            return resource.allocation_info.role
    return "*"


def executor(record: ExecutorRecord, agent_id: str, work_dir: str) -> dict[str, Any]:
    """An executor with its tasks and its sandbox."""
    held = [*record.info.resources, *(r for t in record.live for r in t.info.resources)]
    out: dict[str, Any] = {
        "id": record.id,
        "name": record.info.name or "",
        "source": record.info.source or "",
        "container": record.container_id,
        "directory": f"{work_dir}/{record.sandbox}",
        "resources": used([record]).endpoint(),
        "role": role_of(held),
        "tasks": [
            task(t, agent_id) for t in (*record.launched.values(), *record.terminated.values())
        ],
        "queued_tasks": [task(t, agent_id) for t in record.queued.values()],
        "completed_tasks": [task(t, agent_id) for t in record.completed],
    }
    if record.info.labels is not None:
        out["labels"] = record.info.labels.labels
    if record.info.type is not None:
        out["type"] = record.info.type
    return out


def framework(record: FrameworkRecord, agent_id: str, work_dir: str) -> dict[str, Any]:
    """A framework with its executors."""
    info = record.info
    out: dict[str, Any] = {
        "id": record.id,
        "name": info.name,
        "user": info.user,
        "failover_timeout": info.failover_timeout,
        "checkpoint": info.checkpoint,
        "hostname": info.hostname or "",
        "executors": [executor(e, agent_id, work_dir) for e in record.executors.values()],
        "completed_executors": [
            executor(e, agent_id, work_dir) for e in record.completed_executors
        ],
    }
    if info.principal is not None:
        out["principal"] = info.principal
    if any(c.type == "MULTI_ROLE" for c in info.capabilities):
        out["roles"] = list(info.roles)
    else:
        out["role"] = info.role or "*"
    return out


def resources(info: types.AgentInfo, executors: Iterable[ExecutorRecord]) -> dict[str, Any]:
    """Every view of the agent's resources that `/state` has."""
    total, allocated = Resources.from_wire(info.resources), used(executors)
    return {
        "resources": total.endpoint(),
        "reserved_resources": {r: x.endpoint() for r, x in total.reservations().items()},
        "unreserved_resources": total.unreserved().endpoint(),
        "reserved_resources_full": {
            r: x.to_endpoint_wire() for r, x in total.reservations().items()
        },
        "unreserved_resources_full": total.unreserved().to_endpoint_wire(),
        "reserved_resources_allocated": {
            r: x.endpoint() for r, x in allocated.reservations().items()
        },
        "unreserved_resources_allocated": allocated.unreserved().endpoint(),
        "attributes": attributes_endpoint(info.attributes),
    }


def monitored(record: ExecutorRecord) -> dict[str, Any]:
    """How `/containers` and `/monitor/statistics` name an executor."""
    return {
        "framework_id": record.framework_id,
        "executor_id": record.id,
        "executor_name": record.info.name or "",
        "source": record.info.source or "",
    }
