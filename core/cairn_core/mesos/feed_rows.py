"""Rows of the node feed: what network daemons need to know of a cluster, and only that.

A row is a msgpack array under a key that tells its type:

    task/<framework id>/<task id>   TaskRow        framework/<id>   FrameworkRow
    agent/<id>                      AgentRow       master/<id>      MasterRow
    vip/<label>.<framework>         VipRow

Fields are only ever added at the end, each with a default: readers and writers of different
versions then understand each other.  The feed itself is in `cairn_core.kit.feed`.
"""

from collections.abc import Iterable
from typing import TypeAlias

import msgspec
from msgspec import Struct

from cairn_core.errors import RemoteError, shorten
from cairn_core.mesos.types import DiscoveryInfo, Label, Task, TaskState, TaskStatus

TASK, AGENT, FRAMEWORK, MASTER, VIP = "task/", "agent/", "framework/", "master/", "vip/"

#: Labels of a status in which containerizers tell an address, by the name DNS knows the source.
ADDRESS_LABELS = {
    "docker": "Docker.NetworkSettings.IPAddress",
    "mesos": "MesosContainerizer.NetworkSettings.IPAddress",
}


class _Row(Struct, frozen=True, array_like=True, gc=False):
    """A row; comparing two rows tells whether a reader has to do anything."""


class PortRow(_Row, frozen=True):
    """A port of the task's discovery information; `labels` as (key, value), VIPs among them."""

    number: int
    name: str = ""
    protocol: str = ""
    labels: tuple[tuple[str, str], ...] = ()


class NetworkRow(_Row, frozen=True):
    """A network that the container is on.

    name: empty for the host's network. addresses: texts, IPv4 or IPv6, not checked.
    port_mappings: (host port, container port, protocol).
    """

    name: str = ""
    addresses: tuple[str, ...] = ()
    port_mappings: tuple[tuple[int, int, str], ...] = ()


class TaskRow(_Row, frozen=True):
    """A live task.

    networks: of the newest running status; empty while it never ran.
    label_addresses: (source, address) of `ADDRESS_LABELS` in the same status.
    ports: inclusive ranges of the `ports` resource.
    discovery_name: None without discovery information; a name, possibly empty, with it.
    healthy: None where nobody checks, or nobody has yet.
    vip_labels: the task's own labels whose key begins with `vip`, in any case.
    docker_ports: (host port, container port, protocol) that the Docker containerizer maps.
    health_checked: whether the executor was asked to check.
    """

    id: str
    name: str
    framework_id: str
    agent_id: str
    state: str
    networks: tuple[NetworkRow, ...] = ()
    label_addresses: tuple[tuple[str, str], ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    discovery_name: str | None = None
    discovery_ports: tuple[PortRow, ...] = ()
    healthy: bool | None = None
    vip_labels: tuple[tuple[str, str], ...] = ()
    docker_ports: tuple[tuple[int, int, str], ...] = ()
    health_checked: bool = False

    @property
    def key(self) -> str:
        """The row's key in the feed."""
        return f"{TASK}{self.framework_id}/{self.id}"


class AgentRow(_Row, frozen=True):
    """An agent of the registry.

    ip, port: where it listens. recovering: awaited after a change of masters, so that what is
    known of its tasks may still be true; such a row has no tasks in the feed.
    """

    id: str
    hostname: str
    ip: str = ""
    port: int = 5051
    active: bool = True
    recovering: bool = False
    region: str = ""
    zone: str = ""

    @property
    def key(self) -> str:
        """The row's key in the feed."""
        return f"{AGENT}{self.id}"


class FrameworkRow(_Row, frozen=True):
    """A framework; `pid` is empty for those that speak HTTP."""

    id: str
    name: str
    hostname: str = ""
    pid: str = ""
    active: bool = True

    @property
    def key(self) -> str:
        """The row's key in the feed."""
        return f"{FRAMEWORK}{self.id}"


class MasterRow(_Row, frozen=True):
    """A master; exactly one leads while there is a feed."""

    id: str
    hostname: str
    ip: str
    port: int = 5050
    leads: bool = False

    @property
    def key(self) -> str:
        """The row's key in the feed."""
        return f"{MASTER}{self.id}"


class VipRow(_Row, frozen=True):
    """The addresses of a named VIP, given once and recorded by the master.

    name: `<label>.<framework>`, normalised (`cairn_core.vips.names`).
    """

    name: str
    ipv4: str
    ipv6: str = ""

    @property
    def key(self) -> str:
        """The row's key in the feed."""
        return f"{VIP}{self.name}"


Row: TypeAlias = TaskRow | AgentRow | FrameworkRow | MasterRow | VipRow

_KINDS: dict[str, type[Row]] = {
    TASK: TaskRow,
    AGENT: AgentRow,
    FRAMEWORK: FrameworkRow,
    MASTER: MasterRow,
    VIP: VipRow,
}
_encoder = msgspec.msgpack.Encoder()
_decoders = {prefix: msgspec.msgpack.Decoder(kind) for prefix, kind in _KINDS.items()}


class BadRow(RemoteError):
    """A value of the feed is not what its key says."""


def encode_row(row: Row) -> bytes:
    """The value of a row in the feed."""
    return _encoder.encode(row)


def decode_row(key: str, value: bytes) -> Row | None:
    """The row of a value; None for a kind that this version does not know.  Raises BadRow."""
    decoder = _decoders.get(key.partition("/")[0] + "/")
    if decoder is None:
        return None
    try:
        return decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRow(f"row {shorten(key, 80)}: {shorten(str(error))}") from None


def newest_running(statuses: tuple[TaskStatus, ...]) -> TaskStatus | None:
    """The running status with the greatest timestamp; of equal ones the first."""
    running = [status for status in statuses if status.state is TaskState.RUNNING]
    return max(running, key=lambda status: status.timestamp or 0.0, default=None)


def task_row(task: Task) -> TaskRow:
    """The row of a v1 task.  Addresses come from its newest running status."""
    status = newest_running(task.statuses)
    container = status.container_status if status is not None else None
    labels = status.labels.labels if status is not None and status.labels is not None else ()
    discovery = task.discovery
    docker = task.container.docker if task.container is not None else None
    return TaskRow(
        id=task.task_id.value,
        name=task.name,
        framework_id=task.framework_id.value,
        agent_id=task.agent_id.value,
        state=task.state.value,
        networks=tuple(
            NetworkRow(
                info.name or "",
                tuple(one.ip_address for one in info.ip_addresses if one.ip_address),
                tuple(
                    (m.host_port, m.container_port, m.protocol or "") for m in info.port_mappings
                ),
            )
            for info in (container.network_infos if container is not None else ())
        ),
        label_addresses=tuple(
            (source, label.value)
            for source, key in ADDRESS_LABELS.items()
            for label in labels
            if label.key == key and label.value
        ),
        ports=tuple(
            (span.begin, span.end)
            for resource in task.resources
            if resource.name == "ports" and resource.ranges is not None
            for span in resource.ranges.range
        ),
        discovery_name=(discovery.name or "") if discovery is not None else None,
        discovery_ports=discovery_ports(discovery),
        healthy=status.healthy if status is not None else None,
        vip_labels=vip_labels(task.labels.labels if task.labels is not None else ()),
        docker_ports=tuple(
            (m.host_port, m.container_port, m.protocol or "")
            for m in (docker.port_mappings if docker is not None else ())
        ),
        health_checked=task.health_check is not None,
    )


def vip_labels(labels: Iterable[Label]) -> tuple[tuple[str, str], ...]:
    """`TaskRow.vip_labels` of all labels of a task."""
    return tuple(
        (label.key, label.value or "") for label in labels if label.key[:3].lower() == "vip"
    )


def discovery_ports(discovery: DiscoveryInfo | None) -> tuple[PortRow, ...]:
    """`TaskRow.discovery_ports` of a task's discovery information."""
    if discovery is None or discovery.ports is None:
        return ()
    return tuple(
        PortRow(
            port.number,
            port.name or "",
            port.protocol or "",
            tuple((x.key, x.value or "") for x in (port.labels.labels if port.labels else ())),
        )
        for port in discovery.ports.ports
    )
