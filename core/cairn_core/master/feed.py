"""The rows that the master publishes on the node feed, made of its records.

One row per live task, agent, framework, master and named VIP; see `cairn_core.mesos.feed_rows`.
"""

import logging
from typing import Protocol

import msgspec

from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import (
    AgentChanged,
    AgentForgotten,
    Change,
    Changed,
    FrameworkChanged,
    TaskChanged,
    VipChanged,
)
from cairn_core.master.state.records import (
    AgentRecord,
    FrameworkRecord,
    KnownAgent,
    TaskRecord,
)
from cairn_core.mesos import feed_rows, types
from cairn_core.mesos.containers import PortMapping
from cairn_core.mesos.feed_rows import (
    AgentRow,
    FrameworkRow,
    MasterRow,
    Row,
    TaskRow,
    VipRow,
    encode_row,
    task_row,
)
from cairn_core.mesos.types import MasterInfo, TaskState

log = logging.getLogger(__name__)


class FeedTable(Protocol):
    """What is published: `io_feed.FeedServer`."""

    def put(self, key: str, value: bytes) -> None:
        """Set a row."""

    def delete(self, key: str) -> None:
        """Remove a row."""


class FeedRows:
    """Keeps a feed in step with the tables."""

    def __init__(self, server: FeedTable) -> None:
        self._server = server

    def begin(self, cluster: Cluster, leader: MasterInfo) -> None:
        """Publish what is known when this master starts to lead."""
        self.put(master_row(leader))
        for known in cluster.recovered_agents.values():
            self.put(known_agent_row(known))
        for name in cluster.vips.addresses:
            if name not in cluster.vips.storing and (given := cluster.vips.addresses.of(name)):
                self.put(VipRow(name, *given))

    def put(self, row: Row) -> None:
        """Set one row; what is too large for the feed is left out of it, and logged."""
        try:
            self._server.put(row.key, encode_row(row))
        except ValueError as error:
            log.warning("row left out of the feed reason=%s", error)
            self._server.delete(row.key)

    def changed(self, effect: Changed) -> None:
        """Follow one change."""
        match effect:
            case TaskChanged(task, Change.REMOVED):
                self._server.delete(f"{feed_rows.TASK}{task.framework_id}/{task.task_id}")
            case TaskChanged(task):
                self.put(_task_row(task))
            case AgentChanged(AgentRecord(agent_id=agent_id), Change.REMOVED):
                self._server.delete(f"{feed_rows.AGENT}{agent_id}")
            case AgentForgotten(agent_id):
                self._server.delete(f"{feed_rows.AGENT}{agent_id}")
            case AgentChanged(agent):
                self.put(agent_row(agent))
            case FrameworkChanged(framework, Change.REMOVED):
                self._server.delete(f"{feed_rows.FRAMEWORK}{framework.framework_id}")
            case FrameworkChanged(framework):
                self.put(framework_row(framework))
            case VipChanged(name, _, Change.REMOVED):
                self._server.delete(f"{feed_rows.VIP}{name}")
            case VipChanged(name, given):
                self.put(VipRow(name, *given))
            case _:
                return


class _Docker(msgspec.Struct):
    port_mappings: tuple[PortMapping, ...] = ()


class _Container(msgspec.Struct):
    docker: _Docker | None = None


class _Static(msgspec.Struct):
    """What a row needs of `TaskRecord.static`: the rest is not decoded."""

    resources: tuple[types.Resource, ...] = ()
    labels: types.Labels | None = None
    discovery: types.DiscoveryInfo | None = None
    container: _Container | None = None
    health_check: msgspec.Raw = msgspec.Raw()


_decode_static = msgspec.json.Decoder(_Static).decode
_decode_status = msgspec.json.Decoder(types.TaskStatus).decode


def _task_row(task: TaskRecord) -> TaskRow:
    static = _decode_static(task.static)
    running = [kept.json for kept in task.statuses if kept.state is TaskState.RUNNING]
    shown = types.Task(
        task.name,
        types.TaskID(task.task_id),
        types.FrameworkID(task.framework_id),
        types.AgentID(task.agent_id),
        task.state,
        resources=static.resources,
        statuses=tuple(map(_decode_status, running)),
        labels=static.labels,
        discovery=static.discovery,
    )
    row = task_row(shown)
    docker = static.container.docker if static.container is not None else None
    if not static.health_check and (docker is None or not docker.port_mappings):
        return row
    return msgspec.structs.replace(
        row,
        docker_ports=tuple(
            (m.host_port, m.container_port, m.protocol or "")
            for m in (docker.port_mappings if docker is not None else ())
        ),
        health_checked=bool(static.health_check),
    )


def agent_row(agent: AgentRecord) -> AgentRow:
    """The row of a registered agent."""
    fault_domain = agent.domain.fault_domain if agent.domain is not None else None
    return AgentRow(
        agent.agent_id,
        agent.hostname,
        agent.ip,
        agent.port,
        agent.active,
        region=fault_domain.region.name if fault_domain is not None else "",
        zone=fault_domain.zone.name if fault_domain is not None else "",
    )


def known_agent_row(known: KnownAgent) -> AgentRow:
    """The row of an agent that is waited for after a change of masters."""
    return AgentRow(known.agent_id, known.hostname, active=False, recovering=True)


def framework_row(framework: FrameworkRecord) -> FrameworkRow:
    """The row of a framework."""
    info = framework.info
    return FrameworkRow(
        framework.framework_id, info.name, info.hostname or "", active=framework.active
    )


def master_row(info: MasterInfo) -> MasterRow:
    """The row of the leading master."""
    ip = info.address.ip if info.address is not None and info.address.ip else ""
    return MasterRow(info.id, info.hostname or "", ip, info.port, leads=True)
