"""Rows from the `/state` of a master: the way to learn about a cluster of Apache Mesos.

Reads only the fields of docs and `src/master/http.cpp` that rows need and skips the rest, which
is most.  What makes no sense is left out and counted, and takes nothing else with it.  No I/O;
`io_poll` asks the master.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cairn_core.errors import RemoteError, shorten
from cairn_core.mesos.feed_rows import (
    ADDRESS_LABELS,
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    PortRow,
    Row,
    TaskRow,
)
from cairn_core.mesos.types import DomainInfo

from .lenient import Unreadable, decode_lenient
from .sound import MAX_PORT, sound

#: Ranges of ports of one task that are read; more is nothing a scheduler would do.
MAX_RANGES = 4096


class BadState(RemoteError):
    """The answer is no `/state` of a cluster."""


@dataclass(slots=True)
class Told:
    """A whole cluster as a master tells it.

    master_id: who speaks. leader: address and port of who leads; ("", 0) when unknown.
    led: whether the one who speaks leads. skipped: what made no sense, by kind.
    """

    master_id: str
    rows: list[Row]
    leader: tuple[str, int] = ("", 0)
    led: bool = True
    skipped: "Counter[str]" = field(default_factory=Counter)


class _Label(Struct, gc=False):
    key: str = ""
    value: str | None = None


class _Labels(Struct, gc=False):
    labels: list[_Label] = []


class _Address(Struct, gc=False):
    ip_address: str | None = None


class _PortMapping(Struct, gc=False):
    host_port: int
    container_port: int
    protocol: str | None = None


class _Network(Struct, gc=False):
    name: str | None = None
    ip_addresses: list[_Address] = []
    #: Of masters before 0.26.
    ip_address: str | None = None
    port_mappings: list[_PortMapping] = []


class _Container(Struct, gc=False):
    network_infos: list[_Network] = []


class _Status(Struct, gc=False):
    state: str
    timestamp: float = -1.0
    labels: list[_Label] = []
    container_status: _Container | None = None
    healthy: bool | None = None


class _Port(Struct, gc=False):
    number: int
    name: str | None = None
    protocol: str | None = None
    labels: _Labels | None = None


class _Ports(Struct, gc=False):
    ports: list[_Port] = []


class _Discovery(Struct, gc=False):
    name: str | None = None
    ports: _Ports | None = None


class _Resources(Struct, gc=False):
    #: A text of ranges; a master that says anything else has its reason.
    ports: Any = None


class _Docker(Struct, gc=False):
    port_mappings: list[_PortMapping] = []


class _TaskContainer(Struct, gc=False):
    docker: _Docker | None = None


class _Task(Struct, gc=False):
    id: str
    name: str
    slave_id: str
    state: str
    resources: _Resources | None = None
    statuses: list[_Status] = []
    discovery: _Discovery | None = None
    labels: list[_Label] = []
    container: _TaskContainer | None = None
    #: Whatever it is: that there is one is all that counts.
    health_check: Raw = Raw()


class _Framework(Struct, gc=False):
    id: str
    name: str
    hostname: str | None = None
    pid: str | None = None
    active: bool = True
    tasks: list[_Task] = []


class _Agent(Struct, gc=False):
    id: str
    hostname: str = ""
    pid: str | None = None
    port: int = 5051
    active: bool = True
    domain: DomainInfo | None = None


class _LeaderInfo(Struct, gc=False):
    id: str = ""
    hostname: str = ""
    pid: str = ""


class _State(Struct, gc=False):
    id: str
    # An answer that lacks one of the two is not the state of an empty cluster.
    slaves: list[_Agent]
    frameworks: list[_Framework]
    leader: str | None = None
    leader_info: _LeaderInfo | None = None
    hostname: str = ""
    pid: str = ""
    recovered_slaves: list[_Agent] = []


_decoder = msgspec.json.Decoder(_State, strict=False)


def read_state(body: bytes) -> Told:
    """What a `/state` tells.  Raises BadState, also for one that names no leader.

    Differs: the original fails with all of it where a part makes no sense, or ends.
    """
    skipped: Counter[str] = Counter()
    try:
        state = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        try:
            state = decode_lenient(_State, body, skipped)
        except Unreadable as error:
            raise BadState(f"state of a master: {shorten(error.problem)}") from None
    # Compat: a master that does not know who leads does not know the cluster either
    leader = _leader(state)
    if not leader[0]:
        raise BadState("state of a master: names no leader")
    return Told(
        state.id,
        [sound(row, skipped) for row in _rows(state, leader)],
        leader,
        state.leader == state.pid,
        skipped,
    )


def split_pid(pid: str) -> tuple[str, int]:
    """Address and port of a `name@address:port`; ("", 0) when it is none."""
    _, at, place = pid.rpartition("@")
    address, colon, port = place.rpartition(":")
    if not at or not colon or not address or not _is_port(port):
        return "", 0
    return address.removeprefix("[").removesuffix("]"), int(port)


def parse_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges of a `[31000-31001, 31005-31005]`; what is no range of ports is left out."""
    ranges = []
    for part in text.strip().removeprefix("[").removesuffix("]").split(",")[:MAX_RANGES]:
        first, _, last = (piece.strip() for piece in part.partition("-"))
        last = last or first
        if _is_port(first) and _is_port(last):
            ranges.append((int(first), int(last)))
    return tuple(ranges)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PORT


def _leader(state: _State) -> tuple[str, int]:
    """Address and port of the leader; the address may be a name where nothing better is told."""
    told = split_pid(state.leader or "")
    if told[0] and not _is_address(told[0]) and state.leader_info is not None:
        info = split_pid(state.leader_info.pid)
        if _is_address(info[0]):
            return info
    return told


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _rows(state: _State, leader: tuple[str, int]) -> Iterator[Row]:
    info = state.leader_info or _LeaderInfo(state.id, state.hostname)
    yield MasterRow(info.id or state.id, info.hostname, *leader, leads=True)
    for agent in state.slaves:
        yield _agent(agent, recovering=False)
    for agent in state.recovered_slaves:
        yield _agent(agent, recovering=True)
    for framework in state.frameworks:
        yield FrameworkRow(
            framework.id, framework.name, framework.hostname or "", framework.pid or "",
            framework.active,
        )  # fmt: skip
        for task in framework.tasks:
            yield _task(framework.id, task)


def _agent(agent: _Agent, *, recovering: bool) -> AgentRow:
    ip, port = split_pid(agent.pid or "")
    domain = agent.domain.fault_domain if agent.domain is not None else None
    return AgentRow(
        agent.id, agent.hostname, ip, port or agent.port, agent.active, recovering,
        domain.region.name if domain is not None else "",
        domain.zone.name if domain is not None else "",
    )  # fmt: skip


def _task(framework_id: str, task: _Task) -> TaskRow:
    running = [status for status in task.statuses if status.state == "TASK_RUNNING"]
    status = max(running, key=lambda one: one.timestamp, default=None)
    container = status.container_status if status is not None else None
    labels = status.labels if status is not None else ()
    ports = task.resources.ports if task.resources is not None else None
    discovery = task.discovery
    return TaskRow(
        task.id,
        task.name,
        framework_id,
        task.slave_id,
        task.state,
        tuple(map(_network, container.network_infos)) if container is not None else (),
        tuple(
            (source, label.value)
            for source, key in ADDRESS_LABELS.items()
            for label in labels
            if label.key == key and label.value
        ),
        parse_ranges(ports) if isinstance(ports, str) else (),
        (discovery.name or "") if discovery is not None else None,
        tuple(map(_port, discovery.ports.ports)) if discovery and discovery.ports else (),
        status.healthy if status is not None else None,
        tuple((x.key, x.value or "") for x in task.labels if x.key[:3].lower() == "vip"),
        tuple((m.host_port, m.container_port, m.protocol or "") for m in _docker_ports(task)),
        bytes(task.health_check) not in (b"", b"null"),
    )


def _docker_ports(task: _Task) -> list[_PortMapping]:
    docker = task.container.docker if task.container is not None else None
    return docker.port_mappings if docker is not None else []


def _network(info: _Network) -> NetworkRow:
    addresses = tuple(one.ip_address for one in info.ip_addresses if one.ip_address)
    if not info.ip_addresses and info.ip_address:
        addresses = (info.ip_address,)
    return NetworkRow(
        info.name or "",
        addresses,
        tuple((m.host_port, m.container_port, m.protocol or "") for m in info.port_mappings),
    )


def _port(port: _Port) -> PortRow:
    labels = port.labels.labels if port.labels is not None else ()
    return PortRow(
        port.number,
        port.name or "",
        port.protocol or "",
        tuple((x.key, x.value or "") for x in labels),
    )
