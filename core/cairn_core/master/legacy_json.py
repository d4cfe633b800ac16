"""The legacy JSON of frameworks, agents, tasks and offers, key by key as third parties read it.

Source: the original's `/state`, `/slaves`, `/frameworks` and `/tasks` (src/master/http.cpp,
src/common/http.cpp). Legacy names differ from v1: an agent is a slave, labels are bare lists, an
unset list is printed empty here and left out there. Each function takes a record and gives JSON
bytes; nothing here keeps state but the cache of rendered resources.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from cairn_core.master.state.records import (
    AgentRecord,
    ExecutorRecord,
    FrameworkRecord,
    KeptStatus,
    OfferRecord,
    TaskRecord,
)
from cairn_core.mesos import types
from cairn_core.mesos.types import TaskState
from cairn_core.resources import EMPTY, Resources, attributes_endpoint

_encode = msgspec.json.Encoder().encode
_EMPTY_LIST = Raw(b"[]")

#: The states that summaries count, in the order in which the original prints them.
COUNTED_STATES = (
    TaskState.STAGING, TaskState.STARTING, TaskState.RUNNING, TaskState.KILLING,
    TaskState.FINISHED, TaskState.KILLED, TaskState.FAILED, TaskState.LOST, TaskState.ERROR,
    TaskState.UNREACHABLE,
)  # fmt: skip


class _LabelsIn(Struct):
    labels: Raw = _EMPTY_LIST


class _TaskIn(Struct):
    """What `TaskRecord.static` holds, with all that is passed through left as it is."""

    labels: _LabelsIn | None = None
    user: str | None = None
    discovery: Raw | UnsetType = UNSET
    container: Raw | UnsetType = UNSET
    health_check: Raw | UnsetType = UNSET
    limits: Raw | UnsetType = UNSET


class _StatusIn(Struct):
    timestamp: float = 0.0
    healthy: bool | UnsetType = UNSET
    labels: _LabelsIn | None = None
    container_status: Raw | UnsetType = UNSET


class _StatusOut(Struct):
    state: str
    timestamp: float
    labels: Raw | UnsetType = UNSET
    container_status: Raw | UnsetType = UNSET
    healthy: bool | UnsetType = UNSET


class _TaskOut(Struct):
    id: str
    name: str
    framework_id: str
    executor_id: str
    slave_id: str
    state: str
    resources: Raw
    role: str
    statuses: list[_StatusOut]
    limits: Raw | UnsetType = UNSET
    user: str | UnsetType = UNSET
    labels: Raw | UnsetType = UNSET
    discovery: Raw | UnsetType = UNSET
    container: Raw | UnsetType = UNSET
    health_check: Raw | UnsetType = UNSET


_decode_task = msgspec.json.Decoder(_TaskIn).decode
_decode_status = msgspec.json.Decoder(_StatusIn).decode


@lru_cache(maxsize=4096)
def resources_json(resources: Resources) -> Raw:
    """Resources as legacy endpoints print them; few different ones exist, so they are kept."""
    return Raw(_encode(resources.endpoint()))


def task(record: TaskRecord) -> bytes:
    """A task with its statuses. Costs some 20 us: renders are cached by the read model."""
    static = _decode_task(record.static)
    return _encode(
        _TaskOut(
            id=record.task_id,
            name=record.name,
            framework_id=record.framework_id,
            executor_id=record.executor_id or "",
            slave_id=record.agent_id,
            state=record.state,
            resources=resources_json(record.resources),
            role=record.role,
            statuses=[_status(kept) for kept in record.statuses],
            limits=static.limits,
            user=static.user if static.user is not None else UNSET,
            labels=static.labels.labels if static.labels is not None else UNSET,
            discovery=static.discovery,
            container=static.container,
            health_check=static.health_check,
        )
    )


def _status(kept: KeptStatus) -> _StatusOut:
    status = _decode_status(kept.json)
    return _StatusOut(
        state=kept.state,
        timestamp=status.timestamp,
        labels=status.labels.labels if status.labels is not None else UNSET,
        container_status=status.container_status,
        healthy=status.healthy,
    )


def executor(record: ExecutorRecord) -> dict[str, Any]:
    """An executor of a framework, with its command spelled out."""
    info = msgspec.json.decode(record.info, type=types.ExecutorInfo)
    command = info.command or types.CommandInfo()
    variables = command.environment.variables if command.environment is not None else ()
    out: dict[str, Any] = {
        "executor_id": record.executor_id,
        "name": info.name or "",
        "framework_id": record.framework_id,
        "command": {
            "shell": command.shell,
            "value": command.value or "",
            "argv": list(command.arguments),
            "environment": {"variables": [_variable(variable) for variable in variables]},
            "uris": [
                {"value": uri.value, "executable": bool(uri.executable)} for uri in command.uris
            ],
        },
        "resources": resources_json(record.resources),
        "role": record.role,
        "source": info.source or "",
        "type": info.type or "CUSTOM",
        "slave_id": record.agent_id,
    }
    if info.labels is not None:
        out["labels"] = info.labels.labels
    return out


def _variable(variable: types.EnvironmentVariable) -> dict[str, Any]:
    # a secret's value never leaves through a read
    shown: dict[str, Any] = {"name": variable.name, "type": variable.type}
    if variable.type != "SECRET" and variable.value is not None:
        shown["value"] = variable.value
    return shown


def offer(record: OfferRecord) -> dict[str, Any]:
    """An outstanding offer."""
    return {
        "id": record.offer_id,
        "framework_id": record.framework_id,
        "allocation_info": {"role": record.role},
        "slave_id": record.agent_id,
        "resources": resources_json(record.resources),
    }


def offered(offers: Iterable[OfferRecord]) -> Resources:
    """Sum of what offers hold."""
    return Resources.sum(offer.resources for offer in offers)


def framework_used(framework: FrameworkRecord) -> Resources:
    """Sum of what tasks and executors of a framework hold."""
    parts = [record.resources for record in framework.tasks.values() if record.holds]
    parts += [record.resources for record in framework.executors.values()]
    return Resources.sum(parts)


def framework_summary(framework: FrameworkRecord, used: Resources) -> dict[str, Any]:
    """The part of a framework that `/state-summary` prints too. used: of its tasks."""
    info = framework.info
    return {
        "id": framework.framework_id,
        "name": info.name,
        "used_resources": resources_json(used),
        "offered_resources": resources_json(offered(framework.offers.values())),
        "capabilities": sorted(framework.capabilities),
        "hostname": info.hostname or "",
        "webui_url": info.webui_url or "",
        "active": framework.active,
        "connected": framework.connected,
        "recovered": framework.recovered,
    }


def framework_head(framework: FrameworkRecord, used: Resources) -> dict[str, Any]:
    """A framework without its tasks: the read model adds those as cached bytes."""
    info = framework.info
    offers = framework.offers.values()
    out = framework_summary(framework, used)
    out |= {
        "user": info.user,
        "failover_timeout": info.failover_timeout,
        "checkpoint": info.checkpoint,
        "registered_time": framework.registered_time,
        "unregistered_time": framework.unregistered_time or 0.0,
        "resources": resources_json(used + offered(offers)),
        "offers": [offer(record) for record in offers],
        "executors": [executor(record) for record in framework.executors.values()],
    }
    if framework.reregistered_time is not None:
        out["reregistered_time"] = framework.reregistered_time
    if info.principal is not None:
        out["principal"] = info.principal
    if framework.multi_role:
        out["roles"] = sorted(framework.roles)
    else:
        out["role"] = info.role or "*"
    if info.labels is not None:
        out["labels"] = info.labels.labels
    return out


def agent_used(agent: AgentRecord) -> Resources:
    """Sum of what frameworks use on an agent."""
    return Resources.sum(part for roles in agent.used.values() for part in roles.values())


def agent_summary(agent: AgentRecord) -> dict[str, Any]:
    """An agent as `/state` and `/state-summary` print it."""
    out: dict[str, Any] = {
        "id": agent.agent_id,
        "hostname": agent.hostname,
        "port": agent.port,
        "attributes": attributes_endpoint(agent.attributes),
        "pid": agent.pid,
        "registered_time": agent.registered_time,
        "resources": resources_json(agent.total),
        "used_resources": resources_json(agent_used(agent) if agent.used else EMPTY),
        "offered_resources": resources_json(
            offered(agent.offers.values()) if agent.offers else EMPTY
        ),
        "reserved_resources": {
            role: resources_json(part) for role, part in agent.total.reservations().items()
        },
        "unreserved_resources": resources_json(agent.total.unreserved()),
        "active": agent.active,
        "deactivated": agent.deactivated,
        "version": agent.version,
        "capabilities": sorted(agent.capabilities),
    }
    if agent.reregistered_time is not None:
        out["reregistered_time"] = agent.reregistered_time
    if agent.domain is not None:
        out["domain"] = agent.domain
    return out


def agent_full(agent: AgentRecord) -> dict[str, Any]:
    """An agent as `/slaves` prints it: with resources in full."""
    used = agent_used(agent)
    return agent_summary(agent) | {
        "reserved_resources_full": {
            role: part.to_endpoint_wire() for role, part in agent.total.reservations().items()
        },
        "unreserved_resources_full": agent.total.unreserved().to_endpoint_wire(),
        "used_resources_full": used.to_endpoint_wire(),
        "offered_resources_full": offered(agent.offers.values()).to_endpoint_wire(),
    }


def state_counts(counts: Counter[TaskState]) -> dict[str, int]:
    """The counters of a summary; every state is printed, also with 0."""
    return {str(state): counts[state] for state in COUNTED_STATES}
