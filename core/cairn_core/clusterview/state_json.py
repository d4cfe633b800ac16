"""Rows from the `/state` of a master: the way to learn about a cluster of Apache Mesos.

Reads only the fields of docs and `src/master/http.cpp` that rows need and skips the rest, which
is most.  No I/O; `io_poll` asks the master.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

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
from cairn_core.mesos.types import ContainerStatus, DiscoveryInfo, DomainInfo

#: Ranges of ports of one task that are read; more is nothing a scheduler would do.
MAX_RANGES = 4096


class BadState(RemoteError):
    """The answer is no `/state`."""


class _Label(Struct):
    key: str = ""
    value: str | None = None


class _Status(Struct):
    state: str
    timestamp: float = -1.0
    labels: list[_Label] = []
    container_status: ContainerStatus | None = None
    healthy: bool | None = None


class _Task(Struct):
    id: str
    name: str
    slave_id: str
    state: str
    resources: dict[str, Any] = {}
    statuses: list[_Status] = []
    discovery: DiscoveryInfo | None = None


class _Framework(Struct):
    id: str
    name: str
    hostname: str | None = None
    pid: str | None = None
    active: bool = True
    tasks: list[_Task] = []


class _Slave(Struct):
    id: str
    hostname: str = ""
    pid: str | None = None
    port: int = 5051
    active: bool = True
    domain: DomainInfo | None = None


class _LeaderInfo(Struct):
    id: str = ""
    hostname: str = ""


class _State(Struct):
    id: str
    leader: str | None = None
    leader_info: _LeaderInfo | None = None
    hostname: str = ""
    slaves: list[_Slave] = []
    recovered_slaves: list[_Slave] = []
    frameworks: list[_Framework] = []


_decoder = msgspec.json.Decoder(_State, strict=False)


def read_state(body: bytes) -> tuple[str, list[Row]]:
    """The id of the master that speaks, and all rows.  Raises BadState."""
    try:
        state = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadState(f"state of a master: {shorten(str(error))}") from None
    return state.id, list(_rows(state))


def split_pid(pid: str) -> tuple[str, int]:
    """Address and port of a `name@address:port`; ("", 0) when it is none."""
    _, at, place = pid.rpartition("@")
    address, colon, port = place.rpartition(":")
    if not at or not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return "", 0
    return address.removeprefix("[").removesuffix("]"), int(port)


def parse_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges of a `[31000-31001, 31005-31005]`; what is no range is left out."""
    ranges = []
    for part in text.strip().removeprefix("[").removesuffix("]").split(",")[:MAX_RANGES]:
        first, _, last = (piece.strip() for piece in part.partition("-"))
        last = last or first
        if first.isascii() and first.isdigit() and last.isascii() and last.isdigit():
            ranges.append((int(first), int(last)))
    return tuple(ranges)


def _rows(state: _State) -> Iterator[Row]:
    if state.leader:
        ip, port = split_pid(state.leader)
        info = state.leader_info or _LeaderInfo(state.id, state.hostname)
        yield MasterRow(info.id or state.id, info.hostname, ip, port, leads=True)
    for slave in state.slaves:
        yield _agent(slave, recovering=False)
    for slave in state.recovered_slaves:
        yield _agent(slave, recovering=True)
    for framework in state.frameworks:
        yield FrameworkRow(
            framework.id, framework.name, framework.hostname or "", framework.pid or "",
            framework.active,
        )  # fmt: skip
        for task in framework.tasks:
            yield _task(framework.id, task)


def _agent(slave: _Slave, *, recovering: bool) -> AgentRow:
    ip, port = split_pid(slave.pid or "")
    domain = slave.domain.fault_domain if slave.domain is not None else None
    return AgentRow(
        slave.id, slave.hostname, ip, port or slave.port, slave.active, recovering,
        domain.region.name if domain is not None else "",
        domain.zone.name if domain is not None else "",
    )  # fmt: skip


def _task(framework_id: str, task: _Task) -> TaskRow:
    running = [status for status in task.statuses if status.state == "TASK_RUNNING"]
    status = max(running, key=lambda one: one.timestamp, default=None)
    container = status.container_status if status is not None else None
    ports = task.resources.get("ports")
    discovery = task.discovery
    return TaskRow(
        task.id,
        task.name,
        framework_id,
        task.slave_id,
        task.state,
        tuple(
            NetworkRow(
                info.name or "",
                tuple(one.ip_address for one in info.ip_addresses if one.ip_address),
                tuple(
                    (m.host_port, m.container_port, m.protocol or "") for m in info.port_mappings
                ),
            )
            for info in (container.network_infos if container is not None else ())
        ),
        tuple(
            (source, label.value)
            for source, key in ADDRESS_LABELS.items()
            for label in (status.labels if status is not None else ())
            if label.key == key and label.value
        ),
        parse_ranges(ports) if isinstance(ports, str) else (),
        (discovery.name or "") if discovery is not None else None,
        tuple(
            PortRow(
                port.number,
                port.name or "",
                port.protocol or "",
                tuple((x.key, x.value or "") for x in (port.labels.labels if port.labels else ())),
            )
            for port in (discovery.ports.ports if discovery and discovery.ports else ())
        ),
        status.healthy if status is not None else None,
    )
